"""`rewrap ledger rebuild`: after PostgreSQL was lost, and no copy of it is left."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from keywrap.audithead import NAME as HEAD_NAME
from keywrap.keys import LEGACY_PROVIDERS
from ledger import HEAD, dropping, schema
from scheduler import showing
from scheduler.commands.reading import CAMPAIGN_ID, as_json, status_of
from scheduler.commands.starting import confirm, yes
from scheduler.desk import Desk
from scheduler.rebuilding import Rebuilding
from scheduler.rebuilding import rebuild as rebuild_ledger
from scheduler.trail import folders_of
from workers.composition import ledger_of


@click.group("ledger")
def ledger() -> None:
    """Migrate the ledger, rebuild it when it was lost, and drop what is not needed in it any more.

    Example: rewrap ledger migrate
    """


@ledger.command()
@click.pass_obj
def migrate(desk: Desk) -> None:
    """Bring the schema to that of this release, as `rewrap scheduler` does when it starts.

    For a deployment that does it as a step of its own. Several at once do no harm; a schema that is
    there already is left as it is. Exit code 3: PostgreSQL does not answer, or its tables stay in
    use; nothing was changed then.

    Example: rewrap ledger migrate
    """
    opened = ledger_of(desk.settings)
    try:
        schema.upgrade(opened)
    finally:
        opened.close()
    click.echo(f"the ledger's schema is {HEAD}")


@ledger.command()
@click.argument("campaign", type=CAMPAIGN_ID)
@yes
@click.pass_obj
def drop(desk: Desk, campaign: int, *, yes: bool) -> None:
    """Drop the lists of a finished campaign: which blobs there were, and each one's outcome.

    Its counts, backups, approvals and audit events stay. Takes milliseconds, however many blobs
    there are. Refused while somebody needs the lists: for exceptions, for `retire` to see what a
    backup needs, before `seal` or `undo`, and of the newest inventory. No certificate can be made
    for it afterwards.

    Example: rewrap ledger drop 12
    """
    found = desk.campaign(campaign)
    leaves_previous = desk.settings.keywrap.store.keep_previous
    with desk.ledger.begin() as connection:
        dropping.refuse_needed(connection, found, leaves_previous=leaves_previous)
    told = f"campaign {found.id}: {found.kind}, {found.state}; its lists are dropped for good"
    confirm(lambda: click.echo(told), yes=yes)
    with desk.ledger.begin() as connection:
        dropping.drop_lists(connection, found, leaves_previous=leaves_previous)
    click.echo("dropped; its counts are still there")
    click.echo(f"next: rewrap status {found.id}")


@ledger.command()
@click.option(
    "--directory",
    "folders",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    multiple=True,
    metavar="D",
    help="Where segments of the lost trail are; may be given again  [default: of [audit]]",
)
@as_json
@click.pass_obj
def rebuild(desk: Desk, folders: tuple[Path, ...], *, as_json: bool) -> None:
    """Fill an empty ledger from the store: the inventory, and what campaigns have left there.

    Put back a copy of PostgreSQL instead, if there is one: it knows more. Reads sidecars only,
    changes no blob and opens no key. A blob with the wrap before the newest beside it becomes
    `rewrapped` in a campaign that `seal` and `undo` take; all others the next campaign decides
    anew. Scheduler and workers must run.

    Example: rewrap ledger rebuild
    """
    show = showing.silently if as_json else showing.until_finished
    found = rebuild_ledger(
        desk,
        folders_of(desk, folders),
        lambda campaign_id: show(lambda: status_of(desk, campaign_id)),
    )
    if as_json:
        showing.document(_document(found))
        return
    showing.census(found.census)
    for line in _lines(found):
        click.echo(line)


def _document(found: Rebuilding) -> dict[str, object]:
    return {
        "scan": found.scan_id,
        "scanned": found.scanned,
        "by_key": [asdict(line) for line in found.census],
        "campaigns": [
            {
                "campaign": one.campaign_id,
                "kind": one.kind.value,
                "target": str(one.target),
                "rewrapped": one.blobs,
            }
            for one in found.rebuilt
        ],
        "previous_elsewhere": found.elsewhere,
        "last_lost_campaign": found.lost_id or None,
        "control_serial": found.control_serial,
        "audit_head": found.audit_head or None,
    }


def _lines(found: Rebuilding) -> Iterator[str]:
    for one in found.rebuilt:
        yield f"campaign {one.campaign_id}: {one.kind} to {one.target}, {one.blobs:,} rewrapped"
    if not found.rebuilt:
        yield "no sidecar keeps an old wrap: there is nothing to seal or undo"
    if found.elsewhere:
        yield (
            f"{found.elsewhere:,} old wraps belong to none of these campaigns: the key of the live "
            "wrap is a legacy one, is not listed in [keys], or has very many versions"
        )
    if found.lost_id:
        yield f"new campaigns have numbers above {found.lost_id}, the last that is known of"
    if found.control_serial is not None:
        yield f"control file: serial {found.control_serial}, noted"
    yield "lost: approvals, schedules, retirements, the audit chain, the digests of older backups"
    if found.audit_head or found.head_trouble:
        what = found.head_trouble or f"its signed head is {found.audit_head}"
        yield (
            f"audit: {what}; no new head is signed before {HEAD_NAME} is moved out of the store "
            "(keep it, with the segments)"
        )
    legacy = any(line.provider in LEGACY_PROVIDERS for line in found.census)
    yield f"next: rewrap plan {'migrate' if legacy else 'rotate'}"
