"""How campaigns look on a terminal, and as plain lines where there is none."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from keywrap.rewrapping import Outcome
from ledger.campaigns import Campaign
from ledger.findings import CensusLine
from ledger.states import COUNTING, OPENING, Kind, State
from scheduler import board
from scheduler.status import Status
from workers import plaintext

_POLL_S = 0.5
_PLAIN_EVERY_S = 5.0

plain = plaintext.plain


def document(value: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2))


def status(status: Status) -> None:
    """Print one campaign: state, counts, failures by reason, and what to type next."""
    Console().print(_panel(status))


def _panel(status: Status) -> Table:
    campaign, done = status.campaign, status.progress
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    target = f" → {campaign.target}" if campaign.target else ""
    table.add_row("campaign", Text(f"{campaign.id}  {_kind(campaign)}{target}"))
    table.add_row("state", Text(_state(status)))
    scope = f"prefix {plain(campaign.prefix)!r}" if campaign.prefix else "the whole store"
    proof = f", prove {campaign.prove}" if campaign.prove else ""
    urgent = ", urgent" if campaign.urgent else ""
    table.add_row("scope", Text(f"{scope}{proof}{urgent}"))
    counts = ", ".join(f"{done.counts[o]:,} {o}" for o in Outcome if done.counts[o])
    pending = "" if campaign.kind in COUNTING else f" · {done.pending:,} pending"
    table.add_row("blobs", Text(f"{done.scanned:,} scanned{pending} · {counts or 'none decided'}"))
    if done.rate_per_s:
        eta = f" · ETA {board.duration(status.eta_s)}" if status.eta_s else ""
        table.add_row("rate", Text(f"{done.rate_per_s:,.0f}/s{eta}"))
    if status.pace:
        table.add_row("pace", Text(_pace(status.pace)))
    if status.forecast:
        table.add_row("forecast", Text(status.forecast.sentence()))
    if done.verified and campaign.kind not in OPENING:
        table.add_row("proof", Text(f"{done.verified:,} sampled blobs opened, content and all"))
    if status.proves:
        table.add_row("proves", Text(status.proves))
    for (outcome, code), blobs in status.failures.items():
        table.add_row(outcome, Text(f"{blobs:,} of {code}"))
    if campaign.kind is Kind.REENCRYPT and done.scanned and not status.is_unwound:
        table.add_row("note", "old contents stay in the store: the old data keys open them there")
        table.add_row("", Text(f"until they are swept: rewrap sweep {campaign.id}"))
    if campaign.kind is Kind.SWEEP:
        table.add_row("freed", Text(f"{done.content_bytes:,} bytes of old contents"))
    if status.wait.next_command:
        table.add_row("next", Text(status.wait.next_command))
    return table


def _pace(pace: Mapping[str, Any]) -> str:
    said = [f"{pace['used_per_s']:,} requests/s"]
    if pace["quota_per_s"]:
        said.append(f"{pace['allowed_per_s']:,} allowed of a quota of {pace['quota_per_s']:,}")
    if pace["max_rate_per_s"]:
        said.append(f"at most {pace['max_rate_per_s']:,}")
    if pace["throttled"]:
        said.append(f"throttled {pace['throttled']:,} times")
    return " · ".join(said)


def _kind(campaign: Campaign) -> str:
    return f"{campaign.kind} {campaign.plan_of}" if campaign.plan_of else campaign.kind


def _state(status: Status) -> str:
    reason = f": {plain(status.wait.reason)}" if status.wait.reason else ""
    return f"{status.campaign.state}{reason}"


def table(texts: Sequence[str], figures: Sequence[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table.

    Args:
        texts: the headings of columns of text, which may be folded.
        figures: the headings of the columns of figures that follow.
        rows: what stands in them.
    """
    drawn = Table(box=None)
    for heading in texts:
        drawn.add_column(heading, overflow="fold")
    for heading in figures:
        drawn.add_column(heading, justify="right")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console().print(drawn)


def campaign_list(found: Iterable[Campaign]) -> None:
    """Print campaigns, the newest first."""
    rows = (
        (
            *(str(c.id), _kind(c), c.state, str(c.target or ""), plain(c.requested_by)),
            f"{c.created_at:%m-%d %H:%M}",
        )
        for c in found
    )
    table(("id", "kind", "state", "target", "asked by", "asked at"), (), rows)


def census(lines: Iterable[CensusLine]) -> None:
    """Print who wraps what."""
    rows = (
        (x.provider, x.key, x.version, x.problem, f"{x.blobs:,}", f"{x.previous:,}") for x in lines
    )
    table(("provider", "key", "version", "problem"), ("blobs", "previous"), rows)


def is_over(status: Status) -> bool:
    """Whether a campaign is finished, or only a person can take it further."""
    return status.campaign.is_finished or status.campaign.state in {State.PAUSED, State.STOPPED}


def until_finished(
    read: Callable[[], Status], is_over: Callable[[Status], bool] = is_over
) -> Status:
    """Show a campaign's progress until it is over.

    Args:
        read: reads its status.
        is_over: whether nothing more is to be waited for.

    Returns:
        The last status read.
    """
    console = Console()
    if console.is_terminal:
        return _live(console, read, is_over)
    return _plain_lines(read, is_over)


def _live(
    console: Console, read: Callable[[], Status], is_over: Callable[[Status], bool]
) -> Status:
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            now = read()
            live.update(board.block(now))
            if is_over(now):
                return now
            time.sleep(_POLL_S)


def _plain_lines(read: Callable[[], Status], is_over: Callable[[Status], bool]) -> Status:
    said, said_at = board.NO_REASON, float("-inf")
    while True:
        now = read()
        over = is_over(now)
        key = board.reason(now)
        again = now.campaign.state is not State.BLOCKED
        if key != said or over or (again and time.monotonic() - said_at > _PLAIN_EVERY_S):
            said, said_at = key, time.monotonic()
            click.echo(board.line(now))
        if over:
            return now
        time.sleep(_POLL_S)


def rows_as_json(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array, row by row, so that a million of them need no memory."""
    click.echo("[", nl=False)
    for number, row in enumerate(rows):
        click.echo(("," if number else "") + "\n" + json.dumps(row), nl=False)
    click.echo("\n]")


def silently(read: Callable[[], Status], is_over: Callable[[Status], bool] = is_over) -> Status:
    """Wait until a campaign is over without a word; return the last status read."""
    while not is_over(now := read()):
        time.sleep(_POLL_S)
    return now
