"""`rewrap start` and `rewrap verify`: opening a campaign."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import click

from ledger import campaigns
from ledger.campaigns import Request
from ledger.states import REWRAPPING, Kind, State
from scheduler import mismatch, showing
from scheduler.approving import break_glass, opening
from scheduler.backing import backs_up
from scheduler.commands.reading import as_json, status_of
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, USAGE, Desk, DeskError, operator
from scheduler.proofs import Proof, ProveType
from scheduler.proposals import Proposal, propose
from scheduler.status import Status
from workers.windows import Window, WindowError, parse_instant

yes = click.option("--yes", is_flag=True, help="Go ahead without asking.")
wait = click.option("--wait", is_flag=True, help="Show its progress until it is finished.")


_MOST_RATE = 1e7


class RunWindow(click.ParamType[str]):
    """A window, as `workers.windows` has it; checked, and kept as it was written."""

    name = "window"

    def convert(
        self, value: str, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """See that it is one."""
        try:
            Window.parse(value)
        except WindowError as error:
            self.fail(str(error), param, context)
        return value


class Instant(click.ParamType[datetime]):
    """A date and time with its zone or offset."""

    name = "time"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, context: click.Context | None
    ) -> datetime:
        """Return it in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_instant(value)
        except WindowError as error:
            self.fail(str(error), param, context)


