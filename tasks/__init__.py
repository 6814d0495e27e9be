"""What a worker can be asked to do: plain functions with thin Celery shells."""
