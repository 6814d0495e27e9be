"""A leaf: PostgreSQL, Redis and OpenBao from Python wheels, as child processes."""
