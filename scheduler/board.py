"""The board of campaigns: how they look on a terminal while they move, at 80 columns and more."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from keywrap.rewrapping import Outcome
from ledger.states import COUNTING, State
from scheduler.status import Status
from workers.plaintext import plain

_STYLES = {
    State.BLOCKED: "bold red",
    State.STOPPED: "bold red",
    State.PAUSED: "yellow",
    State.PAUSING: "yellow",
    State.AWAITING_APPROVAL: "yellow",
    State.COMPLETE: "green",
    State.COMPLETE_WITH_EXCEPTIONS: "yellow",
}
_MOST_REASONS = 4
_MOST_CHARS = 400
_NOW_S = 10.0
_FEW = 2
_QUIET_S = 3.0
"""A reading may take so long before the board says how old its figures are."""


@dataclass(frozen=True, slots=True)
class View:
    """What a watch has read.

    Attributes:
        statuses: the campaigns.
        silence: how long no scheduler has ticked; empty: one has lately.
        workers: how many workers answer; None: nobody knows.
        broker_trouble: why not.
    """

    statuses: tuple[Status, ...]
    silence: str
    workers: int | None = None
    broker_trouble: str = ""

    def foot(self) -> str:
        """Say who is alive."""
        scheduler = f"no scheduler has ticked {self.silence}" if self.silence else "scheduler alive"
        if self.broker_trouble:
            return f"{scheduler} · workers unknown: {plain(self.broker_trouble)}"
        if self.workers is None:
            return f"{scheduler} · workers: asking"
        workers = "1 worker" if self.workers == 1 else f"{self.workers or 'no'} workers"
        return f"{scheduler} · {workers}"


class Board:
    """What a live display draws again and again, with the age of what is shown.

    Attributes:
        view: what was read last.
        trouble: why nothing newer could be read; empty: it was.
    """

    def __init__(self, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.trouble = ""
        self._past: deque[tuple[float, dict[int, int]]] = deque()
        self.put(view)

    def put(self, view: View) -> None:
        """Take what was read now."""
        self.view, self.trouble, self._read_at = view, "", self._clock()
        self._past.append((self._read_at, {s.campaign.id: _done(s) for s in view.statuses}))
        while self._read_at - self._past[0][0] > _NOW_S and len(self._past) > _FEW:
            self._past.popleft()

    def rate(self, status: Status) -> float | None:
        """Return how many blobs of a campaign were decided a second in the last seconds."""
        id_ = status.campaign.id
        at, done = next(((at, d[id_]) for at, d in self._past if id_ in d), (self._read_at, 0))
        passed = self._read_at - at
        return max(0.0, (_done(status) - done) / passed) if passed else None

    @property
    def age_s(self) -> float:
        """Seconds since what is shown was read."""
        return self._clock() - self._read_at

    def head(self) -> str:
        """Say that what is shown is old, if it is."""
        if not self.trouble and self.age_s < _QUIET_S:
            return ""
        why = plain(self.trouble) or "the ledger has not answered yet"
        return f"{why}; what is shown is {duration(self.age_s)} old"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw everything, or a line a campaign where everything has no room."""
        head = [Text(self.head(), style="bold red")] if self.head() else []
        foot = Text(self.view.foot(), style="red" if self.view.silence else "dim")
        statuses = self.view.statuses
        body: RenderableType = Group(*(block(one, self.rate(one)) for one in statuses))
        if not statuses:
            body = Text("no open campaigns")
        room = console.height - 1 - len(head) - 1
        if len(console.render_lines(body, options)) > room:
            body = short(statuses, room)
        yield Group(*head, body, foot)


def block(status: Status, now: float | None = None) -> RenderableType:
    """Draw one campaign: bar, figures, why it waits, and what to type next.

    Args:
        status: the campaign.
        now: blobs decided a second in the last seconds; None: nobody knows.
    """
    campaign = status.campaign
    kind = f"{campaign.kind} {campaign.plan_of}" if campaign.plan_of else campaign.kind
    parts = [
        (f"{kind} {campaign.id}", "bold"),
        (f"  {campaign.state}", _STYLES.get(campaign.state, "cyan")),
        (f"  → {campaign.target}" if campaign.target else "", "dim"),
    ]
    head = Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
    lines = (Padding(Text(said, overflow="fold"), (0, 0, 0, 2)) for said in details(status, now))
    return Group(head, bar(status), *lines)


