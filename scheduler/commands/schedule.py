"""`rewrap schedule`: campaigns that are opened again and again."""

import re
from datetime import datetime
from typing import Any

import click

from ledger import progress, schedules
from ledger.schedules import KINDS, Schedule
from ledger.states import REWRAPPING, Kind
from scheduler import showing
from scheduler.commands.reading import as_json, say_silence
from scheduler.commands.starting import prefix, prove, run_window, to
from scheduler.desk import REFUSED, USAGE, Desk, DeskError, operator
from scheduler.proofs import Proof
from scheduler.recurring import CronError, following, request_of
from workers.windows import WindowError, zone_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_name = click.argument("name")


def _new_name(_context: click.Context, _param: click.Parameter, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise click.BadParameter("a name has letters, digits, `.`, `_` and `-`")
    return name


@click.group()
def schedule() -> None:
    """Add, list, pause, resume and remove recurring campaigns; docs/when.md.

    Example: rewrap schedule list
    """


@schedule.command()
@click.argument("name", callback=_new_name)
@click.argument("kind", type=click.Choice([kind.value for kind in KINDS]))
@click.option("--cron", required=True, metavar="C", help="Five fields of cron: '0 2 * * 6'.")
@click.option("--zone", default="UTC", show_default=True, help="Of the IANA time zone database.")
@prefix
@to
@prove
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="verify: N random blobs.")
@click.option("--escrow", is_flag=True, help="Back up the data keys themselves too.")
@run_window
@click.pass_obj
def add(  # noqa: PLR0913 - one for each word of the command line
    desk: Desk,
    name: str,
    kind: str,
    cron: str,
    zone: str,
    *,
    prefix: str,
    key: str | None,
    prove: Proof | None,
    sample: int | None,
    run_window: str | None,
    escrow: bool,
) -> None:
    """Add a recurring campaign; the scheduler opens it, with the KEK's version of that time.

    What was missed while no scheduler ran is made good by one campaign. While the campaign of the
    time before is not finished, the next is skipped, and `schedule list` says so.

    Example: rewrap schedule add weekly rotate --cron '0 2 * * 6' --zone Europe/Berlin
    """
    asked = Kind(kind)
    if sample is not None and asked is not Kind.VERIFY:
        raise click.UsageError("--sample is for verify")
    if (key or prove) and asked not in REWRAPPING:
        raise click.UsageError("--to and --prove are for migrate and rotate")
    with desk.ledger.begin() as connection:
        now = progress.now(connection)
    new = Schedule(
        name=name,
        kind=asked,
        cron=cron,
        zone=zone,
        created_by=operator(),
        prefix=prefix,
        key=key,
        prove=prove.option() if prove else "",
        sample_size=sample,
        escrow=escrow,
        run_window=run_window or "",
        next_at=_next(cron, zone, now),
    )
    request_of(desk, new)  # what cannot be asked for is told now, not at night
    with desk.ledger.begin() as connection:
        if not schedules.add(connection, new):
            raise DeskError(
                f"there is a schedule {name} already; nothing was changed",
                exit_code=REFUSED,
                reason_code="already_there",
                next_command=f"rewrap schedule remove {name}",
            )
    click.echo(f"schedule {name}: {kind}, first at {new.next_at:%Y-%m-%d %H:%M} UTC")
    click.echo("next: rewrap schedule list")


def _next(cron: str, zone: str, now: datetime) -> datetime:
    try:
        zone_of(zone)
        return following(cron, zone, now)
    except WindowError as error:
        raise click.BadParameter(str(error), param_hint="--zone") from None
    except CronError as error:
        raise click.BadParameter(str(error), param_hint="--cron") from None


@schedule.command("list")
@as_json
@click.pass_obj
def listing(desk: Desk, *, as_json: bool) -> None:
    """List schedules: when each is due next, what the last came to, and why it waits.

    Example: rewrap schedule list
    """
    with desk.ledger.begin() as connection:
        found = schedules.every(connection)
    if as_json:
        showing.document([_document(one) for one in found])
        return
    for one in found:
        when = "paused" if one.paused else f"next {one.next_at:%Y-%m-%d %H:%M} UTC"
        click.echo(f"{one.name}  {one.kind}  {one.cron} {one.zone}  {when}")
        if one.last_campaign:
            click.echo(f"   last {one.last_at:%Y-%m-%d %H:%M} UTC, campaign {one.last_campaign}")
        if one.missed:
            click.echo(f"   {one.missed:,} times were missed or skipped")
        if one.reason:
            click.echo(f"   {one.reason_code}: {showing.plain(one.reason)}")
    if not found:
        click.echo("no schedules yet\nnext: rewrap schedule add --help")
    else:
        say_silence(desk, "nobody opens what is due")


def _document(one: Schedule) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "cron": one.cron,
        "zone": one.zone,
        "prefix": one.prefix,
        "key": one.key,
        "window": one.run_window or None,
        "paused": one.paused,
        "next_at": one.next_at.isoformat(timespec="seconds") if one.next_at else None,
        "last_at": one.last_at.isoformat(timespec="seconds") if one.last_at else None,
        "last_campaign": one.last_campaign,
        "missed": one.missed,
        "reason_code": one.reason_code,
        "reason": one.reason,
        "next_command": f"rewrap schedule resume {one.name}" if one.paused else None,
    }


@schedule.command()
@_name
@click.pass_obj
def pause(desk: Desk, name: str) -> None:
    """Let a schedule open no campaign for now; one that is open goes on.

    Example: rewrap schedule pause weekly
    """
    _known(desk, name)
    with desk.ledger.begin() as connection:
        schedules.pause(connection, name)
    click.echo(f"schedule {name} is paused\nnext: rewrap schedule resume {name}")


@schedule.command()
@_name
@click.pass_obj
def resume(desk: Desk, name: str) -> None:
    """Let a schedule go on, from its next time: nothing of the pause is made good.

    Example: rewrap schedule resume weekly
    """
    known = _known(desk, name)
    with desk.ledger.begin() as connection:
        next_at = _next(known.cron, known.zone, progress.now(connection))
        schedules.resume(connection, name, next_at)
    click.echo(f"schedule {name} goes on, next at {next_at:%Y-%m-%d %H:%M} UTC")


@schedule.command()
@_name
@click.pass_obj
def remove(desk: Desk, name: str) -> None:
    """Remove a schedule. Its campaigns stay as they are.

    Example: rewrap schedule remove weekly
    """
    _known(desk, name)
    with desk.ledger.begin() as connection:
        schedules.remove(connection, name)
    click.echo(f"schedule {name} is removed")


def _known(desk: Desk, name: str) -> Schedule:
    with desk.ledger.begin() as connection:
        known = schedules.get(connection, name)
    if known is None:
        raise DeskError(
            f"there is no schedule {showing.plain(name)}; nothing was changed",
            exit_code=USAGE,
            reason_code="no_such_schedule",
            next_command="rewrap schedule list",
        )
    return known
