"""Dropping what a finished campaign has listed; what it came to stays in its shards."""

from sqlalchemy import Connection, text

from ledger import backups, history, partitions
from ledger.campaigns import Campaign, RequestRefusedError
from ledger.connection import LedgerBusyError, waiting_briefly
from ledger.states import KEEPING, Kind, State

_LOCK_TIMEOUT = "3s"


def drop_lists(connection: Connection, campaign: Campaign, *, leaves_previous: bool) -> None:
    """Drop the inventory and the outcomes of a campaign, which takes as long whatever they hold.

    Args:
        connection: the transaction.
        campaign: the campaign.
        leaves_previous: whether sidecars keep the wrap before the one it has made.

    Raises:
        RequestRefusedError: they are needed yet, or are gone, or the ledger is busy.
    """
    refuse_needed(connection, campaign, leaves_previous=leaves_previous)
    try:
        untouched = f"nothing of campaign {campaign.id} was dropped"
        with waiting_briefly(connection, _LOCK_TIMEOUT, untouched):
            for table in ("inventory", "outcome"):
                partitions.drop(connection, table, campaign.id)
    except LedgerBusyError as error:
        raise RequestRefusedError(
            error.reason_code, str(error), f"rewrap ledger drop {campaign.id}"
        ) from error
    connection.execute(
        text("UPDATE campaign SET lists_dropped_at = clock_timestamp() WHERE id = :id"),
        {"id": campaign.id},
    )


def refuse_needed(connection: Connection, campaign: Campaign, *, leaves_previous: bool) -> None:
    """Refuse to drop lists that somebody needs yet.

    Raises:
        RequestRefusedError: likewise, or they are gone.
    """
    here = campaign.id
    if campaign.lists_dropped_at is not None:
        raise _refused(
            campaign, "lists_dropped", "they were dropped before", f"rewrap status {here}"
        )
    if campaign.state is State.COMPLETE_WITH_EXCEPTIONS:
        why = "some of its blobs need a person, and the lists say which"
        raise _refused(
            campaign, "has_exceptions", why, f"rewrap blobs {here} --outcome quarantined"
        )
    if not campaign.is_finished:
        raise _refused(campaign, "not_finished", "it is not finished", f"rewrap status {here}")
    if backups.get(connection, here) is not None:
        why = "its inventory tells `retire` which keys its backup needs"
        raise _refused(campaign, "backup_on_record", why, "rewrap backup list")
    if campaign.kind in KEEPING and leaves_previous and not history.is_unwound(connection, here):
        why = "the old wraps that it has left are neither sealed nor undone"
        raise _refused(campaign, "not_sealed", why, f"rewrap seal {here}")
    newest = history.newest_inventory(connection, campaign.store, campaign.prefix)
    if campaign.kind is Kind.INVENTORY and newest == here:
        why = "it is the newest inventory, with which the next is compared"
        raise _refused(campaign, "newest_inventory", why, "rewrap inventory")


def _refused(
    campaign: Campaign, reason_code: str, why: str, next_command: str
) -> RequestRefusedError:
    return RequestRefusedError(
        reason_code, f"the lists of campaign {campaign.id} stay: {why}", next_command
    )
