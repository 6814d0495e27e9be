"""`rewrap backup` and `rewrap backup-key`: encrypted backups of wraps, and who can open them."""

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import msgspec

from keywrap import newfile
from keywrap.backups.bundle import BackupError, create_identity, read_identities
from keywrap.backups.opening import Bundle, Opened
from keywrap.backups.restoring import Restored, Restorer
from keywrap.backups.vault import Vault
from keywrap.config import ConfigError, open_keys, open_reader
from keywrap.rewrapping import Outcome
from keywrap.stores import StoreUnavailableError
from keywrap.tables.store import StoreConfig, check_store, open_store
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
from scheduler.desk import DONE, EXCEPTIONS, UNREACHABLE, USAGE, Desk, DeskError, operator
from scheduler.deskjournal import noting
from workers.composition import vault_of
from workers.settings import Settings

_IDENTITY_BYTES = 64 * 1024


@click.command("backup-key")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the identity is written, as a new file.",
)
def backup_key(out: Path) -> int:
    """Make the key that opens backups, and print the table [backup] for the configuration.

    FILE is an age identity: take it offline, to a place that no machine of this service reaches.
    Without it no backup opens.

    Example: rewrap backup-key --out backup.key
    """
    identity, recipient = create_identity()
    try:
        newfile.create(out, f"# public key: {recipient}\n{identity}\n".encode("ascii"), 0o600)
    except OSError as error:
        raise DeskError(
            f"{out} cannot be made: {error.strerror}; nothing was changed",
            exit_code=USAGE,
            reason_code="backup_key_not_made",
            next_command="rewrap backup-key --out OTHER_FILE",
        ) from error
    click.echo(f'[backup]\nrecipients = ["{recipient}"]')
    click.echo(f"next: keep {out} offline; without it no backup opens", err=True)
    return DONE


@click.group()
def backup() -> None:
    """Write, list, verify and restore encrypted backups of wraps; docs/backup.md.

    Example: rewrap backup list
    """


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
_place = click.option(
    "--from",
    "place",
    metavar="URL",
    help="The place, reached as [backup.store] or else [store] says  [default: of [backup]].",
)


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
    # What cannot be used is told before anybody is asked, a second person too.
    identities = _read(identity)
    read_identities(identities)
    settings, restorer = desk.settings, _restorer(desk.settings)
    bundle = Bundle.find(_vault(desk, place), manifest)
    confirm(lambda: None if as_json else _say(bundle, settings, prefix), yes=yes)
    plan = {
        "store": settings.keywrap.store.place,
        "from": bundle.vault.place,
        "manifest": bundle.name,
        "sha256": hashlib.sha256(bundle.manifest.encode()).hexdigest(),
        "prefix": prefix,
    }
    permit = approving.permit(desk, Action.RESTORE, plan, break_glass)
    total = Restored()
    with noting(desk, bundle.manifest.campaign) as journal:
        restorer = replace(restorer, journal=journal)
        for kept in bundle.parts(identities):
            total.add(restorer.restore([k for k in kept if k.blob_id.startswith(prefix)]))
    _require_some(total, bundle, prefix)
    if permit.approval is not None:
        with desk.ledger.begin() as connection:
            permit.spend(connection)  # at the end: one that was cut off goes on without asking
    if as_json:
        showing.document(total.document())
    else:
        for line in total.lines():
            click.echo(line)
    return EXCEPTIONS if total.counts[Outcome.QUARANTINED] or total.counts[Outcome.FAILED] else DONE


def _restorer(settings: Settings) -> Restorer:
    return Restorer(
        open_reader(settings.keywrap, threads=settings.workers.threads),
        open_keys(settings.keywrap, os.environ),
        settings.keywrap.store.legacy_content,
        StoreThreads(settings.workers.threads),
    )


def _say(bundle: Bundle, settings: Settings, prefix: str) -> None:
    manifest, place = bundle.manifest, settings.keywrap.store.place
    click.echo(f"restore: {manifest.blobs:,} blobs of {bundle.name}, made {manifest.created_at}")
    only = f", ids that start with {showing.plain(prefix)!r}" if prefix else ""
    click.echo(f"  from   {bundle.vault.place}")
    click.echo(f"  into   {place}{only}")
    if manifest.store != place:
        click.echo(f"  NOTE   it was made of another store: {showing.plain(manifest.store)}")
    click.echo("  only where the blob does not open now, and what is restored opens its content")


def _require_some(total: Restored, bundle: Bundle, prefix: str) -> None:
    """See that a restore of some blobs was one of any.

    Raises:
        DeskError: no blob of the backup starts so.
    """
    if prefix and not total.counts.total():
        raise DeskError(
            f"none of the {bundle.manifest.blobs:,} blobs of {bundle.name} has an id that starts "
            f"with {showing.plain(prefix)!r}; nothing was changed",
            exit_code=USAGE,
            reason_code="no_such_blobs",
            next_command="check --prefix, or leave it out for all",
        )


def _vault(desk: Desk, place: str | None) -> Vault:
    """Open where the backups are.

    Raises:
        DeskError: what was typed names no place.
        StoreUnavailableError: it is not there.
    """
    if place is None:
        return vault_of(desk.settings)
    try:
        store = place_of(desk.settings, place)
        check_store(store)
        return Vault(open_store(store), place)
    except ConfigError as error:
        raise _bad_place(place, error) from error
    except StoreUnavailableError as error:
        raise DeskError(
            f"--from {showing.plain(place)}: {error}; nothing was changed",
            exit_code=UNREACHABLE,
            reason_code=error.reason_code,
            next_command="see that the place of the backups is there, and --from names it",
        ) from error


def place_of(settings: Settings, url: str) -> StoreConfig:
    """Return how a place of backups is reached that was typed as a URL alone.

    Its endpoint, Region and credentials are those of `[backup.store]`, else of `[store]`, where
    that is of the same kind: no backup on S3 is reached without any.
    """
    scheme = url.partition("://")[0]
    for known in (settings.backup.store, settings.keywrap.store):
        if known is not None and known.url.partition("://")[0] == scheme:
            return msgspec.structs.replace(known, url=url)
    return StoreConfig(url=url)


def _bad_place(place: str, error: ConfigError) -> DeskError:
    what = str(error).removeprefix(f"{error.place}: ")
    return DeskError(
        f"--from {showing.plain(place)}: {what}; nothing was changed",
        exit_code=USAGE,
        reason_code="backup_place_invalid",
        next_command=(
            "--from file:///mnt/backups; where it needs an endpoint, a Region or credentials, name "
            "them with it in [backup.store]"
        ),
    )


def _read(identity: Path) -> str:
    try:
        with identity.open(encoding="utf-8") as file:
            return file.read(_IDENTITY_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(
            "backup_identity_missing", f"{identity} cannot be read: {error}"
        ) from error
