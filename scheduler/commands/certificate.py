"""`rewrap certificate`, `certificate-verify`, `certificate-key`: a campaign's signed record."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import click

from keywrap.certificate import CertificateError, signed, verified
from keywrap.signing import PublicKey, SigningKey
from scheduler import certificate_page, showing
from scheduler.certifying import record_of
from scheduler.commands.keys import new_signing_key
from scheduler.commands.reading import CAMPAIGN_ID, as_json
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, UNREACHABLE, USAGE, Desk, DeskError

_MAX_BYTES = 65 * 1024 * 1024
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("certificate-key")
@click.option("--out", type=_FILE, required=True, metavar="FILE", help="The private key.")
def certificate_key(out: Path) -> None:
    """Make the key that signs certificates, and print the table for the configuration.

    Give the public key to whoever verifies certificates.

    Example: rewrap certificate-key --out /etc/rewrap/certificate.key
    """
    path = out.absolute()
    key = new_signing_key(path, "rewrap certificate-key --out ANOTHER_FILE")
    click.echo(f"# created {path}; public key, for whoever verifies: {key.public}")
    file = json.dumps(str(path), ensure_ascii=False)  # a string of JSON is one of TOML
    click.echo(f"[certificate]\nprivate_key_file = {file}")


@click.command()
@click.argument("campaign", type=CAMPAIGN_ID)
@click.option("--out", type=_FILE, metavar="FILE", help="Write it there [default: stdout].")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page to print as well.")
@as_json
@click.pass_obj
def certificate(
    desk: Desk, campaign: int, out: Path | None, html: Path | None, *, as_json: bool
) -> int:
    """Sign the record of a finished campaign: balanced counts, exceptions, proofs, backup, keys.

    Exit code 1: it is signed, and lists exceptions.

    Example: rewrap certificate 3 --out campaign-3.json --html campaign-3.html
    """
    files = [path for path in (out, html) if path is not None]
    if len({path.absolute() for path in files}) < len(files):
        raise click.UsageError("--out and --html are two files")
    key = _key(desk)
    for path in files:  # before anything is written
        _require_free(path)
    record = record_of(desk, campaign)
    data = signed(record, key)
    if out is not None:
        _write(out, data)
    if html is not None:
        document = json.loads(data)
        page = certificate_page.page(
            document["record"], document["public_key"], document["signature"]
        )
        _write(html, page.encode())
    _tell(data, key, out, html, as_json=as_json)
    return EXCEPTIONS if record["exceptions"] else DONE


def _key(desk: Desk) -> SigningKey:
    file = desk.settings.certificate.private_key_file
    if not file:
        raise DeskError(
            "[certificate] names no private_key_file, so nothing can be signed",
            exit_code=USAGE,
            reason_code="certificate_key_missing",
            next_command="rewrap certificate-key --out FILE",
        )
    return SigningKey.load(Path(file))


def _tell(
    data: bytes, key: SigningKey, out: Path | None, html: Path | None, *, as_json: bool
) -> None:
    if out is None:
        click.echo(data.decode(), nl=False)
    elif as_json:
        showing.document(
            {
                "file": str(out),
                "html": str(html) if html else None,
                "public_key": str(key.public),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    else:
        click.echo(f"wrote {out}\nnext: rewrap certificate-verify {out} --public-key {key.public}")


@click.command("certificate-verify")
@click.argument("file", type=_FILE)
@click.option("--public-key", required=True, metavar="KEY", help="Whose signature counts: base64.")
@as_json
def certificate_verify(file: Path, public_key: str, *, as_json: bool) -> int:
    """See that a certificate was signed by this key and not changed since. Needs nothing else.

    Example: rewrap certificate-verify campaign-3.json --public-key KEY
    """
    try:
        key = PublicKey.parse(public_key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--public-key") from None
    record = _verified(file, key)
    if as_json:
        showing.document({"verified": True, "public_key": public_key, "record": record})
        return DONE
    counts = ", ".join(f"{n:,} {name}" for name, n in record["counts"].items() if n)
    click.echo(f"campaign {record['campaign']}, {record['kind']} of {record['store']}")
    click.echo(f"  {record['state']}: {counts}; to {record['target']}")
    click.echo(f"the signature is right: {public_key}")
    return DONE


def _verified(file: Path, key: PublicKey) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES)
    except OSError as error:
        raise DeskError(
            f"{file} cannot be read: {error.strerror}",
            exit_code=UNREACHABLE,
            reason_code="file_not_readable",
        ) from error
    try:
        return verified(data, key)
    except CertificateError as error:
        raise DeskError(
            f"{file} is NOT to be trusted: {error}",
            exit_code=REFUSED,
            reason_code=error.reason_code,
            next_command="ask for the certificate and the public key by another way",
        ) from error


def _require_free(path: Path) -> None:
    """See that a file is not there yet: a certificate replaces nothing.

    Raises:
        DeskError: something has that name.
    """
    if os.path.lexists(path):
        raise _there_already(path)


def _there_already(path: Path) -> DeskError:
    return DeskError(
        f"{path} is there already and was left as it is",
        exit_code=REFUSED,
        reason_code="already_there",
        next_command="name another file",
    )


def _write(path: Path, data: bytes) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise _there_already(path) from None
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        with os.fdopen(file, "wb") as output:
            output.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)  # half a certificate must not pass for one
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> DeskError:
    return DeskError(
        f"{path} cannot be written: {error.strerror}",
        exit_code=UNREACHABLE,
        reason_code="file_not_writable",
        next_command="name a file in a folder that can be written, with room for it",
    )
