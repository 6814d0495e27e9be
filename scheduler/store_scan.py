"""A scan of the whole store that a gate waits for, however recent the last one is."""

from collections.abc import Callable

from ledger import campaigns
from ledger.campaigns import Request
from ledger.states import Kind, State
from scheduler.desk import UNREACHABLE, Desk, DeskError, operator
from scheduler.status import Status

UntilOver = Callable[[int], Status]
"""Waits for a campaign's end, and shows how far it is."""


def scan(desk: Desk, until_over: UntilOver, next_command: str) -> int:
    """Scan the whole store now, and wait for its end.

    Args:
        desk: the operator's desk.
        until_over: waits for a campaign's end.
        next_command: what to type again where the scan does not come to its end.

    Returns:
        The id of the inventory campaign that was the scan.

    Raises:
        DeskError: the scan did not come to its end.
    """
    request = Request(Kind.INVENTORY, operator(), store=desk.settings.keywrap.store.place)
    with desk.ledger.begin() as connection:
        campaign_id = campaigns.request(connection, request)
    end = until_over(campaign_id)
    if end.campaign.state is not State.COMPLETE:
        raise DeskError(
            f"the scan, campaign {campaign_id}, is {end.campaign.state}; nothing was changed",
            exit_code=UNREACHABLE,
            reason_code="scan_not_finished",
            next_command=next_command,
        )
    return campaign_id
