"""What the ledger says, as gauges for Prometheus."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily

from keywrap.rewrapping import Outcome
from ledger.findings import CensusLine
from ledger.measures import Trail, Waiting
from ledger.states import COUNTING, ShardState
from scheduler.status import Status

MOST_REASONS = 20
MOST_VERSIONS = 100
OTHER = "other"
"""Stands for all beyond these numbers: who writes sidecars makes up key versions as they like."""

_CAMPAIGN = ("campaign", "kind")


@dataclass(frozen=True, slots=True)
class Seen:
    """An open campaign, and when it moved last."""

    status: Status
    moved_at: float


@dataclass(frozen=True, slots=True)
class Census:
    """What the newest inventory of the whole store found.

    Attributes:
        finished_at: when it ended.
        lines: blobs by KEK version.
    """

    finished_at: datetime
    lines: Sequence[CensusLine]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read last; nothing of it is read by a scrape.

    Attributes:
        campaigns: the open campaigns that are shown, the newest ones.
        opened: how many are open.
        waiting: what waits for a second person.
        trail: how the audit trail stands.
        chain_faults: how many faults its chain has; None: it was not gone through yet.
        census: of the newest inventory; None: there is none.
    """

    campaigns: Sequence[Seen] = ()
    opened: int = 0
    waiting: Waiting = field(default_factory=lambda: Waiting(0, None))
    trail: Trail = field(default_factory=lambda: Trail(0, None, 0))
    chain_faults: int | None = None
    census: Census | None = None

    def families(self) -> list[GaugeMetricFamily]:
        """Return it as metrics."""
        return [
            _plain("open_campaigns", "Campaigns that are not finished.", self.opened),
            *_of_campaigns(self.campaigns),
            *_of_waiting(self.waiting),
            *_of_trail(self.trail, self.chain_faults),
            *(_of_census(self.census) if self.census else ()),
        ]


def gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    """Make a gauge that has no value yet.

    Args:
        name: behind `rewrap_`.
        about: what it says.
        labels: the names of its labels.
    """
    return GaugeMetricFamily(f"rewrap_{name}", about, labels=labels)


def _plain(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rewrap_{name}", about, value=value)


def _of_campaigns(campaigns: Iterable[Seen]) -> list[GaugeMetricFamily]:
    state = gauge(
        "campaign_state", "1 for the state that an open campaign is in.", *_CAMPAIGN, "state"
    )
    waits = gauge(
        "campaign_waiting", "1 where an open campaign waits, by the reason.", *_CAMPAIGN, "reason"
    )
    blobs = gauge(
        "campaign_blobs",
        "Blobs of an open campaign by outcome, `pending` where they have none.",
        *(*_CAMPAIGN, "outcome"),
    )
    shards = gauge("campaign_shards", "Shards of an open campaign.", *_CAMPAIGN, "state")
    failed = gauge(
        "campaign_exceptions",
        "Blobs of an open campaign that need a person, by reason.",
        *(*_CAMPAIGN, "outcome", "reason"),
    )
    moved = gauge(
        "campaign_last_progress_timestamp_seconds",
        "When an open campaign moved last: a blob decided, a shard begun or ended, a new state.",
        *_CAMPAIGN,
    )
    late = gauge(
        "campaign_late", "1 where a campaign will not be finished by its deadline.", *_CAMPAIGN
    )
    eta = gauge("campaign_eta_seconds", "Until its last blob at the rate so far.", *_CAMPAIGN)
    for seen in campaigns:
        status, done = seen.status, seen.status.progress
        who = [str(status.campaign.id), status.campaign.kind.value]
        state.add_metric([*who, status.campaign.state.value], 1)
        if status.wait.reason_code:
            waits.add_metric([*who, status.wait.reason_code], 1)
        pending = 0 if status.campaign.kind in COUNTING else done.pending
        for name, count in {"pending": pending, **_outcomes(done.counts)}.items():
            blobs.add_metric([*who, name], count)
        for shard_state in ShardState:
            count = sum(n for (_, s), n in done.shards.items() if s is shard_state)
            shards.add_metric([*who, shard_state.value], count)
        for (outcome, reason), count in _first(status.failures).items():
            failed.add_metric([*who, outcome, reason], count)
        moved.add_metric(who, seen.moved_at)
        if status.forecast:
            late.add_metric(who, float(status.forecast.state == "red"))
        if status.eta_s is not None:
            eta.add_metric(who, status.eta_s)
    return [state, waits, blobs, shards, failed, moved, late, eta]


def _outcomes(counts: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.value: counts[outcome] for outcome in Outcome}


def _first(failures: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Keep the largest groups, and add the others up by outcome."""
    found: Counter[tuple[str, str]] = Counter()
    for place, ((outcome, reason), count) in enumerate(failures.items()):
        found[outcome, reason if place < MOST_REASONS else OTHER] += count
    return found


def _of_waiting(waiting: Waiting) -> list[GaugeMetricFamily]:
    since = gauge(
        "approval_oldest_timestamp_seconds",
        "When the oldest approval that is open was asked for.",
    )
    if waiting.since:
        since.add_metric([], waiting.since.timestamp())
    about = "Approvals that wait for a second person."
    return [_plain("approvals_pending", about, waiting.approvals), since]


def _of_trail(trail: Trail, faults: int | None) -> list[GaugeMetricFamily]:
    last = gauge(
        "audit_chain_last_entry_timestamp_seconds",
        "When the segment of the last entry of the audit chain was closed.",
    )
    if trail.closed_at:
        last.add_metric([], trail.closed_at.timestamp())
    broken = gauge(
        "audit_chain_faults",
        "What is wrong with the ledger's audit chain: entries changed, missing, reordered.",
    )
    if faults is not None:
        broken.add_metric([], faults)
    return [
        _plain("audit_chain_entries", "Entries of the audit chain.", trail.entries),
        last,
        _plain("audit_unchained_segments", "Segments that wait to be chained.", trail.unchained),
        broken,
    ]


def _of_census(census: Census) -> list[GaugeMetricFamily]:
    blobs = gauge(
        "key_version_blobs",
        "Blobs that a KEK version wraps, as the newest inventory of the whole store found.",
        *("provider", "key", "version"),
    )
    unreadable = gauge(
        "unreadable_blobs", "Blobs whose key that inventory could not tell, by reason.", "reason"
    )
    versions: Counter[tuple[str, ...]] = Counter()
    problems: Counter[str] = Counter()
    for place, line in enumerate(census.lines):
        is_shown = place < MOST_VERSIONS
        if line.problem:
            problems[line.problem if is_shown else OTHER] += line.blobs
        else:
            named = line.provider, line.key, line.version
            versions[named if is_shown else (OTHER, OTHER, "")] += line.blobs
    for labels, count in versions.items():
        blobs.add_metric(labels, count)
    for problem, count in problems.items():
        unreadable.add_metric([problem], count)
    at = _plain(
        "inventory_timestamp_seconds", "When that inventory ended.", census.finished_at.timestamp()
    )
    return [blobs, unreadable, at]
