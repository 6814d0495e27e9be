"""`rewrap rotate-kek`: a new KEK version, and the campaign that moves every wrap to it."""

from dataclasses import dataclass
from typing import Any

import click

from keywrap.keys import KeyVersion
from keywrap.kms import (
    DeniedError,
    KeyProvider,
    KmsError,
    UnavailableError,
    VersionCreator,
)
from ledger import campaigns, rotations
from ledger.campaigns import Request
from ledger.rotations import Rotation
from ledger.states import Kind
from scheduler import publishing, showing
from scheduler.approving import break_glass, opening
from scheduler.backing import backs_up
from scheduler.commands.reading import as_json
from scheduler.commands.starting import confirm, follow, run_window, urgent, wait, yes
from scheduler.desk import DONE, REFUSED, UNREACHABLE, USAGE, Desk, DeskError, operator
from scheduler.deskjournal import noting
from scheduler.proofs import Proof, default_proof
from scheduler.publishing import Press, press_of
from scheduler.rollout import roll_out

NOT_SEEN = "rotation_not_seen"
"""The KMS was asked for a new version, and does not show one yet."""

LIMIT = "rotation_limit"
"""The KEK was rotated as often as its KMS allows."""


@click.command("rotate-kek")
@click.argument("key", required=False)
@urgent
@run_window
@break_glass
@yes
@wait
@click.option("--status", is_flag=True, help="Only say how far the last one is.")
@as_json
@click.pass_obj
def rotate_kek(  # noqa: PLR0913 - one for each word of the command line
    desk: Desk,
    key: str | None,
    run_window: str | None,
    *,
    break_glass: str,
    urgent: bool,
    yes: bool,
    wait: bool,
    status: bool,
    as_json: bool,
) -> int:
    """Create a new version of a KEK and move every wrap to it.

    KEY is a KEK's URI without version [default: the primary]. Where [control] is configured, the
    new version is published as the primary first, and opened once every application obeys that.
    Run again after being cut off, it goes on where it stopped and never creates a second version.

    Example: rewrap rotate-kek --wait
    """
    provider = desk.kek(key)
    if status:
        _show_status(desk, provider.key, as_json=as_json)
        return DONE
    if as_json:
        raise click.UsageError("--json goes with --status")
    backs_up(desk)  # before a version is made for nothing
    current = provider.current_version()
    proof = default_proof(Kind.ROTATE, provider)
    desk.ledger  # noqa: B018 - unreachable is said before the question
    is_published = desk.settings.keywrap.control is not None
    confirm(lambda: _show_plan(current, proof, is_published=is_published), yes=yes)
    campaign_id = rotate(desk, provider, current, proof, How(run_window or "", urgent, break_glass))
    click.echo(f"next: rewrap status {campaign_id} --watch")
    return follow(desk, campaign_id) if wait else DONE


def _show_plan(current: KeyVersion, proof: Proof, *, is_published: bool) -> None:
    click.echo(f"rotate-kek: a new version of {current.key}, after {current.version}")
    if is_published:
        click.echo("  then it is published as the primary, and every application is waited for")
    click.echo("  then every managed wrap of another version or key is rewrapped to it")
    click.echo(f"  prove  {proof.sentence()}")
    click.echo("  the old version stays enabled: it is retired apart, when nothing needs it")


@dataclass(frozen=True, slots=True)
class How:
    """How the campaign of a rotation is to run.

    Attributes:
        run_window: when it may; empty: as the configuration says.
        urgent: whether it ignores windows and goes before every other.
        break_glass: why to go ahead without a second person; empty: not to.
    """

    run_window: str = ""
    urgent: bool = False
    break_glass: str = ""


_AS_CONFIGURED = How()


def rotate(
    desk: Desk,
    provider: KeyProvider,
    current: KeyVersion,
    proof: Proof,
    how: How = _AS_CONFIGURED,
) -> int:
    """Take a rotation to its open campaign, from wherever an earlier run of it stopped.

    Returns:
        The id of the campaign that moves the wraps.

    Raises:
        DeskError: the KEK cannot be given a version from here, or its KMS does not show it yet.
        KmsError: the KMS refuses or does not answer.
        RequestRefusedError: another open campaign moves some of the same blobs.
        ControlError: the control file is not to be trusted.
        StoreError: the store did not answer.
    """
    if not isinstance(provider, VersionCreator):
        raise DeskError(
            f"{provider.key} cannot be given a new version from here; nothing was changed",
            exit_code=USAGE,
            reason_code="cannot_create_version",
            next_command="create it in the KMS, then: rewrap start rotate",
        )
    press = _press(desk)
    with desk.ledger.begin() as connection:
        rotations.close_finished(connection)
        if rotations.begin(connection, current).campaign_id is None:
            campaigns.refuse_overlap(connection, prefix="")  # before a version is made for nothing
    _mint(desk, provider, current)
    with desk.ledger.begin() as connection:
        rotation = rotations.begin(connection, current)
    if press and rotation.new and rotation.campaign_id is None:
        with noting(desk) as journal:
            roll_out(press, provider, rotation.new, journal)
    with opening(desk, how.break_glass) as opened:
        rotation = rotations.begin(opened.connection, current)
        if rotation.campaign_id is not None:
            click.echo(f"{rotation.new} is being rolled out by campaign {rotation.campaign_id}")
            return rotation.campaign_id
        campaign_id = opened.request(_request(desk, rotation, proof, how))
        rotations.opened(opened.connection, rotation, campaign_id)
    click.echo(f"campaign {campaign_id} ({Kind.ROTATE})")
    return campaign_id


