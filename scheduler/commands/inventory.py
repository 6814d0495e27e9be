"""`rewrap inventory`: which key wraps each blob."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from keywrap.keys import LEGACY_PROVIDERS
from ledger import campaigns, findings
from ledger.campaigns import Request
from ledger.findings import Finding
from ledger.states import Kind
from scheduler import exporting, schemes, showing
from scheduler.commands.reading import as_json, status_of
from scheduler.commands.starting import outcome_of, prefix
from scheduler.desk import UNREACHABLE, Desk, DeskError, operator


@click.command()
@prefix
@click.option(
    "--export",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="F",
    help="Write the list of blobs to a file that ends in .csv, .jsonl or .parquet.",
)
@as_json
@click.pass_obj
def inventory(desk: Desk, prefix: str, export: Path | None, *, as_json: bool) -> int:
    """Scan the store and count who wraps what, by provider, key and version.

    Reads sidecars only; opens no key and changes nothing. For keys of the environment it says
    which schemes the lengths of their wraps allow.

    Example: rewrap inventory --export blobs.csv
    """
    if export and export.suffix not in exporting.FORMATS:
        raise click.UsageError("--export wants a file that ends in .csv, .jsonl or .parquet")
    with desk.ledger.begin() as connection:
        campaign_id = campaigns.request(
            connection,
            Request(
                Kind.INVENTORY,
                operator(),
                prefix=prefix,
                store=desk.settings.keywrap.store.place,
            ),
        )
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
            | {"by_key": [asdict(line) for line in lines]}
            | {"schemes": [shape.document() for shape in shapes]}
        )
        return outcome_of(end)
    showing.census(lines)
    for line in schemes.lines(shapes):
        click.echo(line)
    if export:
        click.echo(f"{count:,} blobs written to {export}")
    if any(line.provider in LEGACY_PROVIDERS for line in lines):
        click.echo("next: rewrap plan migrate")
    return outcome_of(end)


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
