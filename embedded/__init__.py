"""A leaf: PostgreSQL, Redis and OpenBao from Python wheels, as child processes."""

from embedded.errors import EmbeddedError
from embedded.openbao import OpenBao
from embedded.postgres import Postgres
from embedded.redis import Redis

__all__ = ["EmbeddedError", "OpenBao", "Postgres", "Redis"]
