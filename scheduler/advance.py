"""Advancing a campaign: what the tick does in each state, all of it decided from the ledger."""

from collections.abc import Callable

from keywrap.rewrapping import Outcome, Prove
from ledger import backups, campaigns, progress, samples, serving, shards, wishes
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.progress import Progress
from ledger.states import MOVING, OPENING, REWRAPPING, Kind, ShardKind, ShardState, State
from scheduler import awaiting, gates
from scheduler.gates import Stop
from scheduler.rules import DEFAULT_RULES, Rules
from tasks.scans import MAX_PASSES

_PASSES_FOR_CONFLICTS = MAX_PASSES - 2
"""The last two passes are for fresh scans: one whose stragglers are moved, and one to end."""

_IN_WORK = (ShardState.OFFERED, ShardState.LEASED)


def advance(connection: Connection, campaign: Campaign, rules: Rules = DEFAULT_RULES) -> bool:
    """Take a campaign one step further, if it is ready for one.

    Args:
        connection: the transaction.
        campaign: the campaign.
        rules: what decides.

    Returns:
        Whether it stepped.
    """
    step = _STEPS.get(campaign.state)
    if step is None:
        return False
    return step(connection, campaign, progress.read(connection, campaign.id, campaign.kind), rules)


def _plan(connection: Connection, campaign: Campaign, _done: Progress, rules: Rules) -> bool:
    if not awaiting.may_begin(connection, campaign, rules.approvals):
        return False
    # The step first, here and below: a tick that is late finds the state changed, and adds nothing.
    if not campaigns.step(connection, campaign.id, State.INVENTORY):
        return False
    _add_scan(connection, campaign, ShardKind.INVENTORY, rules.scan_parts)
    return True


def _add_scan(connection: Connection, campaign: Campaign, kind: ShardKind, scan_parts: int) -> None:
    for part in range(scan_parts):
        shards.add(connection, campaign.id, kind, part=part, parts=scan_parts)


def _inventory(connection: Connection, campaign: Campaign, done: Progress, rules: Rules) -> bool:
    if not _all_done(done, ShardKind.INVENTORY):
        return False
    if campaign.kind is Kind.INVENTORY:
        return campaigns.step(connection, campaign.id, State.COMPLETE)
    if campaign.kind in OPENING:
        stepped = campaigns.step(connection, campaign.id, State.VERIFYING)
        if stepped and campaign.sample_size is not None:
            # A plan does what the workers would do, with their credentials.
            is_plan = campaign.kind is Kind.PLAN
            samples.cut(connection, campaign, rules.queue_of if is_plan else rules.verifiers_of)
        return stepped
    if campaign.kind is Kind.BACKUP or campaign.backs_up:
        return _back_up(connection, campaign)
    return _begin(connection, campaign, rules)


def _back_up(connection: Connection, campaign: Campaign) -> bool:
    if not campaigns.step(connection, campaign.id, State.BACKUP):
        return False
    backups.cut(connection, campaign)
    return True


def _backup(connection: Connection, campaign: Campaign, done: Progress, rules: Rules) -> bool:
    if not _all_done(done, ShardKind.BACKUP):
        return False
    if backups.list_parts_due(connection, campaign.id):
        return True
    if not _all_done(done, ShardKind.MANIFEST):
        return False
    if campaign.kind is Kind.BACKUP:
        return campaigns.step(connection, campaign.id, State.COMPLETE)
    return _begin(connection, campaign, rules)


def _begin(connection: Connection, campaign: Campaign, rules: Rules) -> bool:
    is_new = campaign.kind in REWRAPPING and campaign.passes == 0
    if not is_new or rules.limits.canary == 0:
        return campaigns.step(connection, campaign.id, State.RUNNING)
    if not campaigns.step(connection, campaign.id, State.CANARY):
        return False
    samples.cut_canary(connection, campaign, rules.limits.canary, rules.queue_of)
    return True


