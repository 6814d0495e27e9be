"""`rewrap sweep`: removing the old contents that a re-encryption has left."""

from datetime import timedelta

import click

from ledger import progress
from ledger.campaigns import Campaign, Request
from ledger.states import Kind
from scheduler.approving import break_glass
from scheduler.backing import backs_up
from scheduler.commands.following import Followed
from scheduler.commands.reading import CAMPAIGN_ID
from scheduler.commands.starting import confirm, follow, open_campaign, wait, yes
from scheduler.desk import DONE, REFUSED, Desk, DeskError, operator
from scheduler.showing import plain

_LEAVING = Followed({Kind.REENCRYPT}, "old contents", "nothing_to_sweep", "nothing was removed")
_NO_BACKUP = "[backup] names no recipients, and the wraps of earlier backups open what is removed"


@click.command()
@click.argument("campaign", type=CAMPAIGN_ID)
@break_glass
@yes
@wait
@click.pass_obj
def sweep(desk: Desk, campaign: int, *, break_glass: str, yes: bool, wait: bool) -> int:
    """Remove the old contents that a re-encryption has left, after a grace time. For good.

    A content goes only where the blob's sidecar names another one, which is opened and read to its
    end first, and where both the sidecar and the old content are older than [reencrypt] grace_s
    by the store's own clock. What `put` has replaced goes likewise.

    Example: rewrap sweep 7 --wait
    """
    followed = _LEAVING.require(desk, campaign, f"rewrap status {campaign} --watch")
    _require_allowed(desk, followed)
    _require_grace(desk, followed)
    request = Request(
        Kind.SWEEP,
        operator(),
        prefix=followed.prefix,
        target=followed.target,
        store=desk.settings.keywrap.store.place,
        follows=followed.id,
        backs_up=backs_up(desk),
    )
    confirm(lambda: _say(desk, followed, backed_up=request.backs_up), yes=yes)
    campaign_id = open_campaign(desk, request, break_glass)
    return follow(desk, campaign_id) if wait else DONE


def _say(desk: Desk, followed: Campaign, *, backed_up: bool) -> None:
    store, grace_s = desk.settings.keywrap.store, desk.settings.reencrypt.grace_s
    backup = "the wraps that stay" if backed_up else f"NONE: {_NO_BACKUP}"
    only = f", ids that start with {plain(followed.prefix)!r}" if followed.prefix else ""
    for line in (
        f"sweep campaign {followed.id}: REMOVE old contents of {store.url}{only}",
        "  first each blob's wrap is opened, and the content that its sidecar names is read whole",
        f"  what a sidecar names stays, and all that was written in the last {_span(grace_s)}",
        "  undo   NONE: what is removed is gone, unless the store keeps versions",
        f"  backup {backup}",
        "  note   every application that writes must use this release of keywrap or a later one,",
        "         and none may be left that reads contents without their sidecars",
    ):
        click.echo(line)
    if followed.store not in {"", store.place}:  # empty: any
        click.echo(f"  NOTE   campaign {followed.id} was of another store: {plain(followed.store)}")


def _require_allowed(desk: Desk, followed: Campaign) -> None:
    if not desk.settings.reencrypt.sweep:
        raise DeskError(
            "the configuration lets nothing be removed; nothing was. Set `sweep = true` in "
            "[reencrypt], here and where workers run, give them the right to delete contents "
            "(`rewrap policy`), and start them again",
            exit_code=REFUSED,
            reason_code="sweep_not_allowed",
            next_command=f"rewrap sweep {followed.id}",
        )


def _require_grace(desk: Desk, followed: Campaign) -> None:
    """Refuse to sweep before the grace time is over, by the ledger's clock.

    Raises:
        DeskError: it is not.
    """
    grace = timedelta(seconds=desk.settings.reencrypt.grace_s)
    with desk.ledger.begin() as connection:
        now = progress.now(connection)
    over_at = (followed.finished_at or now) + grace
    if now < over_at:
        raise DeskError(
            f"campaign {followed.id} ended at {followed.finished_at:%Y-%m-%d %H:%M}, and its old "
            f"contents stay for {_span(grace.total_seconds())}; nothing was removed. The grace "
            f"time is over in {_span((over_at - now).total_seconds())}",
            exit_code=REFUSED,
            reason_code="grace_not_over",
            next_command=f"rewrap sweep {followed.id}",
        )


def _span(seconds: float) -> str:
    days = seconds / 86_400
    return f"{days:,.1f} days" if days >= 1 else f"{seconds / 3600:,.1f} hours"
