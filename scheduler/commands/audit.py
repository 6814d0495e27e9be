"""`rewrap audit`: whether the trail is what was written, and what stands in it."""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import click

from keywrap.auditchain import Head
from keywrap.signing import SigningKey
from keywrap.trailfaults import Fault
from ledger import audit as chain
from scheduler import headkeeper, showing, trail
from scheduler.commands.keys import new_key_file, new_signing_key
from scheduler.commands.reading import CAMPAIGN_ID, as_json
from scheduler.desk import DONE, EXCEPTIONS, UNREACHABLE, USAGE, Desk, DeskError
from scheduler.trail import Verdict

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

directories = click.option(
    "--directory",
    "folders",
    metavar="D",
    type=_FOLDER,
    multiple=True,
    help="Where workers wrote segments; again for each machine.  [default: `directory` in [audit]]",
)


@click.group()
def audit() -> None:
    """Check, export and sign the trail of every use of a key; docs/audit.md.

    Example: rewrap audit verify
    """


class HeadType(click.ParamType[Head]):
    """A head as it is printed."""

    name = "head"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Head:
        """Read it."""
        try:
            return Head.parse(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


@audit.command()
@directories
@click.option(
    "--head",
    "known",
    type=HeadType(),
    multiple=True,
    metavar="N:HASH",
    help="A head printed earlier, which the chain must go through.",
)
@as_json
@click.pass_obj
def verify(desk: Desk, folders: tuple[Path, ...], known: tuple[Head, ...], *, as_json: bool) -> int:
    """Find any edit, removal, reorder or truncation of the audit trail.

    Compares every segment's file with its digest, every digest with the chain in the ledger, and
    the chain with its signed head in the store. Exit code 1 where something is wrong.

    Example: rewrap audit verify --directory /mnt/host1/audit --directory /mnt/host2/audit
    """
    searched = trail.folders_of(desk, folders)
    verdict = trail.verify(desk, searched, known, _silently if as_json else _tell)
    if as_json:
        showing.document(_document(verdict, searched))
    else:
        show(verdict, desk.settings.audit.head_every_s)
    return EXCEPTIONS if verdict.faults else DONE


def _silently(_fault: Fault) -> None:
    """Say nothing: stdout holds one JSON document and nothing else."""


def _tell(fault: Fault) -> None:
    place = f" {showing.plain(fault.segment)}" if fault.segment else ""
    click.echo(f"{fault.kind}{place}: {showing.plain(fault.detail)}")


def show(verdict: Verdict, head_every_s: float) -> None:
    """Print what was found of the trail, for a person.

    Args:
        verdict: what was found.
        head_every_s: how often a new head is signed at most, in seconds.
    """
    click.echo(f"{verdict.entries:,} segments are chained, with {verdict.events:,} events")
    if verdict.unchained:
        click.echo(f"{verdict.unchained:,} segments wait for the next tick of a scheduler")
    if verdict.unclaimed:
        click.echo(
            f"{len(verdict.unclaimed):,} files are unclaimed, such as {verdict.unclaimed[0]}: in "
            "work, or of a worker that ended before it had recorded them"
        )
    if verdict.head:
        head = verdict.head.head
        click.echo(
            f"signed at {head.entries:,} segments, {verdict.head.time:%Y-%m-%d %H:%M:%S} UTC"
        )
        click.echo(f"  head {head.entries}:{head.hash.hex()}")
    if verdict.is_signed and verdict.unsigned and not verdict.faults:
        click.echo(
            f"{verdict.unsigned:,} of them are not signed yet: a scheduler that has the private "
            f"key of [audit] signs them within {head_every_s:g} s"
        )
    if not verdict.is_signed:
        click.echo("no head is signed: a chain that was computed anew or cut short is not found")
        click.echo("next: rewrap audit key --out FILE")
    faults = len(verdict.faults)
    click.echo(f"{faults:,} faults" if faults else "no faults")


def _document(verdict: Verdict, searched: list[Path]) -> dict[str, Any]:
    signed = verdict.head
    return {
        "clean": not verdict.faults,
        "faults": [asdict(fault) for fault in verdict.faults],
        "segments": verdict.entries,
        "events": verdict.events,
        "unchained": verdict.unchained,
        "unclaimed": verdict.unclaimed,
        "signed": verdict.is_signed,
        "head": signed
        and {
            "serial": signed.serial,
            "entries": signed.head.entries,
            "hash": signed.head.hash.hex(),
            "time": signed.time.isoformat(),
        },
        "directories": [str(folder) for folder in searched],
        "reason_code": verdict.faults[0].kind if verdict.faults else None,
        "reason": verdict.faults[0].detail if verdict.faults else None,
        "next_command": None if verdict.is_signed else "rewrap audit key --out FILE",
    }


@audit.command()
@click.option(
    "--campaign",
    type=click.IntRange(0, CAMPAIGN_ID.max),
    required=True,
    help="Whose events; 0 for those of commands.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="F",
    help="The file to write.  [default: standard output]",
)
@directories
@click.pass_obj
def export(desk: Desk, campaign: int, out: Path | None, folders: tuple[Path, ...]) -> int:
    """Write a campaign's events as JSON lines, only those of segments that are unchanged.

    Exit code 1 where a segment is missing or changed; the others are written.

    Example: rewrap audit export --campaign 3 --out campaign-3.jsonl
    """
    pieces = trail.export(desk.ledger, campaign, trail.folders_of(desk, folders))
    try:
        with out.open("wb") if out else nullcontext(sys.stdout.buffer) as output:
            lines, faults = _write(pieces, output)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise DeskError(
            f"{out or 'standard output'} cannot be written: {error.strerror}",
            exit_code=UNREACHABLE,
            reason_code="file_not_writable",
            next_command=f"rewrap audit export --campaign {campaign} --out ANOTHER_FILE",
        ) from error
    if not lines and not faults:
        desk.campaign(campaign)  # or there is none
    click.echo(f"{lines:,} events", err=True)
    return EXCEPTIONS if faults else DONE


def _write(pieces: Iterator[bytes | Fault], output: IO[bytes]) -> tuple[int, int]:
    """Write the lines of sound segments; return how many, and how many segments are not."""
    lines = faults = 0
    for piece in pieces:
        if isinstance(piece, Fault):
            faults += 1
            said = f"{piece.kind} {showing.plain(piece.segment)}: {showing.plain(piece.detail)}"
            click.echo(said, err=True)
        else:
            lines += piece.count(b"\n")
            output.write(piece)
    output.flush()
    return lines, faults


@audit.command()
@as_json
@click.pass_obj
def head(desk: Desk, *, as_json: bool) -> None:
    """Sign where the chain ends now, and publish that in the store; the scheduler does, too.

    Keep a printed head elsewhere, and nobody can ever put the trail back before it unseen.

    Example: rewrap audit head
    """
    settings = desk.settings
    file = headkeeper.head_file(settings)
    if file is None or not settings.audit.private_key_file:
        raise DeskError(
            "[audit] names no private_key_file, so no head can be signed here; nothing was changed",
            exit_code=USAGE,
            reason_code="audit_key_missing",
            next_command="rewrap audit key --out FILE",
        )
    key = SigningKey.load(Path(settings.audit.private_key_file))
    with desk.ledger.begin() as connection:
        chain.chain_new(connection)
    signed = headkeeper.publish(desk.ledger, file, key)
    if as_json:
        serial, at = (signed.serial, signed.head) if signed else (0, Head())
        showing.document({"serial": serial, "entries": at.entries, "hash": at.hash.hex()})
    elif signed:
        click.echo(f"audit head serial {signed.serial}: {signed.head}")
    else:
        click.echo("the chain is empty: there is nothing to sign yet")


@audit.command("key")
@new_key_file
def new_key(out: Path) -> None:
    """Make the key pair that signs where the audit chain ends.

    Writes the private key, which only this user can read, and prints the table for the
    configuration. Only the scheduler needs the private key: no worker, and no ledger.

    Example: rewrap audit key --out /etc/rewrap/audit.key
    """
    path = out.absolute()
    key = new_signing_key(path, "rewrap audit key --out ANOTHER_FILE")
    click.echo(f"# created {path}: keep a copy apart, and let no worker read it")
    click.echo("[audit]")
    click.echo(f'public_key = "{key.public}"')
    file = json.dumps(str(path), ensure_ascii=False)  # a string of JSON is one of TOML
    click.echo(f"private_key_file = {file}   # only where the scheduler runs")
