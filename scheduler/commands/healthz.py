"""`rewrap healthz`: for the probes of Compose and Kubernetes."""

import click

from scheduler import showing, waits
from scheduler.commands.reading import as_json
from scheduler.desk import UNREACHABLE, Desk, DeskError


@click.command()
@click.option("--scheduler", is_flag=True, help="A scheduler must have ticked lately, too.")
@as_json
@click.pass_obj
def healthz(desk: Desk, *, scheduler: bool, as_json: bool) -> None:
    """See that the ledger answers and is of this release. Exit code 0 or 3.

    Needs no key and no store, so that any container may ask it.

    Example: rewrap healthz --scheduler
    """
    with desk.ledger.begin() as connection:
        silent = waits.silence(connection) if scheduler else ""
    if silent:
        raise DeskError(
            f"no scheduler has ticked {silent}",
            exit_code=UNREACHABLE,
            reason_code=waits.NO_SCHEDULER,
            next_command="rewrap scheduler",
        )
    if as_json:
        showing.document({"healthy": True})
    else:
        click.echo("healthy")
