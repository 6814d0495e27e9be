"""`rewrap backup` and `rewrap backup-key`: encrypted backups of wraps, and who can open them."""

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from keywrap.backups.bundle import BackupError, create_identity
from keywrap.backups.opening import Bundle, Opened
from keywrap.backups.restoring import Restored, Restorer
from keywrap.backups.vault import Vault
from keywrap.config import open_keys, open_reader
from keywrap.rewrapping import Outcome
from keywrap.tables.store import StoreConfig, open_store
from keywrap.threads import StoreThreads
from ledger import backups
from ledger.approvals import Action
from ledger.campaigns import Request
from ledger.states import Kind
from scheduler import approving, showing
from scheduler.approving import break_glass
from scheduler.backing import backs_up
from scheduler.commands.reading import CAMPAIGN_ID, as_json
from scheduler.commands.starting import confirm, follow, open_campaign, prefix, wait, yes
from scheduler.desk import DONE, EXCEPTIONS, USAGE, Desk, DeskError, operator
from scheduler.deskjournal import noting
from workers.composition import vault_of

_IDENTITY_BYTES = 64 * 1024


@click.command("backup-key")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE")
def backup_key(out: Path) -> int:
    """Make the key that opens backups, and print the table [backup] for the configuration.

    FILE is an age identity: take it offline, to a place that no machine of this service reaches.
    Without it no backup opens.

    Example: rewrap backup-key --out backup.key
    """
    identity, recipient = create_identity()
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise DeskError(
            f"{out} cannot be made: {error.strerror}; nothing was changed",
            exit_code=USAGE,
            reason_code="backup_key_not_made",
            next_command="rewrap backup-key --out OTHER_FILE",
        ) from error
    with os.fdopen(file, "w", encoding="ascii") as output:
        output.write(f"# public key: {recipient}\n{identity}\n")
        output.flush()
        os.fsync(output.fileno())
    click.echo(f'[backup]\nrecipients = ["{recipient}"]')
    click.echo(f"next: keep {out} offline; without it no backup opens", err=True)
    return DONE


@click.group()
def backup() -> None:
    """Write, list, verify and restore encrypted backups of wraps."""


@backup.command()
@prefix
@click.option("--escrow", is_flag=True, help="Back up the data keys themselves too.")
@wait
@click.pass_obj
def create(desk: Desk, prefix: str, *, escrow: bool, wait: bool) -> int:
    """Back up the wraps of the store now. Every campaign does so by itself before it moves any.

    A backup of wraps dies with the key that made them. With --escrow it holds the data keys
    themselves, which whoever has the offline identity can use for ever.

    Example: rewrap backup create --wait
    """
    backs_up(desk, escrow=True)
    request = Request(
        Kind.BACKUP,
        operator(),
        prefix=prefix,
        store=desk.settings.keywrap.store.place,
        backs_up=True,
        escrow=escrow,
    )
    campaign_id = open_campaign(desk, request)
    return follow(desk, campaign_id) if wait else DONE


@backup.command("list")
@as_json
@click.pass_obj
def listing(desk: Desk, *, as_json: bool) -> None:
    """List the newest backups, with the SHA-256 that stands for each.

    Example: rewrap backup list
    """
    with desk.ledger.begin() as connection:
        found = backups.recent(connection)
    if as_json:
        showing.document([_document(one) for one in found])
        return
    for one in found:
        opened = f"verified {one.verified_at:%Y-%m-%d}" if one.verified_at else "never verified"
        click.echo(f"{one.campaign_id}  {one.blobs:,} blobs  {opened}  {one.place}")
        click.echo(f"   {one.manifest}  sha256 {one.sha256}")
    if not found:
        click.echo("no backups yet\nnext: rewrap backup create")


def _document(one: backups.Backup) -> dict[str, Any]:
    times = {"created_at": one.created_at, "verified_at": one.verified_at}
    return asdict(one) | {
        k: at.isoformat(timespec="seconds") if at else None for k, at in times.items()
    }


_identity = click.option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The offline age identity; without it only the digests are checked.",
)
_place = click.option("--from", "place", metavar="URL", help="The place [default: of [backup]].")


