"""`rewrap audit reconcile`: the key service's own log beside our trail."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from keywrap.providers.azure_names import MADE_HERE
from keywrap.providers.azure_names import SCHEME as AZURE
from keywrap.segments import contents
from keywrap.trailfaults import Fault
from ledger import audit as chain
from scheduler import kmslogs, ownuses, showing, trail
from scheduler.commands.audit import audit, directories
from scheduler.commands.reading import as_json
from scheduler.desk import DONE, EXCEPTIONS, USAGE, Desk, DeskError
from scheduler.kmslogs import LogError, Logged, LoggedUse
from scheduler.ownuses import OwnUse
from scheduler.reconciling import Comparison, Line, Span, compare

_SHOWN = 20
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_TIME = click.DateTime(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"])


@dataclass
class _Logs:
    """What stands in the logs about the keys in question."""

    uses: list[LoggedUse] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)  # of the first and last entry
    keys: set[str] = field(default_factory=set)
    of_other_keys: int = 0


@audit.command()
@click.option(
    "--log",
    "logs",
    metavar="F",
    type=_FILE,
    multiple=True,
    required=True,
    help="The key service's own audit log; again for each file.",
)
@click.option(
    "--events",
    metavar="F",
    type=_FILE,
    multiple=True,
    help="JSON lines of an application's audit events; again for each.",
)
@click.option(
    "--key",
    "keys",
    metavar="KEY",
    multiple=True,
    help="Only this KEK, by its URI.  [default: all of [keys] that the log is about]",
)
@click.option("--since", type=_TIME, help="From then on, in UTC.  [default: the log's first entry]")
@click.option("--until", type=_TIME, help="Until then.  [default: the log's last entry]")
@click.option(
    "--window",
    type=click.IntRange(1, 86_400 * 31),
    default=3600,
    show_default=True,
    metavar="S",
    help="Seconds of each line of the table.",
)
@directories
@as_json
@click.pass_obj
def reconcile(  # noqa: PLR0913 - as many options
    desk: Desk,
    *,
    logs: tuple[Path, ...],
    events: tuple[Path, ...],
    keys: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    window: int,
    folders: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Compare the key service's own log with what workers and applications say they did.

    Takes the log of an audit device of OpenBao or Vault, CloudTrail of AWS KMS, Data Access audit
    logs of Google Cloud KMS, and AuditEvent of Azure Key Vault, as exported. Exit code 1 where a
    key was used that nobody of ours used, or was not where we say it was.

    Example: rewrap audit reconcile --log /var/log/openbao/audit.log --events app-audit.jsonl
    """
    listed = desk.settings.keywrap.keys
    for key in keys:
        if not listed.lists(key):
            raise click.UsageError(f"--key: [keys] lists no {key!r}")
    try:
        found = _read(logs, keys or listed.uris(), since, until)
        claimed, unclaimed, faults = _workers(desk, trail.folders_of(desk, folders))
        of_applications = [use for file in events for use in ownuses.of_application(file)]
        ours = [*_sent([*claimed, *of_applications], desk)]
    except LogError as error:
        raise DeskError(
            str(error),
            exit_code=USAGE,
            reason_code=error.reason_code,
            next_command="rewrap audit reconcile --help",
        ) from error
    span = Span(_utc(since) or found.times[0], _utc(until) or found.times[-1])
    result = compare(
        found.uses,
        _within(ours, found, span),
        _within(_sent(unclaimed, desk), found, span),
        span,
        window,
    )
    if as_json:
        showing.document(_document(result, span, found, faults))
    else:
        _show(result, span, found, faults)
    return DONE if result.is_clean and not faults else EXCEPTIONS


def _utc(time: datetime | None) -> datetime | None:
    return time and time.replace(tzinfo=UTC)


def _read(
    paths: Iterable[Path], keys: Iterable[str], since: datetime | None, until: datetime | None
) -> _Logs:
    found, wanted = _Logs(), set(keys)
    in_any_case = {key.lower(): key for key in wanted if key.startswith(AZURE)}
    earliest, latest = _utc(since), _utc(until)
    for path in paths:
        for written in kmslogs.read(path):
            entry = _named(written, in_any_case)
            found.times = [min([entry.time, *found.times]), max([entry.time, *found.times])]
            found.keys |= {key for key in wanted if key.startswith(entry.scheme)}
            is_in = (earliest or entry.time) <= entry.time <= (latest or entry.time)
            if entry.use and entry.use.key not in wanted:
                found.of_other_keys += 1
            elif entry.use and is_in:
                found.uses.append(entry.use)
    if not found.times:
        raise LogError("the log has no entries")
    return found


