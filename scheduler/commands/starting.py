"""`rewrap start` and `rewrap verify`: opening a campaign."""

import sys
from collections.abc import Callable

import click

from keywrap.rewrapping import Prove
from ledger import campaigns
from ledger.campaigns import MIN_SAMPLE, Request
from ledger.states import Kind, State
from scheduler import showing
from scheduler.commands.reading import as_json, status_of
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, USAGE, Desk, DeskError, operator
from scheduler.status import Status

yes = click.option("--yes", is_flag=True, help="Go ahead without asking.")
wait = click.option("--wait", is_flag=True, help="Show its progress until it is finished.")


def _unicode(_context: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not Unicode; blobs of such ids are quarantined") from None
    return value


prefix = click.option(
    "--prefix", default="", metavar="P", callback=_unicode, help="Only blobs whose id starts so."
)

_DEFAULT_SAMPLE = 0.01


class ProveType(click.ParamType[tuple[Prove, float | None]]):
    """`all`, `content`, or `sample:P` with P the percentage of blobs to open."""

    name = "all|sample:P|content"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Prove, float | None]:
        """Read the option's value."""
        text = str(value)
        if text in {Prove.ALL, Prove.CONTENT}:
            return Prove(text), None
        mode, _, percent = text.partition(":")
        try:
            fraction = float(percent.removesuffix("%")) / 100
        except ValueError:
            fraction = -1.0
        if mode != Prove.SAMPLE or not 0 <= fraction <= 1:
            self.fail("expected all, content, or sample:P with P from 0 to 100", param, ctx)
        return Prove.SAMPLE, fraction


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
            "this moves keys and there is no terminal to ask; nothing was changed",
            exit_code=USAGE,
            reason_code="yes_wanted",
            next_command=f"{' '.join(['rewrap', *sys.argv[1:]])} --yes",
        )
    if not click.confirm("Go ahead?"):
        raise DeskError(
            "not confirmed; nothing was changed", exit_code=REFUSED, reason_code="not_confirmed"
        )


@click.command()
@click.argument("kind", type=click.Choice([Kind.MIGRATE.value, Kind.ROTATE.value]))
@prefix
@click.option("--to", "key", metavar="KEY", help="The KEK to wrap under [default: the primary].")
@click.option("--prove", type=ProveType(), help="How new wraps are proved before they are used.")
@yes
@wait
@click.pass_obj
def start(
    desk: Desk,
    kind: str,
    prefix: str,
    key: str | None,
    prove: tuple[Prove, float | None] | None,
    *,
    yes: bool,
    wait: bool,
) -> int:
    """Open a campaign: migrate legacy wraps to the KEK, or rotate wraps to its current version.

    Prints the campaign's id. Blobs stay readable all along, and running it twice changes nothing.

    Example: rewrap start migrate --wait
    """
    how, fraction = prove or _default_proof(Kind(kind))
    target = desk.kek(key).current_version()
    request = Request(
        kind=Kind(kind),
        requested_by=operator(),
        prefix=prefix,
        target=target,
        prove=how,
        sample=fraction,
        store=desk.settings.keywrap.store.place,
    )
    desk.ledger  # noqa: B018 - unreachable is said before the question
    confirm(lambda: _show_plan(desk, request), yes=yes)
    campaign_id = open_campaign(desk, request)
    return follow(desk, campaign_id) if wait else DONE


def _default_proof(kind: Kind) -> tuple[Prove, float | None]:
    # A legacy key shows the data key to the worker anyway, so all is proved. A rotation leaves it
    # in the KMS, and a sample is opened by the verifying task.
    return (Prove.ALL, None) if kind is Kind.MIGRATE else (Prove.SAMPLE, _DEFAULT_SAMPLE)


def open_campaign(desk: Desk, request: Request) -> int:
    """Write a request into the ledger and print the campaign's id.

    Raises:
        RequestRefusedError: another open campaign moves some of the same blobs.
    """
    with desk.ledger.begin() as connection:
        campaign_id = campaigns.request(connection, request)
    click.echo(f"campaign {campaign_id} ({request.kind})")
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


def _show_plan(desk: Desk, request: Request) -> None:
    store = desk.settings.keywrap.store
    which = "legacy wraps (dpapi, env)" if request.kind is Kind.MIGRATE else "managed wraps"
    only = f", ids that start with {showing.plain(request.prefix)!r}" if request.prefix else ""
    click.echo(f"{request.kind}: {which} of {store.url}{only}")
    click.echo(f"  to     {request.target}")
    if request.prove is Prove.SAMPLE:
        part = f"{(request.sample or 0) * 100:g}% and never under {MIN_SAMPLE}"
        click.echo(f"  prove  sample: {part} are opened; the others by key and version")
    else:
        click.echo(f"  prove  {request.prove}: each new wrap is opened and compared before use")
    kept = "stays beside the new one" if store.keep_previous else "is dropped"
    click.echo(f"  undo   the old wrap {kept}")
    if request.kind is Kind.MIGRATE and _is_direct(desk):
        click.echo(
            f"  note   {store.legacy_default} is itself the data key of every blob that names no"
            " key: it still opens them afterwards. Only re-encrypting them with keys of their own"
            " changes that."
        )


def _is_direct(desk: Desk) -> bool:
    name = desk.settings.keywrap.store.legacy_default.partition(":")[2]
    listed = desk.settings.keywrap.keys.env.get(name)
    return listed is not None and listed.scheme == "direct"


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
