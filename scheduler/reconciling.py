"""Comparing the key service's own log with what we say was done: two witnesses, one story.

Requests that both name are compared one by one. Uses whose request we cannot name are compared by
key, operation and, where the log tells it, blob, within a few minutes: clocks differ.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from keywrap.canary import CONTEXT
from scheduler.kmslogs import LoggedUse, Operation
from scheduler.ownuses import OwnUse

TOLERANCE = timedelta(minutes=5)
"""How far our clock and the key service's may be apart, with the time that an answer takes."""

CANARY = CONTEXT["blob_id"]

_FIRST_S = int(datetime.min.replace(tzinfo=UTC).timestamp())

_Request = tuple[str, Operation, str]
_Group = tuple[Operation, str, str]


@dataclass(slots=True)
class Line:
    """One key and operation in one window of time.

    Attributes:
        ours: uses that we noted.
        logged: uses that the key service logged.
        unknown: logged ones that nobody of ours noted.
        unclaimed: those of them that stand in segments which the ledger does not know.
        unseen: noted ones that the key service did not log.
    """

    ours: int = 0
    logged: int = 0
    unknown: int = 0
    unclaimed: int = 0
    unseen: int = 0


@dataclass
class Comparison:
    """What came of it.

    Attributes:
        window_s: the length of a window, in seconds.
        lines: by the start of the window, key and operation.
        unknown: the logged uses that nobody of ours noted; of each as many as are left.
        unseen: the noted uses that the key service did not log.
        refused: requests that the key service refused.
        canaries: logged uses of a canary, which is no blob's.
    """

    window_s: int
    lines: dict[tuple[datetime, str, Operation], Line] = field(
        default_factory=lambda: defaultdict(Line)
    )
    unknown: list[LoggedUse] = field(default_factory=list)
    unseen: list[OwnUse] = field(default_factory=list)
    refused: int = 0
    canaries: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether both tell the same."""
        return not self.unknown and not self.unseen

    def count_ours(self, use: OwnUse) -> None:
        """Count a use of ours: one that the log has too, or should have."""
        self.line(use).ours += 1

    def line(self, use: LoggedUse | OwnUse) -> Line:
        """Return the line that a use belongs to."""
        start = int(use.time.timestamp()) // self.window_s * self.window_s
        start = max(start, _FIRST_S)  # a window may begin before the calendar does
        return self.lines[datetime.fromtimestamp(start, UTC), use.key, use.operation]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time."""

    start: datetime
    end: datetime

    def __contains__(self, time: datetime) -> bool:
        """Whether a time lies in it."""
        return self.start <= time <= self.end

    def is_near(self, time: datetime) -> bool:
        """Whether a time lies in it, give or take the tolerance."""
        # Differences: a sum would leave the calendar in its first and last year.
        return self.start - time <= TOLERANCE and time - self.end <= TOLERANCE


def compare(
    logged: Iterable[LoggedUse],
    ours: Iterable[OwnUse],
    unclaimed: Iterable[OwnUse],
    span: Span,
    window_s: int,
) -> Comparison:
    """Compare a key service's log with our trail, for the same time and the same keys.

    Args:
        logged: what the key service logged.
        ours: what we noted.
        unclaimed: what stands in segments that the ledger does not know: of a worker that died, or
            forged. It explains uses, but is counted apart.
        span: what the log covers: what we noted outside of it is not missed there.
        window_s: the length of a window, in seconds.
    """
    comparison = Comparison(window_s)
    requests, others = _by_request(ours)
    left = list(_unmatched_requests(comparison, logged, requests))
    left, unseen = _match(left, others, comparison.count_ours)
    # A request that we name and the log does not is in no other place of the log either.
    for use in [*unseen, *requests.left()]:
        if use.came_out and use.time in span:
            comparison.count_ours(use)
            comparison.line(use).unseen += 1
            comparison.unseen.append(use)
    for one in left:
        comparison.line(one).unknown += 1
    unexplained, _ = _match(left, list(unclaimed), lambda _use: None)
    for one, count in (Counter(left) - Counter(unexplained)).items():
        comparison.line(one).unclaimed += count
        comparison.line(one).unknown -= count
    unknown = [replace(use, count=count) for use, count in Counter(unexplained).items()]
    comparison.unknown = sorted(unknown, key=lambda use: use.time)
    return comparison


