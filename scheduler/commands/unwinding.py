"""`rewrap seal` and `rewrap undo`: what becomes of the wraps that a campaign has left."""

from collections.abc import Sequence

import click

from keywrap.control import ControlError, Cutover
from ledger import history
from ledger.campaigns import Campaign, Request
from ledger.states import KEEPING, Kind
from scheduler.approving import break_glass
from scheduler.backing import backs_up
from scheduler.commands.following import Followed
from scheduler.commands.reading import CAMPAIGN_ID
from scheduler.commands.starting import confirm, follow, open_campaign, wait, yes
from scheduler.desk import DONE, REFUSED, Desk, DeskError, operator
from scheduler.publishing import press_of

_campaign = click.argument("campaign", type=CAMPAIGN_ID)


@click.command()
@_campaign
@yes
@wait
@click.pass_obj
def seal(desk: Desk, campaign: int, *, yes: bool, wait: bool) -> int:
    """Strip the wraps before the newest, which a campaign has left beside the new ones.

    What a later campaign has left stays: seal that one. Each live wrap is opened and matched
    against its blob's content first. Afterwards nothing can be undone but from a backup, and the
    old key is needed by these blobs no more.

    Example: rewrap seal 3 --wait
    """
    followed = _finished(desk, campaign, "seal")
    request = _request(desk, Kind.SEAL, followed)
    later = _later(desk, followed)
    confirm(lambda: _say(_SEALING, followed, later), yes=yes)
    return _open(desk, request, wait=wait)


@click.command()
@_campaign
@break_glass
@yes
@wait
@click.pass_obj
def undo(desk: Desk, campaign: int, *, break_glass: str, yes: bool, wait: bool) -> int:
    """Put the old wraps back that a campaign has replaced, where they open the content.

    Blobs that a writer has changed since are left as they are. An open campaign is paused or
    cancelled first.

    Example: rewrap undo 3 --wait
    """
    followed = _finished(desk, campaign, "undo")
    _require_no_cutover(desk, followed)
    request = _request(desk, Kind.UNDO, followed)
    later = _later(desk, followed)
    confirm(lambda: _say(_UNDOING, followed, later), yes=yes)
    return _open(desk, request, break_glass, wait=wait)


_WHICH = (
    "  that is where the live wrap is under {target} or a later version of that key, and "
    "`previous` is under an older one or another key"
)
_SEALING = (
    "seal campaign {id} ({kind}): strip `previous` where it has left it",
    _WHICH,
    "  first each live wrap is opened and matched against its blob's content",
    "  afterwards only a backup puts the old wraps back",
)
_UNDOING = (
    "undo campaign {id} ({kind}): put `previous` back where it has left it",
    _WHICH,
    "  first each old wrap is opened and matched against its blob's content",
    "  blobs that a writer has changed since stay as they are",
)


def _say(lines: tuple[str, ...], followed: Campaign, later: Sequence[Campaign]) -> None:
    for line in lines:
        click.echo(line.format(id=followed.id, kind=followed.kind, target=followed.target))
    for other in later:
        click.echo(
            f"  what campaign {other.id} ({other.kind} to {other.target}) has left since stays"
        )


def _later(desk: Desk, followed: Campaign) -> list[Campaign]:
    with desk.ledger.begin() as connection:
        return history.left_since(connection, followed)


_KEEPING = Followed(KEEPING, "old wraps", "nothing_to_unwind", "nothing was changed")


def _finished(desk: Desk, campaign_id: int, wish: str) -> Campaign:
    cancel = f"rewrap cancel {campaign_id}, then: rewrap {wish} {campaign_id}"
    return _KEEPING.require(desk, campaign_id, cancel)


def _require_no_cutover(desk: Desk, followed: Campaign) -> None:
    """Refuse to put legacy wraps back that applications open no more.

    Raises:
        DeskError: cutover is on, or what is published is not to be trusted.
    """
    if followed.kind is not Kind.MIGRATE or desk.settings.keywrap.control is None:
        return
    try:
        cutover = press_of(desk).newest().control.cutover
    except ControlError as error:
        raise DeskError(
            f"{error}; nothing was changed",
            exit_code=REFUSED,
            reason_code=error.reason_code,
            next_command="rewrap cutover status",
        ) from error
    if cutover is Cutover.ON:
        raise DeskError(
            "cutover is on: no application would open the legacy wraps; nothing was changed",
            exit_code=REFUSED,
            reason_code="cutover_is_on",
            next_command=f"rewrap cutover off, then: rewrap undo {followed.id}",
        )


def _request(desk: Desk, kind: Kind, followed: Campaign) -> Request:
    return Request(
        kind,
        operator(),
        prefix=followed.prefix,
        target=followed.target,
        store=desk.settings.keywrap.store.place,
        follows=followed.id,
        backs_up=backs_up(desk),
    )


def _open(desk: Desk, request: Request, reason: str = "", *, wait: bool) -> int:
    campaign_id = open_campaign(desk, request, reason)
    return follow(desk, campaign_id) if wait else DONE
