"""`rewrap rotate-kek`: a new KEK version, and the campaign that moves every wrap to it."""

import click

from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider, VersionCreator
from keywrap.rewrapping import Prove
from ledger import campaigns, rotations
from ledger.campaigns import Request
from ledger.states import Kind
from scheduler.commands.starting import confirm, follow, wait, yes
from scheduler.desk import DONE, USAGE, Desk, DeskError, operator

_SAMPLE = 0.01


@click.command("rotate-kek")
@click.argument("key", required=False)
@yes
@wait
@click.pass_obj
def rotate_kek(desk: Desk, key: str | None, *, yes: bool, wait: bool) -> int:
    """Create a new version of a KEK and move every wrap to it.

    KEY is a KEK's URI without version [default: the primary]. Run again after being cut off, it
    goes on where it stopped and never creates a second version.

    Example: rewrap rotate-kek --wait
    """
    provider = desk.kek(key)
    current = provider.current_version()
    desk.ledger  # noqa: B018 - unreachable is said before the question
    confirm(lambda: _show_plan(current), yes=yes)
    campaign_id = _rotate(desk, provider, current)
    click.echo(f"next: rewrap status {campaign_id} --watch")
    return follow(desk, campaign_id) if wait else DONE


def _show_plan(current: KeyVersion) -> None:
    click.echo(f"rotate-kek: a new version of {current.key}, after {current.version}")
    click.echo("  then every managed wrap of another version or key is rewrapped to it")
    click.echo("  the old version stays enabled: it is retired apart, when nothing needs it")


def _rotate(desk: Desk, provider: KeyProvider, current: KeyVersion) -> int:
    if not isinstance(provider, VersionCreator):
        raise DeskError(
            f"{provider.key} cannot be given a new version from here; nothing was changed",
            exit_code=USAGE,
            reason_code="cannot_create_version",
            next_command="create it in the KMS, then: rewrap start rotate",
        )
    with desk.ledger.begin() as connection:
        rotations.close_finished(connection)
        rotation = rotations.begin(connection, current)
    with desk.ledger.begin() as connection:
        rotation = rotations.begin(connection, current)  # and its row is locked until the end
        if rotation.campaign_id is not None:
            click.echo(f"{rotation.new} is being rolled out by campaign {rotation.campaign_id}")
            return rotation.campaign_id
        campaigns.refuse_overlap(connection, prefix="")  # before a version is made for nothing
        new = rotation.new
        if new is None:
            # Cut off between the KMS's answer and our note of it, the version is there already.
            made = provider.current_version()
            new = made if made != rotation.base else provider.create_version()
            rotations.minted(connection, rotation, new)
            click.echo(f"took up {new}" if new == made else f"created {new}")
        campaign_id = campaigns.request(
            connection,
            Request(
                Kind.ROTATE,
                operator(),
                target=new,
                prove=Prove.SAMPLE,
                sample=_SAMPLE,
                store=desk.settings.keywrap.store.place,
            ),
        )
        rotations.opened(connection, rotation, campaign_id)
    click.echo(f"campaign {campaign_id} ({Kind.ROTATE})")
    return campaign_id
