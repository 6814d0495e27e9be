"""The documents of `rewrap policy`: one module for each vendor's form."""

from scheduler.policies.subject import Place, Subject

__all__ = ["Place", "Subject"]