class _Requests:
    """Our uses whose request the key service has named."""

    def __init__(self) -> None:
        self._uses: dict[_Request, list[OwnUse]] = defaultdict(list)

    def add(self, use: OwnUse) -> None:
        self._uses[use.request_id, use.operation, use.key].append(use)

    def take(self, use: LoggedUse) -> list[OwnUse] | None:
        return self._uses.pop((use.request_id, use.operation, use.key), None)

    def give_back(self, uses: list[OwnUse]) -> None:
        for use in uses:
            self.add(use)

    def left(self) -> Iterator[OwnUse]:
        for uses in self._uses.values():
            yield from uses


def _by_request(ours: Iterable[OwnUse]) -> tuple[_Requests, list[OwnUse]]:
    requests, others = _Requests(), []
    for use in ours:
        if use.request_id:
            requests.add(use)
        elif use.came_out is not False:
            others.append(use)
    return requests, others


def _unmatched_requests(
    comparison: Comparison, logged: Iterable[LoggedUse], requests: _Requests
) -> Iterator[LoggedUse]:
    """Yield each logged use that no request of ours accounts for, one by one."""
    seen: set[_Request] = set()
    for use in logged:
        request = use.request_id, use.operation, use.key
        if use.request_id and request in seen:
            continue  # logs overlap, and CloudTrail delivers at least once
        seen.add(request)
        if use.blob_id == CANARY:
            comparison.canaries += 1
            continue
        if not use.count:
            comparison.refused += 1
        known = requests.take(use)
        if known is None:
            comparison.line(use).logged += use.count
            yield from [replace(use, count=1)] * use.count
            continue
        came_out = [own for own in known if own.came_out]
        count = use.count if use.is_certain else len(came_out)
        comparison.line(use).logged += count
        for own in came_out[:count]:
            comparison.count_ours(own)
        requests.give_back(came_out[count:])  # the service says that fewer came out
        yield from [replace(use, count=1)] * (count - len(came_out))


def _match(
    logged: list[LoggedUse], ours: list[OwnUse], matched: Callable[[OwnUse], None]
) -> tuple[list[LoggedUse], list[OwnUse]]:
    """Pair uses of the same key, operation and blob that are close in time.

    Returns:
        What is left of each.
    """
    groups: dict[_Group, tuple[list[LoggedUse], list[OwnUse]]] = defaultdict(lambda: ([], []))
    tells_blobs = {(use.operation, use.key) for use in logged if use.blob_id}
    for use in logged:
        groups[use.operation, use.key, use.blob_id][0].append(use)
    for own in ours:
        blob_id = own.blob_id if (own.operation, own.key) in tells_blobs else ""
        groups[own.operation, own.key, blob_id][1].append(own)
    left_logged: list[LoggedUse] = []
    left_ours: list[OwnUse] = []
    for theirs, mine in groups.values():
        for own, is_logged in _pair(theirs, mine, left_logged):
            if is_logged:
                matched(own)
            else:
                left_ours.append(own)
    return left_logged, left_ours


def _pair(
    theirs: list[LoggedUse], mine: list[OwnUse], left: list[LoggedUse]
) -> Iterator[tuple[OwnUse, bool]]:
    """Pair in order of time: with one tolerance for all, no other way pairs more."""
    waiting = deque(sorted(theirs, key=lambda use: use.time))
    for own in sorted(mine, key=lambda use: use.time):
        while waiting and own.time - waiting[0].time > TOLERANCE:
            left.append(waiting.popleft())
        is_logged = bool(waiting) and waiting[0].time - own.time <= TOLERANCE
        if is_logged:
            waiting.popleft()
        yield own, is_logged
    left.extend(waiting)