def bar(status: Status) -> Table:
    """Draw how far a campaign is."""
    done, total = _done(status), status.progress.scanned
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(width=1)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    is_done = status.campaign.is_finished
    # Of a listing that goes on nobody knows the end.
    known = total if total and (is_done or status.campaign.kind not in COUNTING) else None
    of = f"{done:,} of {total:,}" if known else f"{done:,}"
    row.add_row("", ProgressBar(known, done, pulse=known is None), f"{percent(status):>4} {of}")
    return row


def _done(status: Status) -> int:
    done = status.progress
    return done.scanned if status.campaign.kind in COUNTING else done.decided


def percent(status: Status) -> str:
    """Return how much is done, rounded down: 100% is all of it. Empty where nobody knows."""
    total = status.progress.scanned
    if not total or status.campaign.kind in COUNTING:
        return ""
    return f"{100 * _done(status) // total}%"


def details(status: Status, now: float | None = None) -> Iterator[str]:
    """Say the rest of a campaign in lines; see `block`."""
    campaign, done, wait = status.campaign, status.progress, status.wait
    if figures := " · ".join(pace_of(status, now)):
        yield figures
    counts = [f"{done.counts[o]:,} {o}" for o in Outcome if done.counts[o]]
    if done.pending and campaign.kind not in COUNTING:
        counts.append(f"{done.pending:,} pending")
    if counts:
        yield " · ".join(counts)
    reasons = list(status.failures.items())
    for (outcome, code), blobs in reasons[:_MOST_REASONS]:
        yield f"{outcome}: {blobs:,} of {plain(code)}"
    if len(reasons) > _MOST_REASONS:
        left = len(reasons) - _MOST_REASONS
        yield f"and {left} more reasons: rewrap status {campaign.id}"
    if wait.reason:
        yield f"{wait.reason_code}: {_short(plain(wait.reason))}"
    for asked in status.approvals:
        yield f"{asked.action} waits for a second person: rewrap approve {asked.id}"
    if wait.next_command and not wait.next_command.endswith("--watch"):
        yield f"next: {wait.next_command}"


def pace_of(status: Status, now: float | None = None) -> Iterator[str]:
    """Say how fast a campaign is, and when it ends; see `block`."""
    mean = status.progress.rate_per_s
    if now is not None and not status.campaign.is_finished:
        yield f"{now:,.0f}/s now"
        if mean:
            yield f"{mean:,.0f}/s on average"
    elif mean:
        yield f"{mean:,.0f}/s"
    if status.eta_s is not None:
        yield f"ETA {duration(status.eta_s)}"
    if status.forecast:
        yield f"forecast {status.forecast.state}"
    if (pace := status.pace) is not None:
        allowed = f" of {pace['allowed_per_s']:,} allowed" if pace["quota_per_s"] else ""
        yield f"{pace['used_per_s']:,} requests/s{allowed}"
        if pace["throttled"]:
            yield f"throttled {pace['throttled']:,} times"


def short(statuses: Sequence[Status], room: int) -> Table:
    """Draw a line a campaign, as many as there is room for."""
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    fits = statuses if len(statuses) <= room else statuses[: max(room - 1, 0)]
    for status in fits:
        campaign = status.campaign
        said = (*tuple(pace_of(status))[:2], status.wait.reason_code or "")
        state = Text(campaign.state, style=_STYLES.get(campaign.state, "cyan"))
        name, rest = f"{campaign.kind} {campaign.id}", " · ".join(filter(None, said))
        table.add_row(Text(name, "bold"), state, percent(status), Text(rest))
    if len(fits) < len(statuses):
        table.add_row(f"and {len(statuses) - len(fits)} more", "", "", "rewrap status")
    return table


NO_REASON: tuple[str, ...] = ()


def reason(status: Status) -> tuple[str, ...]:
    """Return what a campaign's line is about: one that is the same is not news."""
    campaign = status.campaign
    # Not the wait's sentence, which may count seconds.
    return campaign.state, status.wait.reason_code or "", campaign.reason or ""


def line(status: Status) -> str:
    """Say all of a campaign in one line."""
    campaign, total = status.campaign, status.progress.scanned
    far = f"{_done(status):,} of {total:,}"
    parts: Iterable[str] = (
        f"{campaign.kind} {campaign.id}: {campaign.state} - {far}",
        *details(status),
    )
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Say a time span in its two largest units."""
    left = round(seconds)
    said: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not said):
            said.append(f"{count:,} {unit}")
    return " ".join(said[:2])


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"