def _named(entry: Logged, in_any_case: Mapping[str, str]) -> Logged:
    """Return an entry with the key as the configuration names it: Azure takes names in any case."""
    if entry.use is None or not entry.use.key.startswith(AZURE):
        return entry
    key = in_any_case.get(entry.use.key.lower(), entry.use.key)
    return replace(entry, use=replace(entry.use, key=key))


def _sent(uses: Iterable[OwnUse], desk: Desk) -> Iterator[OwnUse]:
    """Yield the uses that were requests: with RSA a wrap is made here, by the public key."""
    tables = desk.settings.keywrap.keys.azure
    here = {f"{AZURE}{name}" for name, table in tables.items() if table.algorithm in MADE_HERE}
    return (use for use in uses if use.operation != "wrap" or use.key not in here)


def _workers(desk: Desk, folders: list[Path]) -> tuple[list[OwnUse], list[OwnUse], int]:
    """Return what stands in the trail, in segments unknown to the ledger, and how many are bad."""
    on_disk = trail.segment_names(folders)
    claimed: list[OwnUse] = []
    faults = 0
    with desk.ledger.begin() as connection:
        waiting = {segment.name: segment for segment in chain.unchained(connection)}
    segments = {entry.segment.name: entry.segment for entry in chain.entries(desk.ledger)}
    for name, segment in (waiting | segments).items():
        on_disk.discard(name)
        lines = contents(segment, folders)
        if isinstance(lines, Fault):
            faults += 1
        else:
            claimed += ownuses.of_workers(lines)
    return claimed, list(_unclaimed(on_disk, folders)), faults


def _unclaimed(names: Iterable[str], folders: list[Path]) -> Iterator[OwnUse]:
    for path in (folder / name for name in sorted(names) for folder in folders):
        if path.is_file():
            whole = path.read_bytes().rpartition(b"\n")[0]  # its last line may be half written
            yield from ownuses.of_workers(whole)


def _within(uses: Iterable[OwnUse], found: _Logs, span: Span) -> list[OwnUse]:
    return [use for use in uses if use.key in found.keys and span.is_near(use.time)]


def _show(result: Comparison, span: Span, found: _Logs, faults: int) -> None:
    click.echo(f"the log covers {span.start:%Y-%m-%d %H:%M:%S} to {span.end:%Y-%m-%d %H:%M:%S} UTC")
    rows = (
        (f"{start:%Y-%m-%d %H:%M:%S}", key, operation, *(f"{n:,}" for n in astuple(line)))
        for (start, key, operation), line in sorted(result.lines.items())
    )
    showing.table(("from", "key", "operation"), [f.name for f in fields(Line)], rows)
    for use in result.unknown[:_SHOWN]:
        blob = f" of {showing.plain(use.blob_id)}" if use.blob_id else ""
        click.echo(
            f"unknown: {use.time:%Y-%m-%d %H:%M:%S} {use.count} {use.operation}{blob} with "
            f"{showing.plain(use.key)} by {showing.plain(use.who)}, request "
            f"{showing.plain(use.request_id)}"
        )
    for own in result.unseen[:_SHOWN]:
        click.echo(
            f"unseen: {own.time:%Y-%m-%d %H:%M:%S} {own.operation} of "
            f"{showing.plain(own.blob_id)} with {own.key}"
        )
    if result.refused or result.canaries or found.of_other_keys:
        click.echo(
            f"besides: {result.refused:,} requests refused, {result.canaries:,} uses of canaries, "
            f"{found.of_other_keys:,} entries about other keys"
        )
    if faults:
        click.echo(f"{faults:,} segments are not what was written\nnext: rewrap audit verify")
    click.echo("both tell the same" if result.is_clean and not faults else "they differ")


def _document(result: Comparison, span: Span, found: _Logs, faults: int) -> dict[str, Any]:
    return {
        "clean": result.is_clean and not faults,
        "since": span.start.isoformat(),
        "until": span.end.isoformat(),
        "window_s": result.window_s,
        "lines": [
            {
                "window": start.isoformat(),
                "key": key,
                "operation": operation,
                **asdict(line),
            }
            for (start, key, operation), line in sorted(result.lines.items())
        ],
        "unknown": [
            {
                "time": use.time.isoformat(),
                "operation": use.operation,
                "key": use.key,
                "count": use.count,
                "blob_id": use.blob_id,
                "request_id": use.request_id,
                "who": use.who,
            }
            for use in result.unknown
        ],
        "unseen": [
            {
                "time": own.time.isoformat(),
                "operation": own.operation,
                "key": own.key,
                "blob_id": own.blob_id,
                "request_id": own.request_id,
            }
            for own in result.unseen
        ],
        "refused": result.refused,
        "canaries": result.canaries,
        "other_keys": found.of_other_keys,
        "trail_faults": faults,
        "next_command": "rewrap audit verify" if faults else None,
    }
