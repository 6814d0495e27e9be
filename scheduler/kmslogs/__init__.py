"""What key services wrote into their own audit logs: each use of a key, whoever asked for it."""

from scheduler.kmslogs.entries import LogError, Logged, LoggedUse, Operation
from scheduler.kmslogs.reading import read

__all__ = ["LogError", "Logged", "LoggedUse", "Operation", "read"]
