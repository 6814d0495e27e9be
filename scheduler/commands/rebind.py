"""`rewrap rebind`: bind the wrap of a blob that was moved on purpose to its new place."""

import os

import click

from keywrap.config import open_keys, open_reader
from keywrap.contents import ContentError
from keywrap.keyring import UnlistedKeyError
from keywrap.kms import ProofFailedError, RefusedError
from keywrap.layout import UnsafeBlobIdError
from keywrap.reading import QuarantineError
from keywrap.rebinding import Rebinder
from keywrap.stores import ChangedError, NotAnObjectError, NotFoundError, TooLargeError
from scheduler.commands.starting import confirm, yes
from scheduler.desk import REFUSED, Desk, DeskError
from scheduler.deskjournal import noting
from scheduler.showing import plain

_REFUSALS = (
    QuarantineError,
    ContentError,
    UnlistedKeyError,
    RefusedError,
    UnsafeBlobIdError,
    NotFoundError,
    NotAnObjectError,
    TooLargeError,
    ChangedError,
    ProofFailedError,
)


@click.command()
@click.argument("blob_id", metavar="ID")
@yes
@click.pass_obj
def rebind(desk: Desk, blob_id: str, *, yes: bool) -> None:
    """Bind the wrap of a blob that was moved on purpose to where it lies now.

    ID is the blob at its new place, with its content and sidecar. Its data key must open that
    content. A sidecar that was swapped looks the same as a moved one: be sure that it was moved.

    Example: rewrap rebind tenants/8/invoice.pdf
    """
    config = desk.settings.keywrap
    confirm(lambda: _say(blob_id), yes=yes)
    keys = open_keys(config, os.environ, queues=desk.settings.workers.queues)
    with noting(desk) as journal:
        rebinder = Rebinder(open_reader(config), keys, config.store.legacy_content, journal)
        try:
            done = rebinder.rebind(blob_id)
        except _REFUSALS as error:
            raise DeskError(
                f"{plain(blob_id)}: {error}; nothing was changed",
                exit_code=REFUSED,
                reason_code=str(getattr(error, "reason_code", "proof_failed")),
                next_command="see that content and sidecar of the blob were moved together",
            ) from error
    dropped = "; the wrap before it, bound to the old place, is dropped" if done.dropped else ""
    click.echo(f"{plain(done.blob_id)}: bound to its place, was {plain(done.old_id)}")
    click.echo(f"  wrapped by {done.key_version}{dropped}")


def _say(blob_id: str) -> None:
    click.echo(f"rebind {plain(blob_id)}: its wrap is bound to another place")
    click.echo("  it is opened, matched against the content here, and wrapped for this place")
