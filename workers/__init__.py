"""The processes: the Celery app, its settings, and the composition of the runtime."""
