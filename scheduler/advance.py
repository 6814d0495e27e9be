"""Advancing a campaign: what the tick does in each state, all of it decided from the ledger."""

from collections.abc import Callable
from dataclasses import dataclass

from keywrap.rewrapping import Outcome, Prove
from ledger import campaigns, progress, queues, samples, shards, wishes
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.progress import Progress
from ledger.queues import QueueOf
from ledger.states import MOVING, OPENING, Kind, ShardKind, ShardState, State
from tasks.scans import MAX_PASSES

_PASSES_FOR_CONFLICTS = MAX_PASSES - 2
"""The last two passes are for fresh scans: one whose stragglers are moved, and one to end."""

_MANY = 100
"""So many quarantined blobs and not one that opened are a wrong key's, not the blobs' fault."""

_IN_WORK = (ShardState.OFFERED, ShardState.LEASED)


def advance(
    connection: Connection,
    campaign: Campaign,
    scan_parts: int,
    queue_of: QueueOf = queues.everyone,
) -> bool:
    """Take a campaign one step further, if it is ready for one.

    Args:
        connection: the transaction.
        campaign: the campaign.
        scan_parts: how many parts the store is scanned in.
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.

    Returns:
        Whether it stepped.
    """
    step = _STEPS.get(campaign.state)
    if step is None:
        return False
    done = progress.read(connection, campaign.id, campaign.kind)
    return step(connection, campaign, done, _Cut(scan_parts, queue_of))


@dataclass(frozen=True, slots=True)
class _Cut:
    """How work is cut into shards."""

    scan_parts: int
    queue_of: QueueOf


def _plan(connection: Connection, campaign: Campaign, _done: Progress, cut: _Cut) -> bool:
    # The step first, here and below: a tick that is late finds the state changed, and adds nothing.
    if not campaigns.step(connection, campaign.id, State.INVENTORY):
        return False
    _add_scan(connection, campaign, ShardKind.INVENTORY, cut.scan_parts)
    return True


def _add_scan(connection: Connection, campaign: Campaign, kind: ShardKind, scan_parts: int) -> None:
    for part in range(scan_parts):
        shards.add(connection, campaign.id, kind, part=part, parts=scan_parts)


def _inventory(connection: Connection, campaign: Campaign, done: Progress, cut: _Cut) -> bool:
    if not _all_done(done, ShardKind.INVENTORY):
        return False
    if campaign.kind is Kind.INVENTORY:
        return campaigns.step(connection, campaign.id, State.COMPLETE)
    if campaign.kind in OPENING:
        stepped = campaigns.step(connection, campaign.id, State.VERIFYING)
        if stepped and campaign.sample_size is not None:
            samples.cut(connection, campaign, cut.queue_of)
        return stepped
    return campaigns.step(connection, campaign.id, State.RUNNING)


def _running(connection: Connection, campaign: Campaign, done: Progress, cut: _Cut) -> bool:
    if _nothing_opens(done) and not campaign.gates_passed:
        return campaigns.step(
            connection,
            campaign.id,
            State.STOPPED,
            reason_code="nothing_opens",
            reason=f"{done.counts[Outcome.QUARANTINED]} blobs are quarantined and not one opened: "
            "is a legacy key wrong? Nothing was changed. Mend it and restart the workers; resume "
            "goes on, and `rewrap retry --quarantined` takes these up again",
        )
    if not _all_done(done, ShardKind.REWRAP):
        return False
    if done.counts[Outcome.CONFLICT] and campaign.passes < _PASSES_FOR_CONFLICTS:
        # A writer came first each time. By now it may have finished: read those blobs once more.
        campaigns.count_pass(connection, campaign.id)
        return wishes.reopen(connection, campaign.id, [Outcome.CONFLICT]) > 0
    if not campaigns.step(connection, campaign.id, State.VERIFYING):
        return False
    _add_scan(connection, campaign, ShardKind.STRAGGLERS, cut.scan_parts)
    campaigns.count_pass(connection, campaign.id)
    if campaign.prove is Prove.SAMPLE:
        samples.cut(connection, campaign, cut.queue_of)
    return True


def _nothing_opens(done: Progress) -> bool:
    counts = done.counts
    opened = counts[Outcome.REWRAPPED] + counts[Outcome.CURRENT]
    return counts[Outcome.QUARANTINED] >= _MANY and opened == 0


def _verifying(connection: Connection, campaign: Campaign, done: Progress, _cut: _Cut) -> bool:
    if not (_all_done(done, ShardKind.STRAGGLERS) and _all_done(done, ShardKind.VERIFY)):
        return False
    if campaign.kind in MOVING and not _all_done(done, ShardKind.REWRAP):
        return campaigns.step(connection, campaign.id, State.RUNNING)  # stragglers were found
    if done.pending:
        # Never to be met: it says so rather than call a campaign done that is not.
        return campaigns.step(
            connection,
            campaign.id,
            State.STOPPED,
            reason_code="counts_do_not_balance",
            reason=f"{done.scanned} blobs were scanned and {done.decided} have an outcome",
        )
    end = State.COMPLETE_WITH_EXCEPTIONS if done.exceptions else State.COMPLETE
    return campaigns.step(connection, campaign.id, end)


def _pausing(connection: Connection, campaign: Campaign, done: Progress, _cut: _Cut) -> bool:
    return _come_to_rest(connection, campaign, done, State.PAUSED)


def _cancelling(connection: Connection, campaign: Campaign, done: Progress, _cut: _Cut) -> bool:
    return _come_to_rest(connection, campaign, done, State.CANCELLED)


def _come_to_rest(connection: Connection, campaign: Campaign, done: Progress, end: State) -> bool:
    shards.withdraw_offers(connection, campaign.id)
    if any(n for (_, state), n in done.shards.items() if state in _IN_WORK):
        return False  # workers see it between two batches and hand their shards back
    return campaigns.step(
        connection,
        campaign.id,
        end,
        reason_code=campaign.reason_code,
        reason=campaign.reason,
    )


def _all_done(done: Progress, kind: ShardKind) -> bool:
    return done.count(kind) == done.count(kind, ShardState.DONE)


_STEPS: dict[State, Callable[[Connection, Campaign, Progress, _Cut], bool]] = {
    State.PLANNED: _plan,
    State.INVENTORY: _inventory,
    State.RUNNING: _running,
    State.VERIFYING: _verifying,
    State.PAUSING: _pausing,
    State.CANCELLING: _cancelling,
}
