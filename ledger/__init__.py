"""What happened, and what is asked for, in Postgres: the only room that speaks SQL."""

HEAD = "0015"
"""The newest migration in `alembic/versions`, which is the schema that this code expects."""
