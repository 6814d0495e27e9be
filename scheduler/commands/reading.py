"""`rewrap status` and `rewrap blobs`: what stands in the ledger."""

from collections.abc import Iterable
from dataclasses import asdict, replace

import click

from keywrap.rewrapping import Outcome
from ledger import campaigns, progress
from scheduler import paces, showing, waits
from scheduler.desk import Desk
from scheduler.status import Status
from scheduler.status import read as read_status

CAMPAIGN_ID = click.IntRange(1, 2**31 - 1)
"""A campaign's id, as PostgreSQL's `integer` holds it."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
"""`--json`, the same on every reading command."""


def status_of(desk: Desk, campaign_id: int) -> Status:
    """Read the status of a campaign.

    Raises:
        DeskError: there is none of that id, or the ledger does not answer.
    """
    found = read_status(
        desk.ledger,
        campaign_id,
        keeps_previous=desk.settings.keywrap.store.keep_previous,
        windows=desk.settings.windows,
    )
    if found is None:
        desk.campaign(campaign_id)  # raises
        raise AssertionError
    return replace(found, pace=paces.of(desk.settings, found.campaign))


@click.command()
@click.argument("campaign", type=CAMPAIGN_ID, required=False)
@click.option("--watch", is_flag=True, help="Follow it, live on a terminal. Ctrl-C ends that.")
@as_json
@click.pass_obj
def status(desk: Desk, campaign: int | None, *, watch: bool, as_json: bool) -> None:
    """Show a campaign: its state, why it waits, counts, rate and failures by reason.

    Without CAMPAIGN, list the newest campaigns; with --watch, follow all that are open: until
    Ctrl-C, or without a terminal until none of them goes on by itself. With --watch --json, print
    a document a line. A ledger that is away for a while is waited for.

    Examples: rewrap status --watch
    rewrap status 3 --watch
    """
    if watch:
        _watch(desk, campaign, as_json=as_json)
    elif campaign is None:
        _list(desk, as_json=as_json)
    elif as_json:
        showing.document(status_of(desk, campaign).document())
    else:
        showing.status(status_of(desk, campaign))


def _watch(desk: Desk, campaign: int | None, *, as_json: bool) -> None:
    from scheduler import watching  # noqa: PLC0415 - it asks the broker, which is slow to load

    try:
        last = watching.watch(desk, campaign, status_of, showing.is_over, as_json=as_json)
    except KeyboardInterrupt:
        return  # how one stops to watch
    if campaign is not None and not as_json:
        showing.status(last.statuses[0])


def _list(desk: Desk, *, as_json: bool) -> None:
    with desk.ledger.begin() as connection:
        found = campaigns.recent(connection)
    if as_json:
        showing.document([status_of(desk, c.id).document() for c in found])
    elif found:
        showing.campaign_list(found)
        _say_waits([status_of(desk, c.id) for c in found if not c.is_finished])
    else:
        click.echo("no campaigns yet\nnext: rewrap inventory")


def _say_waits(opened: Iterable[Status]) -> None:
    """Say why campaigns do not move, each reason once, and what to type."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for one in opened:
        wait, command = one.wait, one.wait.next_command or ""
        if not wait.reason or command.endswith("--watch"):
            continue
        # A second passes between two readings: how long nobody has ticked is no other reason.
        reason = "" if wait.reason_code == waits.NO_SCHEDULER else wait.reason
        found.setdefault((reason, command), (wait.reason, []))[1].append(str(one.campaign.id))
    for (_, command), (reason, ids) in found.items():
        click.echo(f"waits ({', '.join(ids)}): {showing.plain(reason)}")
        if command:
            click.echo(f"next: {command}")


def say_silence(desk: Desk, unless_so: str) -> None:
    """Say where no scheduler ticks, which is who does what a list is about.

    Args:
        desk: the operator's desk.
        unless_so: what does not happen without one.
    """
    with desk.ledger.begin() as connection:
        silent = waits.silence(connection)
    if silent:
        click.echo(f"no scheduler has ticked {silent}: {unless_so}\nnext: rewrap scheduler")


@click.command()
@click.argument("campaign", type=CAMPAIGN_ID)
@click.option("--outcome", type=click.Choice([o.value for o in Outcome]), help="Only these.")
@as_json
@click.pass_obj
def blobs(desk: Desk, campaign: int, outcome: str | None, *, as_json: bool) -> None:
    """List the blobs of a campaign and what happened to each, with the reason.

    Example: rewrap blobs 3 --outcome quarantined
    """
    desk.listed_campaign(campaign)
    with desk.ledger.begin() as connection:
        found = progress.blobs(connection, campaign, Outcome(outcome) if outcome else None)
        if as_json:
            showing.rows_as_json(asdict(blob) for blob in found)
            return
        none = True
        for blob in found:
            none = False
            why = f"  {blob.reason_code}: {showing.plain(blob.detail)}" if blob.reason_code else ""
            click.echo(f"{blob.outcome:<12}{showing.plain(blob.blob_id)}  {blob.key_id}{why}")
    if none:
        click.echo("none", err=True)
