"""The pre-deploy checklist: what `rewrap preflight` checks.

A room of checks is a function that yields `Check`s for a `Ground`. Another file adds its own by
a line in `ROOMS`.
"""

from collections.abc import Callable, Iterable, Iterator

from scheduler.checks import audit, backups, installation, keys, staging, store
from scheduler.checks.check import Check
from scheduler.checks.ground import Ground

ROOMS: tuple[Callable[[Ground], Iterable[Check]], ...] = (
    installation.checks,
    store.checks,
    keys.checks,
    audit.checks,
    staging.checks,
    backups.checks,
)
"""Every check, in the order in which they are made: what others need comes first."""


def all_checks(ground: Ground) -> Iterator[Check]:
    """Yield every check of an installation."""
    for room in ROOMS:
        yield from room(ground)