class RateType(click.ParamType[float]):
    """Requests a second, or `none`."""

    name = "rate"

    def convert(
        self, value: str | float, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Return the rate; 0.0 for none."""
        if value == "none":
            return 0.0
        try:
            rate = float(value)
        except ValueError:
            rate = -1.0
        if not 0 < rate <= _MOST_RATE:
            self.fail("expected requests a second, above 0, or none", param, context)
        return rate


max_rate = click.option(
    "--max-rate",
    type=RateType(),
    metavar="R",
    callback=lambda _context, _param, rate: rate or None,
    help="The most requests a second to key services, of all workers; or none.",
)
urgent = click.option(
    "--urgent", is_flag=True, help="Ignore windows and blackouts, and go before every other."
)
run_window = click.option(
    "--window",
    "run_window",
    type=RunWindow(),
    metavar="W",
    help="Only run then: 'Mon-Fri 22:00-06:00 Europe/Berlin'  [default: of [windows]]",
)


def _unicode(_context: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not Unicode; blobs of such ids are quarantined") from None
    return value


prefix = click.option(
    "--prefix", default="", metavar="P", callback=_unicode, help="Only blobs whose id starts so."
)


def outcome_of(status: Status) -> int:
    """Return the exit code that a campaign's end deserves: failure is never told as success."""
    if status.campaign.state is State.COMPLETE:
        return DONE
    return EXCEPTIONS


def confirm(plan: Callable[[], None], *, yes: bool) -> None:
    """Print a plan and ask; without a terminal `--yes` is wanted.

    Raises:
        DeskError: nobody said yes.
    """
    plan()
    if yes:
        return
    if not sys.stdin.isatty():
        raise DeskError(
            "this is asked about first and there is no terminal to ask; nothing was changed",
            exit_code=USAGE,
            reason_code="yes_wanted",
            next_command=shlex.join(["rewrap", *sys.argv[1:], "--yes"]),
        )
    if not click.confirm("Go ahead?", err=True):  # stdout may hold one JSON document
        raise DeskError(
            "not confirmed; nothing was changed", exit_code=REFUSED, reason_code="not_confirmed"
        )


kind = click.argument("kind", type=click.Choice([kind.value for kind in REWRAPPING]))
to = click.option(
    "--to", "key", metavar="KEY", help="The KEK to wrap under [default: the primary]."
)
prove = click.option(
    "--prove", type=ProveType(), help="How new wraps are proved before they are used."
)


@click.command()
@kind
@prefix
@to
@prove
@click.option("--escrow", is_flag=True, help="Back up the data keys themselves too.")
@urgent
@run_window
@max_rate
@click.option(
    "--finish-by",
    type=Instant(),
    metavar="T",
    help="2026-12-01T06:00 Europe/Berlin: is it in time?",
)
@click.option(
    "--accept-unopenable",
    is_flag=True,
    help="Go ahead though the contents of its plan's sample did not open.",
)
@break_glass
@yes
@wait
@click.pass_obj
def start(  # noqa: PLR0913 - one for each word of the command line
    desk: Desk,
    kind: str,
    prefix: str,
    key: str | None,
    prove: Proof | None,
    *,
    run_window: str | None,
    max_rate: float | None,
    finish_by: datetime | None,
    accept_unopenable: bool,
    break_glass: str,
    urgent: bool,
    escrow: bool,
    yes: bool,
    wait: bool,
) -> int:
    """Open a campaign: migrate legacy wraps to the KEK, rotate wraps, or reencrypt blobs anew.

    Prints the campaign's id. Blobs stay readable all along, and running it twice changes nothing.

    Example: rewrap start migrate --wait
    """
    proposal = propose(desk, Kind(kind), prefix, key, prove)
    proposal = replace(
        proposal,
        backs_up=backs_up(desk, escrow=escrow),
        escrow=escrow,
        run_window=run_window or "",
        max_rate=max_rate,
        finish_by=finish_by,
        urgent=urgent,
    )
    desk.ledger  # noqa: B018 - unreachable is said before the question
    if not accept_unopenable:
        mismatch.require_none(desk, Kind(kind), prefix)
    confirm(lambda: _show(proposal), yes=yes)
    campaign_id = open_campaign(desk, proposal.request(), break_glass)
    return follow(desk, campaign_id) if wait else DONE


def _show(proposal: Proposal) -> None:
    for line in proposal.lines():
        click.echo(line)
    for note in proposal.notes():
        click.echo(f"  note   {note}")


def open_campaign(desk: Desk, request: Request, break_glass: str = "") -> int:
    """Write a request into the ledger and print the campaign's id; see `approving.Opening`.

    Raises:
        DeskError: it needs two people, and who is asking is not known.
        RequestRefusedError: another open campaign moves some of the same blobs.
    """
    with opening(desk, break_glass) as opened:
        campaign_id = opened.request(request)
    of = f" of {request.follows}" if request.follows else ""
    click.echo(f"campaign {campaign_id} ({request.kind}{of})")
    click.echo(f"next: rewrap status {campaign_id} --watch")
    return campaign_id


def follow(desk: Desk, campaign_id: int) -> int:
    """Show a campaign's progress until it is finished; return the exit code of its end."""
    try:
        end = showing.until_finished(lambda: status_of(desk, campaign_id))
    except KeyboardInterrupt:
        click.echo(f"\ncampaign {campaign_id} goes on\nnext: rewrap status {campaign_id} --watch")
        raise
    showing.status(end)
    return outcome_of(end)


@click.command()
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Open N random blobs.")
@click.option("--all", "everything", is_flag=True, help="Open every blob.")
@prefix
@as_json
@click.pass_obj
def verify(desk: Desk, sample: int | None, prefix: str, *, everything: bool, as_json: bool) -> int:
    """Decrypt blobs, content and all, and say what does not open. Changes nothing.

    Example: rewrap verify --sample 500
    """
    if everything == (sample is not None):
        raise click.UsageError("give either --sample N or --all")
    request = Request(
        Kind.VERIFY,
        operator(),
        prefix=prefix,
        sample_size=sample,
        store=desk.settings.keywrap.store.place,
    )
    with desk.ledger.begin() as connection:
        campaign_id = campaigns.request(connection, request)
    show = showing.silently if as_json else showing.until_finished
    end = show(lambda: status_of(desk, campaign_id))
    if as_json:
        showing.document(end.document())
    else:
        showing.status(end)
    return outcome_of(end)
