"""What is wrong now, or has happened: everything that is alerted, read from the ledger."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from keywrap.rewrapping import Outcome
from ledger import approvals, backups, campaigns, progress, pulses, schedules
from ledger.alerts import Condition
from ledger.connection import Connection, Ledger
from ledger.states import WORKING, Kind, State
from scheduler import waits
from scheduler.status import Status
from scheduler.status import read as read_status
from workers.alerts_table import AlertKind, Severity
from workers.plaintext import plain
from workers.settings import Settings
from workers.windows import ALWAYS

_MOST_CHARS = 500
_TOLD_FOR = timedelta(days=7)
"""An end that no scheduler was there to tell is told so much later at most."""

_NAMED = 5
"""Campaigns that an alert names besides the first of its cause."""

_FEW = 100
"""Under so many blobs a share says nothing."""

_QUIET_REQUESTS = 1000
"""So many requests in an hour are never unusual."""

_NO_WORKER = {"no_worker", "no_worker_for_queue"}

_UNTOLD = {Kind.INVENTORY, Kind.PLAN}
"""Kinds that only look, and whose clean end is no news: `retire` alone scans the store thrice."""


class Witness(Protocol):
    """What is not in the ledger's rows, or takes too long to read each time."""

    def throttled(self) -> Mapping[str, int]:
        """Return how often key services have throttled lately, by KEK, where they have."""

    def broken(self) -> str:
        """Say what is wrong with the audit chain; empty: nothing that was seen."""


def found(ledger: Ledger, settings: Settings, witness: Witness) -> list[Condition]:
    """Return everything that is wrong now, or has happened lately.

    Args:
        ledger: the ledger.
        settings: what counts as wrong.
        witness: what else was seen.

    Raises:
        LedgerUnavailableError: PostgreSQL does not answer.
    """
    with ledger.begin() as connection:
        opened = campaigns.open_campaigns(connection)
        ended = pulses.ended(connection)
    statuses = [status for campaign in opened if (status := _read(ledger, settings, campaign.id))]
    for campaign_id in ended:
        if status := _read(ledger, settings, campaign_id):
            _beat(ledger, status, may_move=False)
    told = [one for status in statuses for one in _of_campaign(ledger, settings, status)]
    conditions = _of_one_cause(told)
    with ledger.begin() as connection:
        conditions += _ended(connection)
        conditions += _of_installation(connection, settings)
    return conditions + list(_seen(witness))


def _read(ledger: Ledger, settings: Settings, campaign_id: int) -> Status | None:
    keeps = settings.keywrap.store.keep_previous
    return read_status(ledger, campaign_id, keeps_previous=keeps, windows=settings.windows)


def _beat(ledger: Ledger, status: Status, *, may_move: bool) -> float:
    done = status.progress
    moved = done.scanned + done.decided + done.verified + done.kms_requests
    # A shard that is claimed or done is a move, whatever it counted.
    moved += sum(number * n for number, (_, n) in enumerate(sorted(done.shards.items()), start=1))
    with ledger.begin() as connection:
        return pulses.beat(
            connection, status.campaign.id, moved, done.kms_requests, may_move=may_move
        )


def _of_campaign(ledger: Ledger, settings: Settings, status: Status) -> Iterator[Condition]:
    campaign, wait, rules = status.campaign, status.wait, settings.alerts
    is_open = status.calendar is ALWAYS or bool(status.now and status.calendar.is_open(status.now))
    may_move = is_open and campaign.state in WORKING - {State.BLOCKED}
    still_s = _beat(ledger, status, may_move=may_move)
    if campaign.state is State.BLOCKED:
        yield _campaign(
            status,
            AlertKind.CAMPAIGN_BLOCKED,
            Severity.CRITICAL,
            f"is blocked: {_why(status)}",
            # Not by the sentence: services put a request's own name in it.
            cause=f"{campaign.reason_code}:{campaign.target.key if campaign.target else ''}",
        )
    if campaign.state is State.STOPPED:
        yield _campaign(
            status, AlertKind.CAMPAIGN_STOPPED, Severity.CRITICAL, f"was stopped: {_why(status)}"
        )
    if wait.reason_code in _NO_WORKER:
        yield _campaign(
            status,
            AlertKind.NO_WORKERS,
            Severity.CRITICAL,
            f"waits: {wait.reason}",
            cause=wait.next_command or "",  # it names the queue
        )
    elif may_move and still_s > rules.stalled_s:
        yield _campaign(
            status,
            AlertKind.CAMPAIGN_STALLED,
            Severity.WARNING,
            f"is {campaign.state} and has not moved for {still_s:,.0f} s",
        )
    if status.forecast and status.forecast.state == "red":
        yield _campaign(
            status, AlertKind.CAMPAIGN_LATE, Severity.WARNING, f"is late: {_forecast(status)}"
        )
    yield from _exceptions(status, rules.unwrap_errors_percent)


