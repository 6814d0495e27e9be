"""What an operator may ask of a campaign that exists: pause, resume, cancel, retry."""

from sqlalchemy import Connection, text

from keywrap.rewrapping import Outcome
from ledger import campaigns, shards
from ledger.campaigns import Campaign, RequestRefusedError
from ledger.states import MOVING, OPENING, Kind, State


def pause(connection: Connection, campaign: Campaign) -> State:
    """Ask a campaign to wait for a person.

    Returns:
        The state it is in now: `pausing` until the shards in work are handed back.

    Raises:
        RequestRefusedError: it is finished, or already stopping.
    """
    if campaign.state in {State.PAUSING, State.PAUSED}:
        return campaign.state
    target = State.PAUSED if campaign.state is State.PLANNED else State.PAUSING
    return _ask(connection, campaign, target, "paused_by_operator", "an operator paused it")


def resume(connection: Connection, campaign: Campaign) -> State:
    """Ask a paused or stopped campaign to go on.

    Raises:
        RequestRefusedError: it is neither.
    """
    waits = campaign.state in {State.PAUSING, State.PAUSED, State.STOPPED}
    if not waits or campaign.resume_state is None:
        raise _refused(campaign, "resume")
    # Workers took no offer of a campaign that was stopped: nothing waits until those lapse.
    shards.withdraw_offers(connection, campaign.id)
    connection.execute(
        text("UPDATE shard SET attempt = 0, not_before = NULL WHERE campaign_id = :id"),
        {"id": campaign.id},
    )
    connection.execute(
        text("UPDATE campaign SET gates_passed = true WHERE id = :id AND state = 'stopped'"),
        {"id": campaign.id},
    )
    return _ask(connection, campaign, campaign.resume_state)


def cancel(connection: Connection, campaign: Campaign) -> State:
    """Ask a campaign to end for good. What it has rewrapped stays so.

    Raises:
        RequestRefusedError: it is finished.
    """
    if campaign.state in {State.CANCELLING, State.CANCELLED}:
        return campaign.state
    idle = campaign.state in {State.PLANNED, State.AWAITING_APPROVAL, State.PAUSED}
    target = State.CANCELLED if idle else State.CANCELLING
    return _ask(connection, campaign, target, "cancelled_by_operator", "an operator cancelled it")


def pace(connection: Connection, campaign: Campaign, max_rate: float | None) -> None:
    """Change the most requests a second that a campaign sends to key services.

    Args:
        connection: the transaction.
        campaign: the campaign.
        max_rate: of all its workers together; None: as many as the quotas allow.

    Raises:
        RequestRefusedError: it is finished.
    """
    if campaign.is_finished:
        raise _refused(campaign, "change its pace")
    connection.execute(
        text("UPDATE campaign SET max_rate = :rate WHERE id = :id"),
        {"id": campaign.id, "rate": max_rate},
    )


def retry(connection: Connection, campaign: Campaign, *, quarantined: bool) -> int:
    """Take up again what failed or met a conflict and, if asked, what is quarantined.

    Returns:
        How many blobs are pending again.

    Raises:
        RequestRefusedError: the campaign is not finished with exceptions, or has none of these;
            or another one moves some of the same blobs by now.
    """
    if campaign.state is not State.COMPLETE_WITH_EXCEPTIONS or campaign.kind is Kind.INVENTORY:
        raise _refused(campaign, "retry")
    if campaign.kind in MOVING:
        campaigns.refuse_overlap(connection, campaign.prefix)
    again = [Outcome.FAILED, Outcome.CONFLICT] + [Outcome.QUARANTINED] * quarantined
    count = reopen(connection, campaign.id, again)
    if count == 0:
        raise RequestRefusedError(
            "nothing_to_retry",
            f"campaign {campaign.id} has no {' or '.join(again)} blob",
            f"rewrap blobs {campaign.id} --outcome quarantined",
        )
    work = State.VERIFYING if campaign.kind in OPENING else State.RUNNING
    _ask(connection, campaign, work)
    return count


def reopen(connection: Connection, campaign_id: int, outcomes: list[Outcome]) -> int:
    """Make blobs of these outcomes pending again, in the shards they came from."""
    sets = ", ".join(f"{o} = 0" for o in outcomes)
    connection.execute(
        text(
            f"UPDATE shard SET {sets}, state = 'waiting', attempt = 0, lapses = 0,"  # noqa: S608
            " until = NULL, not_before = NULL, finished_at = NULL"
            " WHERE campaign_id = :id AND (kind = 'rewrap' OR kind = 'verify' AND EXISTS ("
            "   SELECT 1 FROM campaign WHERE id = :id AND kind = ANY(:opening)))"
            f" AND {' + '.join(outcomes)} > 0"
        ),
        {"id": campaign_id, "opening": list(OPENING)},
    )
    return connection.execute(
        text("DELETE FROM outcome WHERE campaign_id = :id AND outcome = ANY(:outcomes)"),
        {"id": campaign_id, "outcomes": outcomes},
    ).rowcount


def _ask(
    connection: Connection,
    campaign: Campaign,
    target: State,
    reason_code: str | None = None,
    reason: str | None = None,
) -> State:
    if not campaigns.step(
        connection,
        campaign.id,
        target,
        sources=[campaign.state],
        reason_code=reason_code,
        reason=reason,
    ):
        raise _refused(campaign, f"go to {target}")
    return target


def _refused(campaign: Campaign, wish: str) -> RequestRefusedError:
    waits = campaign.state in {State.PAUSED, State.STOPPED}
    return RequestRefusedError(
        "wrong_state",
        f"campaign {campaign.id} is {campaign.state} and cannot {wish}; nothing was changed",
        f"rewrap {'resume' if waits else 'status'} {campaign.id}",
    )