def _canary(connection: Connection, campaign: Campaign, done: Progress, rules: Rules) -> bool:
    if not _all_done(done, ShardKind.VERIFY) and not serving.any_canary_is_back(
        connection, campaign.id
    ):
        return False  # one of a queue without hosts holds up nobody but that queue
    if stop := _canary_stop(connection, campaign, rules):
        return _stop(connection, campaign, stop)
    return campaigns.step(connection, campaign.id, State.RUNNING)


def _canary_stop(connection: Connection, campaign: Campaign, rules: Rules) -> Stop | None:
    if campaign.gates_passed or not campaign.has_canary_out:
        return None
    counts = progress.counts(connection, campaign.id, ShardKind.VERIFY)
    return gates.of_canary(counts, rules.limits)


def _stop(connection: Connection, campaign: Campaign, stop: Stop) -> bool:
    return campaigns.step(
        connection,
        campaign.id,
        State.STOPPED,
        reason_code=stop.reason_code,
        reason=stop.reason,
    )


def _running(connection: Connection, campaign: Campaign, done: Progress, rules: Rules) -> bool:
    stop = _canary_stop(connection, campaign, rules)
    if not campaign.gates_passed:
        stop = stop or gates.of_run(done, rules.limits)
    if stop is not None:
        return _stop(connection, campaign, stop)
    if not _all_done(done, ShardKind.REWRAP):
        return False
    if done.counts[Outcome.CONFLICT] and campaign.passes < _PASSES_FOR_CONFLICTS:
        # A writer came first each time. By now it may have finished: read those blobs once more.
        campaigns.count_pass(connection, campaign.id)
        return wishes.reopen(connection, campaign.id, [Outcome.CONFLICT]) > 0
    if not campaigns.step(connection, campaign.id, State.VERIFYING):
        return False
    if campaign.kind is not Kind.SWEEP:  # what writers leave meanwhile is too young for it
        _add_scan(connection, campaign, ShardKind.STRAGGLERS, rules.scan_parts)
    campaigns.count_pass(connection, campaign.id)
    if campaign.prove is Prove.SAMPLE:
        samples.cut(connection, campaign, rules.verifiers_of)
    return True


def _verifying(connection: Connection, campaign: Campaign, done: Progress, _rules: Rules) -> bool:
    if not (_all_done(done, ShardKind.STRAGGLERS) and _all_done(done, ShardKind.VERIFY)):
        return False
    if campaign.kind in MOVING and not _all_done(done, ShardKind.REWRAP):
        # Stragglers were found. What they are wrapped by may be in no backup yet.
        if campaign.backs_up:
            return _back_up(connection, campaign)
        return campaigns.step(connection, campaign.id, State.RUNNING)
    if done.pending:
        # Never to be met: it says so rather than call a campaign done that is not.
        why = f"{done.scanned} blobs were scanned and {done.decided} have an outcome"
        return _stop(connection, campaign, Stop("counts_do_not_balance", why))
    nothing = gates.of_undo(done) if campaign.kind is Kind.UNDO else None
    return campaigns.step(
        connection,
        campaign.id,
        State.COMPLETE_WITH_EXCEPTIONS if done.exceptions or nothing else State.COMPLETE,
        reason_code=nothing.reason_code if nothing else None,
        reason=nothing.reason if nothing else None,
    )


def _pausing(connection: Connection, campaign: Campaign, done: Progress, _rules: Rules) -> bool:
    return _come_to_rest(connection, campaign, done, State.PAUSED)


def _cancelling(connection: Connection, campaign: Campaign, done: Progress, _rules: Rules) -> bool:
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


_STEPS: dict[State, Callable[[Connection, Campaign, Progress, Rules], bool]] = {
    State.PLANNED: _plan,
    State.AWAITING_APPROVAL: _plan,
    State.INVENTORY: _inventory,
    State.BACKUP: _backup,
    State.CANARY: _canary,
    State.RUNNING: _running,
    State.VERIFYING: _verifying,
    State.PAUSING: _pausing,
    State.CANCELLING: _cancelling,
}
