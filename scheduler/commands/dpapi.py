"""`rewrap dpapi-ring`: make the ring of master keys from Windows' own files, once."""

import binascii
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from keywrap.dpapi import credentials
from keywrap.dpapi.credentials import Credential, CredentialError
from keywrap.dpapi.masterkey import MAX_FILE_BYTES, MasterKeyFile, MasterKeyFileError
from keywrap.dpapi.ring import MasterKeyRing, RingError
from keywrap.dpapi.secret import MasterKey
from scheduler.desk import REFUSED, USAGE, DeskError

_FILE = click.Path(dir_okay=False, path_type=Path)
_HELP = "rewrap dpapi-ring --help"


@click.command("dpapi-ring")
@click.option("--out", required=True, type=_FILE, metavar="RING", help="The ring to make.")
@click.option("--add", is_flag=True, help="Add to a ring that is there.")
@click.option("--sid", metavar="SID", help="The account's SID: of a password or an NT hash.")
@click.option("--password-file", type=_FILE, metavar="FILE", help="A local account's password.")
@click.option("--nt-hash-file", type=_FILE, metavar="FILE", help="An NT hash: 32 hex digits.")
@click.option(
    "--dpapi-system-file",
    type=_FILE,
    metavar="FILE",
    help="The LSA secret DPAPI_SYSTEM: 88 hex digits.",
)
@click.option(
    "--domain-backup-key",
    type=_FILE,
    metavar="FILE",
    help="The domain's RSA key: PVK, or PEM without a password.",
)
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="MASTERKEYFILE…")
def dpapi_ring(
    out: Path, files: tuple[Path, ...], *, add: bool, sid: str | None, **given: Path | None
) -> None:
    """Open master key files of Windows, and write their keys into a ring.

    Give exactly one credential; with --sid alone the password is asked for. A domain account needs
    its NT hash or the domain's backup key, not its password. Nothing is written unless every file
    opens. Whoever can read the ring opens every blob of these keys.

    Example: rewrap dpapi-ring --out blobs.ring.json --dpapi-system-file secret.hex S-1-5-18/*-*
    """
    old = _ring(out, add=add)
    credential = _credential(sid, {name: path for name, path in given.items() if path})
    keys = _opened(files, credential)
    try:
        ring = old.with_keys(keys)
        ring.write(out, replace=add)
    except FileExistsError:
        raise _there(out) from None
    except (RingError, OSError) as error:
        raise _refused(f"{error}", "ring_not_written", "") from error
    for guid in keys:
        click.echo(f"{'known' if guid in set(old) else 'added'} {guid}")
    click.echo(f"wrote {out}, which holds {len(set(ring))} master keys")
    click.echo(f'next: ring = "{out.absolute()}" in [keys.dpapi.NAME]')


def _ring(out: Path, *, add: bool) -> MasterKeyRing:
    """Return the ring to add to, before anything secret is asked for."""
    if not add:
        if out.is_symlink() or out.exists():
            raise _there(out)
        return MasterKeyRing({})
    try:
        return MasterKeyRing.read(out)
    except RingError as error:
        raise _refused(
            f"{error}", "ring_not_usable", "leave --add out to make a new ring"
        ) from error


def _credential(sid: str | None, given: Mapping[str, Path]) -> Credential:
    names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    if len(given) > 1:
        raise _usage(f"{names} are more than one credential")
    if not given and not sid:
        raise _usage("no credential is given")
    name, path = next(iter(given.items()), ("", Path()))
    needs_sid = name in {"", "password_file", "nt_hash_file"}
    if needs_sid != bool(sid):
        raise _usage(f"{names} {'needs --sid' if needs_sid else 'takes no --sid'}")
    try:
        match name:
            case "nt_hash_file":
                return credentials.nt_hash(_hex(path), sid or "")
            case "dpapi_system_file":
                return credentials.dpapi_system(_hex(path))
            case "domain_backup_key":
                return credentials.domain_backup_key(_bytes(path))
            case _:
                return credentials.password(_password(path if name else None), sid or "")
    except CredentialError as error:
        raise _usage(f"{path if name else '--sid'}: {error}") from None


def _password(path: Path | None) -> str:
    if path is None:
        if not _is_terminal():
            raise _usage("--sid alone asks for the password, and there is no terminal")
        return str(click.prompt("Password", hide_input=True, err=True))
    try:
        text = _bytes(path).decode()
    except UnicodeDecodeError:
        raise CredentialError("it is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _hex(path: Path) -> bytes:
    text = _bytes(path).strip()
    try:
        return binascii.unhexlify(text)
    except ValueError:
        raise CredentialError("it is not hexadecimal digits") from None


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CredentialError(f"it cannot be read: {error.strerror}") from None
    if not 0 < len(data) <= MAX_FILE_BYTES:
        raise CredentialError("it is empty or too large")
    return data


def _opened(files: tuple[Path, ...], credential: Credential) -> dict[str, MasterKey]:
    """Open all files.

    Raises:
        DeskError: some do not open; it names each with its reason.
    """
    keys: dict[str, MasterKey] = {}
    failures: list[str] = []
    for path in files:
        try:
            file = MasterKeyFile.parse(_bytes(path))
            key = credential(file)
        except (MasterKeyFileError, CredentialError) as error:
            failures.append(f"{path}: {error}")
            continue
        if keys.setdefault(file.guid, key) != key:
            failures.append(f"{path}: it holds another key of {file.guid} than a file before it")
    if failures:
        opened = f"{len(files) - len(failures)} of {len(files)} files open; nothing was written"
        raise _refused("\n".join([opened, *failures]), "master_key_not_opened", _HELP)
    return keys


def _there(out: Path) -> DeskError:
    return _refused(
        f"{out} is there already and was left as it is",
        "already_there",
        f"rewrap dpapi-ring --add --out {out} …",
    )


def _refused(message: str, reason_code: str, next_command: str) -> DeskError:
    return DeskError(
        message, exit_code=REFUSED, reason_code=reason_code, next_command=next_command or _HELP
    )


def _usage(message: str) -> DeskError:
    return DeskError(
        f"{message}; nothing was written",
        exit_code=USAGE,
        reason_code="usage",
        next_command=_HELP,
    )