@backup.command()
@click.argument("campaign", type=CAMPAIGN_ID)
@_identity
@_place
@as_json
@click.pass_obj
def verify(
    desk: Desk, campaign: int, identity: Path | None, place: str | None, *, as_json: bool
) -> int:
    """Prove a backup whole: every part is there, unaltered and, with --identity, opens.

    CAMPAIGN is the campaign that it was made for.

    Example: rewrap backup verify 3 --identity backup.key
    """
    with desk.ledger.begin() as connection:
        known = backups.get(connection, campaign)
    if known is None:
        raise DeskError(
            f"campaign {campaign} has no backup",
            exit_code=USAGE,
            reason_code="no_such_backup",
            next_command="rewrap backup list",
        )
    bundle = Bundle(_vault(desk, place), known.manifest, known.sha256)
    found = bundle.check() if identity is None else bundle.open(_read(identity))
    if identity is not None and found.is_whole:
        with desk.ledger.begin() as connection:
            backups.note_verified(connection, campaign, known.sha256)
    _show(found, as_json=as_json)
    return DONE if found.is_whole else EXCEPTIONS


def _show(found: Opened, *, as_json: bool) -> None:
    if as_json:
        showing.document(found.document())
        return
    for line in found.lines():
        click.echo(line)


@backup.command()
@click.option("--manifest", metavar="NAME", help="The list of parts [default: the newest there].")
@click.option(
    "--identity",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The offline age identity.",
)
@_place
@prefix
@break_glass
@yes
@as_json
@click.pass_obj
def restore(  # noqa: PLR0913 - one for each word of the command line
    desk: Desk,
    manifest: str | None,
    identity: Path,
    place: str | None,
    prefix: str,
    *,
    break_glass: str,
    yes: bool,
    as_json: bool,
) -> int:
    """Put wraps of a backup back, where the blob does not open now and the old wrap opens it.

    A blob that opens is left alone, and so is one whose content has been written anew since. Needs
    neither ledger nor workers: a configuration with [store] and [keys], the backup, the identity.

    Example: rewrap backup restore --identity backup.key --from file:///mnt/backups
    """
    identities = _read(identity)
    bundle = Bundle.find(_vault(desk, place), manifest)
    confirm(lambda: None if as_json else _say(bundle), yes=yes)
    settings = desk.settings
    plan = {
        "store": settings.keywrap.store.place,
        "from": bundle.vault.place,
        "manifest": bundle.name,
        "sha256": hashlib.sha256(bundle.manifest.encode()).hexdigest(),
        "prefix": prefix,
    }
    permit = approving.permit(desk, Action.RESTORE, plan, break_glass)
    pool = StoreThreads(settings.workers.threads)
    restorer = Restorer(
        open_reader(settings.keywrap, threads=settings.workers.threads),
        open_keys(settings.keywrap, os.environ),
        settings.keywrap.store.legacy_content,
        pool,
    )
    total = Restored()
    with noting(desk, bundle.manifest.campaign) as journal:
        restorer = replace(restorer, journal=journal)
        for kept in bundle.parts(identities):
            total.add(restorer.restore([k for k in kept if k.blob_id.startswith(prefix)]))
    if permit.approval is not None:
        with desk.ledger.begin() as connection:
            permit.spend(connection)  # at the end: one that was cut off goes on without asking
    if as_json:
        showing.document(total.document())
    else:
        for line in total.lines():
            click.echo(line)
    return EXCEPTIONS if total.counts[Outcome.QUARANTINED] or total.counts[Outcome.FAILED] else DONE


def _say(bundle: Bundle) -> None:
    manifest = bundle.manifest
    click.echo(f"restore: {manifest.blobs:,} blobs of {bundle.name}, made {manifest.created_at}")
    click.echo("  only where the blob does not open now, and what is restored opens its content")


def _vault(desk: Desk, place: str | None) -> Vault:
    if place is None:
        return vault_of(desk.settings)
    return Vault(open_store(StoreConfig(url=place)), place)


def _read(identity: Path) -> str:
    try:
        with identity.open(encoding="utf-8") as file:
            return file.read(_IDENTITY_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(
            "backup_identity_missing", f"{identity} cannot be read: {error}"
        ) from error
