"""`rewrap certificate`, `certificate-verify`, `certificate-key`: a campaign's signed record."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click

from keywrap import newfile
from keywrap.certificate import CertificateError, digest, signed, verified
from keywrap.signing import PublicKey, SigningKey
from scheduler import certificate_page, showing
from scheduler.certifying import record_of
from scheduler.commands.keys import new_key_file, new_signing_key
from scheduler.commands.reading import CAMPAIGN_ID, as_json
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, UNREACHABLE, USAGE, Desk, DeskError

_MAX_BYTES = 65 * 1024 * 1024
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("certificate-key")
@new_key_file
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
    _require_free(out, html)
    key = _signing_key(desk)
    data = signed(record_of(desk, campaign), key)
    # What is shown and told is read from the certificate, not from what it was made of.
    record = verified(data, key.public)
    if out is not None:
        _write(out, data)  # first, since the page is only a reading of it
    if html is not None:
        signature = json.loads(data)["signature"]
        page = certificate_page.page(record, str(key.public), signature, digest(record))
        _write(html, page.encode(), f"; {out} was written and is whole" if out else "")
    if out is None:
        click.echo(data.decode(), nl=False)
    elif as_json:
        showing.document(_made(record, key, out, html))
    else:
        _say_made(record, key, out, html)
    return EXCEPTIONS if _has_exceptions(record) else DONE


def _say_made(record: dict[str, Any], key: SigningKey, out: Path, html: Path | None) -> None:
    page = f", and the page {html}" if html else ""
    click.echo(f"wrote {out}{page}: the certificate of")
    _say(record)
    verify = ["rewrap", "certificate-verify", str(out), "--public-key", str(key.public)]
    click.echo(f"next: {shlex.join(verify)}")


def _say(record: dict[str, Any]) -> None:
    """Print what a certificate certifies."""
    counts = ", ".join(f"{n:,} {name}" for name, n in record["counts"].items() if n)
    place = showing.plain(record["store"])
    click.echo(f"campaign {record['campaign']}, {record['kind']} of {place}")
    target = f"; to {record['target']}" if record["target"] else ""
    click.echo(f"  {record['state']}: {counts}{target}")


def _made(record: dict[str, Any], key: SigningKey, out: Path, html: Path | None) -> dict[str, Any]:
    return {
        "campaign": record["campaign"],
        "state": record["state"],
        "exceptions": _has_exceptions(record),
        "certificate": str(out),
        "page": str(html) if html else None,
        "public_key": str(key.public),
        "sha256": digest(record),
    }


def _has_exceptions(record: dict[str, Any]) -> bool:
    # One whose id is too long to be listed is counted alone.
    return bool(record["exceptions"] or record["more_exceptions"])


def _signing_key(desk: Desk) -> SigningKey:
    file = desk.settings.certificate.private_key_file
    if not file:
        raise DeskError(
            "[certificate] names no private_key_file, so nothing can be signed",
            exit_code=USAGE,
            reason_code="certificate_key_missing",
            next_command="rewrap certificate-key --out FILE",
        )
    return SigningKey.load(Path(file))


def _require_free(*paths: Path | None) -> None:
    """See, before anything is written, that each file is another one and none is there yet.

    Raises:
        UsageError: two are the same file.
        DeskError: one is there.
    """
    named = [path for path in paths if path is not None]
    if len({os.path.realpath(path) for path in named}) < len(named):
        raise click.UsageError("--out and --html name the same file; nothing was written")
    for path in named:
        if os.path.lexists(path):
            raise _already_there(path)


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
        showing.document({"signed_by": str(key), "sha256": digest(record), "record": record})
        return DONE
    _say(record)
    click.echo(f"SHA-256 of the canonical record: {digest(record)}")
    click.echo(f"the signature is right: {key}")
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


def _write(path: Path, data: bytes, besides: str = "") -> None:
    """Write a file that is not there yet: a certificate replaces nothing.

    Args:
        path: the file; a half of it is never left.
        data: what to write.
        besides: what else to say where it cannot be written.

    Raises:
        DeskError: it is there by now, or cannot be written.
    """
    try:
        newfile.create(path, data)
    except FileExistsError:
        raise _already_there(path, besides) from None
    except OSError as error:
        raise DeskError(
            f"{path} cannot be written, and no part of it was left: {error.strerror}{besides}",
            exit_code=UNREACHABLE,
            reason_code="file_not_writable",
            next_command="name a file in a folder with room that you may write to",
        ) from error


def _already_there(path: Path, besides: str = "") -> DeskError:
    return DeskError(
        f"{path} is there already and was left as it is{besides}",
        exit_code=REFUSED,
        reason_code="already_there",
        next_command="name another file",
    )
