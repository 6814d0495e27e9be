"""`rewrap inventory`: which key wraps each blob."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click

from keywrap.config import layout as layout_of
from keywrap.keys import LEGACY_PROVIDERS
from keywrap.layout import Layout
from ledger import campaigns, findings
from ledger.campaigns import Request
from ledger.connection import Connection
from ledger.findings import Finding
from ledger.listed import BlobList
from ledger.states import Kind
from scheduler import exporting, schemes, showing
from scheduler.commands.reading import as_json, status_of
from scheduler.commands.starting import outcome_of, prefix
from scheduler.desk import UNREACHABLE, Desk, DeskError, operator
from scheduler.sources import Source, SourceError, SourceKind, open_source


@click.command()
@prefix
@click.option(
    "--export",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="F",
    help="Write the list of blobs to a file that ends in .csv, .jsonl or .parquet.",
)
@click.option(
    "--from",
    "place",
    metavar="LIST",
    help="Look at the blobs that a list names, instead of listing the store: a file of blob ids"
    " (.txt, .csv, .jsonl, .parquet), or the manifest.json of an S3 Inventory report, here or at"
    " s3://bucket/key.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Read every sidecar, also one that by the store's version tag is what the last inventory"
    " read.",
)
@as_json
@click.pass_obj
def inventory(
    desk: Desk, prefix: str, export: Path | None, place: str | None, *, full: bool, as_json: bool
) -> int:
    """Scan the store and count who wraps what, by provider, key and version.

    Reads sidecars only; opens no key and changes nothing. For keys of the environment it says
    which schemes the lengths of their wraps allow. In a bucket whose listing says version tags
    (S3), only sidecars that were written since the last inventory are read.

    Example: rewrap inventory --export blobs.csv
    """
    if export and export.suffix not in exporting.FORMATS:
        raise click.UsageError("--export wants a file that ends in .csv, .jsonl or .parquet")
    store = desk.settings.keywrap.store
    asked = Request(Kind.INVENTORY, operator(), prefix, store=store.place, is_incremental=not full)
    source = open_source(place, store) if place is not None else None
    with desk.ledger.begin() as connection:
        if source is not None:
            asked, named = _with_list(connection, asked, source, layout_of(desk.settings.keywrap))
        campaign_id = campaigns.request(connection, asked)
    if source is not None and not as_json:
        click.echo(_taken(source, named))
    show = showing.silently if as_json else showing.until_finished
    end = show(lambda: status_of(desk, campaign_id))
    with desk.ledger.begin() as connection:
        lines = findings.census(connection, campaign_id)
        if export:
            count = _export(export, findings.listing(connection, campaign_id))
    shapes = schemes.shapes(lines, desk.settings.keywrap.keys.env)
    if as_json:
        showing.document(
            {"campaign": campaign_id, "scanned": end.progress.scanned}
            | ({"listed": named} if source is not None else {})
            | {"by_key": [asdict(line) for line in lines]}
            | {"schemes": [shape.document() for shape in shapes]}
        )
        return outcome_of(end)
    showing.census(lines)
    if source is not None and (gone := named - end.progress.scanned):
        click.echo(f"{gone:,} of the blobs that the list names are not in the store")
    for line in schemes.lines(shapes):
        click.echo(line)
    if export:
        click.echo(f"{count:,} blobs written to {export}")
    if any(line.provider in LEGACY_PROVIDERS for line in lines):
        click.echo("next: rewrap plan migrate")
    return outcome_of(end)


def _with_list(
    connection: Connection, asked: Request, source: Source, layout: Layout
) -> tuple[Request, int]:
    """Give an inventory the blobs that a list names; return it, and how many they are.

    Raises:
        SourceError: the list cannot be used, or names no blob.
    """
    ids = iter(source)
    if source.kind is SourceKind.OBJECT_NAMES:
        parsed = (layout.parse(name) for name in source)
        ids = (blob_id for blob_id, _ in filter(None, parsed))
    blob_list = BlobList(connection)
    named = blob_list.add(blob_id for blob_id in ids if blob_id.startswith(asked.prefix))
    if not named:
        raise SourceError(
            f"{source.place} names no blob"
            + (f" whose id starts with {asked.prefix!r}" if asked.prefix else " of this store"),
            reason_code="source_empty",
            next_command="rewrap inventory (lists the store itself)",
        )
    blob_list.close()
    return replace(asked, list_id=blob_list.id), named


def _taken(source: Source, named: int) -> str:
    of = f", as the bucket was at {source.as_of:%Y-%m-%d %H:%M} UTC" if source.as_of else ""
    return f"{named:,} blobs named by {source.place}{of}; what it leaves out is not looked at"


def _export(file: Path, found: Iterator[Finding]) -> int:
    try:
        return exporting.write(file, found)
    except OSError as error:
        raise DeskError(
            f"{file} cannot be written, and no part of it was left: {error.strerror}",
            exit_code=UNREACHABLE,
            reason_code="file_not_writable",
            next_command="rewrap inventory --export OTHER_FILE",
        ) from error