def _of_one_cause(told: Sequence[Condition]) -> list[Condition]:
    """Tell what has the same key once: an outage that holds up fifty campaigns is one alert."""
    found: dict[str, list[Condition]] = {}
    for one in told:
        found.setdefault(one.key, []).append(one)
    return [_together(first, others) for first, *others in found.values()]


def _together(first: Condition, others: Sequence[Condition]) -> Condition:
    if not others:
        return first
    named = ", ".join(str(one.campaign_id) for one in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return replace(
        first,
        text=f"{first.text}; the same holds up campaign {named}{more}",
        campaign_id=None,
        next_command="rewrap status",
    )


def _forecast(status: Status) -> str:
    assert status.forecast is not None  # noqa: S101 - who calls has looked
    return status.forecast.sentence()


def _exceptions(status: Status, most_percent: float) -> Iterator[Condition]:
    done = status.progress
    bad = done.counts[Outcome.QUARANTINED] + done.counts[Outcome.FAILED]
    if done.counts[Outcome.QUARANTINED]:
        yield _campaign(
            status,
            AlertKind.BLOBS_QUARANTINED,
            Severity.WARNING,
            f"has quarantined blobs: {_reasons(status)}",
            next_command=f"rewrap blobs {status.campaign.id} --outcome quarantined",
            lasting=False,
        )
    if done.decided >= _FEW and 100 * bad > most_percent * done.decided:
        yield _campaign(
            status,
            AlertKind.UNWRAP_ERRORS,
            Severity.CRITICAL,
            f"cannot open {bad:,} of {done.decided:,} blobs ({100 * bad / done.decided:.1f}%, at"
            f" most {most_percent:g}% is usual): {_reasons(status)}",
            next_command=f"rewrap status {status.campaign.id}",
        )


def _reasons(status: Status) -> str:
    said = [f"{blobs:,} {outcome} of {code}" for (outcome, code), blobs in status.failures.items()]
    more = f" and {len(said) - 3} more reasons" if len(said) > 3 else ""  # noqa: PLR2004
    return ", ".join(said[:3]) + more


def _why(status: Status) -> str:
    return f"{status.campaign.reason_code}: {status.campaign.reason}"


def _campaign(
    status: Status,
    kind: AlertKind,
    severity: Severity,
    says: str,
    *,
    next_command: str | None = None,
    lasting: bool = True,
    cause: str = "",
) -> Condition:
    campaign = status.campaign
    return _condition(
        f"{kind}:{cause or campaign.id}",
        kind,
        severity,
        f"campaign {campaign.id} ({campaign.kind}) {says}",
        campaign_id=campaign.id,
        next_command=next_command or status.wait.next_command or f"rewrap status {campaign.id}",
        lasting=lasting,
    )


def _condition(
    key: str,
    kind: AlertKind,
    severity: Severity,
    says: str,
    *,
    next_command: str,
    campaign_id: int | None = None,
    lasting: bool = True,
) -> Condition:
    # What others named may be in it: no control character of theirs, and no more than is read.
    text = plain(says)
    text = text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"
    return Condition(str(key), kind.value, severity.value, text, campaign_id, next_command, lasting)


def _ended(connection: Connection) -> Iterator[Condition]:
    since = progress.now(connection) - _TOLD_FOR
    for campaign in pulses.told_since(connection, since):
        is_clean = campaign.state is State.COMPLETE
        if is_clean and campaign.kind in _UNTOLD:
            continue
        kind = AlertKind.CAMPAIGN_COMPLETE if is_clean else AlertKind.CAMPAIGN_EXCEPTIONS
        at = campaign.finished_at
        yield _condition(
            f"{kind}:{campaign.id}:{at.isoformat() if at else ''}",  # `retry` may end it anew
            kind,
            Severity.INFO if is_clean else Severity.WARNING,
            f"campaign {campaign.id} ({campaign.kind}) is "
            + ("complete" if is_clean else "done, but some blobs need a person"),
            campaign_id=campaign.id,
            next_command=waits.after(campaign) or f"rewrap status {campaign.id}",
            lasting=False,
        )


def _of_installation(connection: Connection, settings: Settings) -> Iterator[Condition]:
    if silent := waits.silence(connection):
        yield _condition(
            AlertKind.SCHEDULER_SILENT,
            AlertKind.SCHEDULER_SILENT,
            Severity.CRITICAL,
            f"no scheduler has ticked {silent}, though one runs",
            next_command="rewrap healthz --scheduler",
        )
    for asked in approvals.pending(connection):
        yield _condition(
            f"{AlertKind.APPROVAL_WAITING}:{asked.id}",
            AlertKind.APPROVAL_WAITING,
            Severity.WARNING,
            f"{asked.action}, asked for by {asked.requested_by}, waits for a second person until"
            f" {asked.expires_at:%Y-%m-%d %H:%M} UTC",
            campaign_id=asked.campaign_id,
            next_command=f"rewrap approve {asked.id}",
        )
    for one in schedules.every(connection):
        if not one.paused and (one.missed or one.reason_code):
            why = f": {one.reason_code}: {one.reason}" if one.reason_code else ""
            yield _condition(
                f"{AlertKind.SCHEDULE_MISSED}:{one.name}",
                AlertKind.SCHEDULE_MISSED,
                Severity.WARNING,
                f"schedule {one.name} has missed {one.missed:,} times{why}",
                next_command="rewrap schedule list",
            )
    yield from _volume(connection, settings)
    yield from _backup(connection, settings)


def _volume(connection: Connection, settings: Settings) -> Iterator[Condition]:
    rules = settings.alerts
    volume = pulses.volume(connection, rules.baseline_days)
    if volume.busiest is None or volume.requests < _QUIET_REQUESTS:
        return
    if volume.requests > rules.unusual_factor * volume.busiest:
        yield _condition(
            AlertKind.UNUSUAL_VOLUME,
            AlertKind.UNUSUAL_VOLUME,
            Severity.WARNING,
            f"{volume.requests:,} requests went to key services this hour; the busiest hour of the"
            f" last {rules.baseline_days} days had {volume.busiest:,}",
            next_command="rewrap status",
        )


def _backup(connection: Connection, settings: Settings) -> Iterator[Condition]:
    newest = next(iter(backups.recent(connection, 1)), None)
    if newest is None:  # what replaces wraps makes one first
        return
    age = progress.now(connection) - newest.created_at
    if age > timedelta(days=settings.alerts.backup_days):
        yield _condition(
            AlertKind.BACKUP_OLD,
            AlertKind.BACKUP_OLD,
            Severity.WARNING,
            f"the newest backup, of campaign {newest.campaign_id}, is {age.days} days old",
            next_command="rewrap backup create",
        )


def _seen(witness: Witness) -> Iterator[Condition]:
    for key, times in witness.throttled().items():
        yield _condition(
            f"{AlertKind.LIVE_THROTTLED}:{key}",
            AlertKind.LIVE_THROTTLED,
            Severity.WARNING,
            f"the service of {key} throttles, {times:,} times lately: campaigns give way, and"
            " applications may be hit",
            next_command="rewrap status",
        )
    if broken := witness.broken():
        yield _condition(
            AlertKind.AUDIT_BROKEN,
            AlertKind.AUDIT_BROKEN,
            Severity.CRITICAL,
            f"the chain of the audit trail is broken: {broken}",
            next_command="rewrap audit verify",
        )
