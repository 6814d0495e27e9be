"""What to type next where a KEK version cannot be retired yet."""

from collections.abc import Collection

from keywrap.keys import KeyVersion
from ledger import history
from scheduler.desk import Desk


def strip(desk: Desk, closed: Collection[KeyVersion]) -> str:
    """Return what strips the wraps beside the new ones that need a KEK version.

    Args:
        desk: the operator's desk.
        closed: the version, and those that close with it.
    """
    store = desk.settings.keywrap.store.place
    with desk.ledger.begin() as connection:
        left = history.moved_from(connection, sorted(closed, key=str), store)
    if left is None:  # its lists were dropped, or the ledger was lost
        return "rewrap seal CAMPAIGN --wait (that of the campaign that left them)"
    return f"rewrap seal {left.id} --wait"


def back_up(backup: int | None) -> str:
    """Return what makes and verifies a backup without a KEK version.

    Args:
        backup: the campaign that made one that nobody has verified lately; None: there is none.
    """
    make = "" if backup else "rewrap backup create --wait, then: "
    return f"{make}rewrap backup verify {backup or 'CAMPAIGN'} --identity FILE"
