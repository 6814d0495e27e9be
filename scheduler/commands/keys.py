"""`rewrap create-kek` and `control-key`: the key files that are ours to make."""

import json
import secrets
from pathlib import Path

import click

from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.kms import DeniedError
from keywrap.providers.local import create_key_file
from keywrap.signing import SigningKey
from keywrap.tables import local, vault
from scheduler.desk import REFUSED, UNREACHABLE, USAGE, Desk, DeskError


@click.command("create-kek")
@click.argument("key")
@click.pass_obj
def create_kek(desk: Desk, key: str) -> None:
    """Make the key file of a listed local KEK that is not there yet.

    KEY is its URI, local:NAME. Never overwrites a file. Whoever can read it opens every wrap made
    under it, and without it nobody does: put a copy into a backup of its own.

    Example: rewrap create-kek local:blobs
    """
    name, path = _listed(desk, key)
    try:
        version = create_key_file(path, name)
    except FileExistsError:
        raise DeskError(
            f"{path} is there already and was left as it is",
            exit_code=REFUSED,
            reason_code="already_there",
            next_command=f"rewrap rotate-kek {key}",
        ) from None
    except DeniedError as error:
        if error.reason_code != "key_file_missing":
            raise
        raise DeskError(
            f"{error}; nothing was changed",
            exit_code=UNREACHABLE,
            reason_code=error.reason_code,
            next_command=f"mkdir -m 700 {path.parent}",
        ) from error
    click.echo(f"created {version} in {path}")
    click.echo("next: copy it into a backup of its own, apart from that of the blobs")


def _listed(desk: Desk, key: str) -> tuple[str, Path]:
    """Return the name of a listed local key, and where its file lies.

    Raises:
        DeskError: it is of another kind, or not listed.
    """
    try:
        named = KeyVersion.parse(key)
    except BadKeyIdError as error:
        raise _not_usable(f"{key!r} is {error}", "rewrap create-kek local:NAME") from error
    if named.provider != "local":
        raise _made_elsewhere(named)
    if named.version:
        raise _not_usable(f"{key} names a version", f"rewrap create-kek {named.key}")
    tables = desk.settings.keywrap.keys.local
    name = key.removeprefix(local.PREFIX)
    if name not in tables:
        listed = ", ".join(f"{local.PREFIX}{other}" for other in tables) or "none"
        raise _not_usable(
            f"{key} is not listed; local keys that are: {listed}",
            f'add [keys.local.{name}] with file = "/etc/rewrap/{name}.key.json"',
        )
    return name, Path(tables[name].file)


def _made_elsewhere(named: KeyVersion) -> DeskError:
    """Say how a key is made that is none of ours."""
    if named.is_legacy:
        return _not_usable(f"{named.key} is a legacy key: it only unwraps, and none is made", "")
    service = f"{named.key} is not made here, but in its key service"
    if named.provider == "vault":
        mount, _, name = named.key.removeprefix(vault.PREFIX).rpartition("/")
        return _not_usable(service, f"bao write -f {mount}/keys/{name} derived=true")
    if named.provider == "aws":
        return _not_usable(f"{service}, which gives it its ARN", "aws kms create-key")
    return _not_usable(service, "make it there, then list it in [keys]")


def _not_usable(message: str, next_command: str) -> DeskError:
    return DeskError(
        f"{message}; nothing was changed",
        exit_code=USAGE,
        reason_code="key_not_usable",
        next_command=next_command,
    )


def new_signing_key(path: Path, otherwise: str) -> SigningKey:
    """Make a signing key and its file.

    Args:
        path: the file.
        otherwise: what to type where something has that name already.

    Raises:
        DeskError: something has that name, or it cannot be written.
    """
    try:
        return SigningKey.create(path)
    except FileExistsError:
        raise DeskError(
            f"{path} is there already and was left as it is",
            exit_code=REFUSED,
            reason_code="already_there",
            next_command=otherwise,
        ) from None
    except OSError as error:
        raise DeskError(
            f"{path} cannot be written: {error.strerror}; nothing was changed",
            exit_code=UNREACHABLE,
            reason_code="file_not_writable",
            next_command="" if path.parent.is_dir() else f"mkdir -m 700 {path.parent}",
        ) from error


new_key_file = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where the private key goes; never overwritten.",
)


@click.command("control-key")
@new_key_file
def control_key(out: Path) -> None:
    """Make the key pair that signs the control file of a store.

    Writes the private key, which only this user can read, and prints the table for the
    configuration. One pair and one store id for each store.

    Example: rewrap control-key --out /etc/rewrap/control.key
    """
    path = out.absolute()
    key = new_signing_key(path, "rewrap control-key --out ANOTHER_FILE")
    click.echo(f"# created {path}: keep a copy apart, and let no application read it")
    click.echo("[control]                # in the configuration of every application and command")
    click.echo(f'public_key = "{key.public}"')
    click.echo(f'store_id = "{secrets.token_hex(16)}"')
    file = json.dumps(str(path), ensure_ascii=False)  # a string of JSON is one of TOML
    click.echo(f"private_key_file = {file}   # only where `rewrap` is typed")
    click.echo("# next: rewrap cutover off (publishes the first control file)")