def _press(desk: Desk) -> Press | None:
    """Return where the version will be published; seen to work before one is made for nothing."""
    if desk.settings.keywrap.control is None:
        return None
    press = press_of(desk)
    press.signing_key()
    press.standing()
    return press


def _mint(desk: Desk, provider: KeyProvider, current: KeyVersion) -> None:
    """See that the KMS makes the rotation's version, once, and note it.

    That the KMS is asked is committed before it is: a run cut off at any point after that leaves
    word for the next, which takes up what came of it and asks for no second version.
    """
    with desk.ledger.begin() as connection:
        rotation = rotations.begin(connection, current)
        if rotation.new:
            return
        made = provider.current_version()
        # A version that is there before the KMS was ever asked is somebody else's.
        if rotation.begun_at is not None and made != rotation.base:
            # Cut off between the KMS's answer and our note of it, or slow: the version is there.
            rotations.minted(connection, rotation, made)
            click.echo(f"took up {made}")
            return
        if rotation.is_begun:
            raise _not_seen(provider)
        asked = rotations.ask(connection, rotation, made)
    _ask_kms(desk, provider, asked)


def _ask_kms(desk: Desk, provider: KeyProvider, asked: Rotation) -> None:
    """Ask the KMS for the version; nobody else rotates this KEK meanwhile."""
    assert isinstance(provider, VersionCreator)  # noqa: S101 - `rotate` has looked
    with desk.ledger.begin() as connection:
        if rotations.begin(connection, asked.base) != asked:
            raise _not_seen(provider)  # held up just here, while another run went on with it
        try:
            new = provider.create_version()
        except UnavailableError as error:
            if error.reason_code != NOT_SEEN:
                raise  # it may have come after the rotation began: its base is kept
            raise _not_seen(provider) from error
        except DeniedError as error:
            if not _is_refused(provider, asked, error):
                raise  # likewise
            rotations.forget(connection, asked)
            denied = error
        else:
            rotations.minted(connection, asked, new)
            click.echo(f"created {new}")
            return
    # Outside of the transaction: that the rotation is forgotten is committed.
    if denied.reason_code != LIMIT:
        raise denied
    raise DeskError(
        f"{denied}; nothing was changed",
        exit_code=REFUSED,
        reason_code=LIMIT,
        next_command="list a new key in [keys], then: rewrap start rotate --to KEY",
    ) from denied


def _is_refused(provider: KeyProvider, asked: Rotation, error: DeniedError) -> bool:
    """Whether the KMS denied the request itself, and not a look at what had come of it.

    In the second case it denies the next look too, or shows the new version.
    """
    if error.reason_code == LIMIT:
        return True
    try:
        return provider.current_version() == asked.base
    except KmsError:
        return False


def _not_seen(provider: KeyProvider) -> DeskError:
    return DeskError(
        f"{provider.key}: the KMS was asked to rotate and does not show the new version yet; "
        "run this again in a minute: it goes on with that version and asks for no second",
        exit_code=UNREACHABLE,
        reason_code=NOT_SEEN,
        next_command="rewrap rotate-kek",
    )


def _request(desk: Desk, rotation: Rotation, proof: Proof, how: How) -> Request:
    return Request(
        Kind.ROTATE,
        operator(),
        target=rotation.new,
        prove=proof.prove,
        sample=proof.sample,
        store=desk.settings.keywrap.store.place,
        backs_up=backs_up(desk),
        run_window=how.run_window,
        urgent=how.urgent,
    )


def _show_status(desk: Desk, key: str, *, as_json: bool) -> None:
    document = rotation_status(desk, key)
    if as_json:
        showing.document(document)
        return
    moved = f"{document['from']} to {document['to'] or 'a version that is not there yet'}"
    click.echo(
        f"rotation of {key}: {document['step']}{'' if not document['from'] else f', {moved}'}"
    )
    if document["obeyed_in_s"]:
        click.echo(f"  every application obeys it in {document['obeyed_in_s']:.0f} s")
    if document["next_command"]:
        click.echo(f"next: {document['next_command']}")


def rotation_status(desk: Desk, key: str) -> dict[str, Any]:
    """Return how far the last rotation of a KEK is.

    Its steps are `none`, `asked`, `made`, `published`, `rolling_out` and `over`.
    """
    with desk.ledger.begin() as connection:
        rotation = rotations.newest(connection, key)
        campaign = campaigns.get(connection, (rotation and rotation.campaign_id) or 0)
    document: dict[str, Any] = {
        "key": key,
        "from": str(rotation.base) if rotation else None,
        "to": str(rotation.new) if rotation and rotation.new else None,
        "step": "none",
        "obeyed_in_s": 0.0,
        "campaign": campaign.id if campaign else None,
        "next_command": f"rewrap rotate-kek {key}",
    }
    if campaign:
        step = "over" if campaign.is_finished else "rolling_out"
        return document | {"step": step, "next_command": f"rewrap status {campaign.id}"}
    if rotation is None or rotation.new is None:
        return document | {"step": "asked" if rotation else "none"}
    noted = press_of(desk).last_noted() if desk.settings.keywrap.control else publishing.NOTHING
    if noted.control.primary != rotation.new:
        return document | {"step": "made"}
    return document | {"step": "published", "obeyed_in_s": round(noted.obeyed_in_s, 1)}
