"""`rewrap plan`: what a campaign would do, without doing it."""

import contextlib
import time

import click

from ledger import campaigns, wishes
from ledger.campaigns import RequestRefusedError
from ledger.states import Kind, State
from scheduler import plan_lines, plans, showing
from scheduler.commands.reading import as_json, status_of
from scheduler.commands.starting import kind, prefix, prove, to
from scheduler.desk import DONE, EXCEPTIONS, UNREACHABLE, Desk
from scheduler.plans import Report
from scheduler.proofs import Proof
from scheduler.proposals import propose
from scheduler.status import Status

_SAMPLE = 500
_BLOCKED_FOR_S = 10.0
"""A key or service that refuses for so long is what the plan was to find out."""


@click.command()
@kind
@prefix
@to
@prove
@click.option(
    "--sample",
    default=_SAMPLE,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Take N random blobs that would move as far as the write.",
)
@as_json
@click.pass_obj
def plan(
    desk: Desk,
    kind: str,
    prefix: str,
    key: str | None,
    prove: Proof | None,
    sample: int,
    *,
    as_json: bool,
) -> int:
    """Say what `start` would do: a dry run that scans the store and opens a sample.

    Reads every sidecar, and takes a sample through all steps but the last, so that wraps that do
    not open and rights that are missing are found. Writes nothing to the store.

    Example: rewrap plan migrate --sample 500
    """
    proposal = propose(desk, Kind(kind), prefix, key, prove)
    with desk.ledger.begin() as connection:
        plan_id = campaigns.request(connection, proposal.plan_request(sample))
    show = showing.silently if as_json else showing.until_finished
    end = show(lambda: status_of(desk, plan_id), _Patience().is_over)
    if end.campaign.state is State.BLOCKED:
        _cancel(desk, end)
    report = plans.read(desk.ledger, proposal, end, desk.settings.scheduler.scan_parts)
    if as_json:
        showing.document(report.document())
    else:
        _print(report)
    return _exit_code(report)


class _Patience:
    """Waits for a plan, but not for a key or service that goes on refusing."""

    def __init__(self) -> None:
        self._blocked_since: float | None = None

    def is_over(self, now: Status) -> bool:
        if now.campaign.state is not State.BLOCKED:
            self._blocked_since = None
            return showing.is_over(now)
        if self._blocked_since is None:
            self._blocked_since = time.monotonic()
        return time.monotonic() - self._blocked_since > _BLOCKED_FOR_S


def _cancel(desk: Desk, end: Status) -> None:
    with contextlib.suppress(RequestRefusedError), desk.ledger.begin() as connection:
        wishes.cancel(connection, desk.campaign(end.campaign.id))


def _print(report: Report) -> None:
    if not report.is_whole:
        showing.status(report.status)
        click.echo("the plan is not whole: a campaign would wait or stop here as well")
        if report.status.campaign.state is State.BLOCKED:
            click.echo("the plan is cancelled: run it again when that is mended")
        return
    for line in plan_lines.lines(report):
        click.echo(line)
    if report.next_command:
        click.echo(f"next: {report.next_command}")
    else:
        click.echo("nothing to do: no wrap would move")


def _exit_code(report: Report) -> int:
    if report.status.campaign.state is State.BLOCKED:
        return UNREACHABLE
    return DONE if report.is_whole and report.is_clean else EXCEPTIONS
