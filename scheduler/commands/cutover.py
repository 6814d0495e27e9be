"""`rewrap cutover`: the flag that ends legacy unwrapping, published in the control file."""

from dataclasses import replace
from typing import Any

import click

from keywrap.control import Control, ControlError, Cutover
from ledger.approvals import Action
from ledger.publications import Publication
from scheduler import approving, legacy_gate, publishing, showing
from scheduler.approving import break_glass
from scheduler.commands.reading import as_json, status_of
from scheduler.commands.starting import confirm, yes
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, Desk, DeskError
from scheduler.legacy_gate import Remains
from scheduler.publishing import Press, press_of

_STATUS = "status"

_AFTER = {
    Cutover.OFF: "applications open legacy wraps",
    Cutover.WARN: "applications open legacy wraps and raise an alert each time",
    Cutover.ON: "applications open no legacy wrap any more",
}


@click.command()
@click.argument("action", type=click.Choice([_STATUS, *(flag.value for flag in Cutover)]))
@break_glass
@yes
@as_json
@click.pass_obj
def cutover(desk: Desk, action: str, *, break_glass: str, yes: bool, as_json: bool) -> int:
    """End legacy unwrapping: rehearse it with warn, then switch it on.

    ACTION is status, warn, on or off. `on` first scans the whole store, and is refused while one
    legacy wrap remains, also as `previous`, or a sidecar cannot be read. What the scan cannot see:
    backups, old object versions, and blobs that are put there later by something else than us.

    Example: rewrap cutover on
    """
    press = press_of(desk)
    if action == _STATUS:
        return _show(press, as_json=as_json)
    wanted = Cutover(action)
    press.signing_key()  # before a scan is made for nothing
    before, remains = press.standing(), None
    if wanted is Cutover.ON and before.control.cutover is not Cutover.ON:
        confirm(_no_plan if as_json else _show_plan, yes=yes)
        plan = {"store": desk.settings.keywrap.store.place, "after_serial": before.control.serial}
        permit = approving.permit(desk, Action.CUTOVER_ON, plan, break_glass)
        show = showing.silently if as_json else showing.until_finished
        remains = legacy_gate.scan(desk, lambda scan: show(lambda: status_of(desk, scan)))
        if not remains.are_none:
            return _refuse(before, remains, as_json=as_json)
        with desk.ledger.begin() as connection:
            permit.use(connection)  # before, not after: it may have expired while we scanned
    publication = press.publish(lambda base: turned(base, wanted, remains))
    _obeyed(publication, as_json=as_json)
    if as_json:
        showing.document(_document(publication, remains))
    return DONE


def _no_plan() -> None:
    """Stand in for the plan where stdout holds one JSON document and nothing else."""


def _show_plan() -> None:
    click.echo("cutover on: scan the whole store; if no legacy wrap is left, publish that")
    click.echo("  then applications open no legacy wrap any more: `rewrap cutover off` undoes it")


def turned(base: Control, wanted: Cutover, scanned: Remains | None) -> Control:
    """Return what is to be obeyed; what others published meanwhile is kept.

    Args:
        base: what is published.
        wanted: the flag as it is to be.
        scanned: the scan that found nothing, where one was made.

    Raises:
        DeskError: it is to be switched on, and no scan was made for it.
    """
    if wanted is Cutover.ON and base.cutover is not Cutover.ON and scanned is None:
        raise DeskError(
            "somebody switched it off just now, and no scan was made since; nothing was changed",
            exit_code=REFUSED,
            reason_code="cutover_changed",
            next_command="rewrap cutover on",
        )
    return replace(base, cutover=wanted)


def _refuse(before: Publication, remains: Remains, *, as_json: bool) -> int:
    if not as_json:
        raise DeskError(
            remains.sentence(),
            exit_code=REFUSED,
            reason_code=legacy_gate.REASON_CODE,
            next_command=remains.next_command(),
        )
    why = {
        "reason_code": legacy_gate.REASON_CODE,
        "reason": remains.sentence(),
        "next_command": remains.next_command(),
    }
    showing.document(_document(before, remains) | why)
    return REFUSED


def _obeyed(publication: Publication, *, as_json: bool) -> None:
    """Wait until all obey it where somebody may rely on that; else say from when they do."""
    flag = publication.control.cutover
    if not as_json:
        publishing.say(publication)
    try:
        if flag is Cutover.ON:
            publishing.wait_until_obeyed(publication, silently=as_json)
    except KeyboardInterrupt:
        click.echo(
            f"\nit is published; until {publishing.obeyed_at(publication)} an application may "
            "still open a legacy wrap",
            err=True,
        )
        raise
    if as_json:
        return
    if flag is Cutover.ON:
        click.echo(_AFTER[flag])
        click.echo(
            f"next: write min_serial = {publication.control.serial} into [control] of every "
            "application, so that one that starts later accepts no older control file"
        )
    else:
        click.echo(f"{_AFTER[flag]}, from {publishing.obeyed_at(publication)} on at the latest")


def _show(press: Press, *, as_json: bool) -> int:
    why: dict[str, Any] = {}
    try:
        publication = press.newest()
    except ControlError as error:
        # What the ledger has is shown beside what is wrong with the file.
        publication = press.last_noted()
        why = {
            "reason_code": error.reason_code,
            "reason": str(error),
            "next_command": error.next_command,
        }
    if as_json:
        changes = [_change(noted.control) for noted in press.recent()]
        showing.document(_document(publication, None) | why | {"changes": changes})
        return EXCEPTIONS if why else DONE
    for noted in reversed(press.recent()):
        click.echo(_line(noted.control))
    publishing.say(publication)
    if why:
        raise DeskError(
            why["reason"],
            exit_code=EXCEPTIONS,
            reason_code=why["reason_code"],
            next_command=why["next_command"],
        )
    click.echo(_AFTER[publication.control.cutover])
    if publication.obeyed_in_s:
        click.echo(f"  all of them from {publishing.obeyed_at(publication)} on at the latest")
    return DONE


def _line(control: Control) -> str:
    at = control.issued_at.isoformat(timespec="seconds") if control.issued_at else ""
    primary = control.primary or "of [keys]"
    return f"{control.serial:>4}  {at}  {control.cutover:<4}  {primary}  {control.issued_by}"


def _change(control: Control) -> dict[str, Any]:
    return {
        "serial": control.serial,
        "cutover": control.cutover,
        "primary": str(control.primary) if control.primary else None,
        "issued_at": control.issued_at.isoformat() if control.issued_at else None,
        "issued_by": control.issued_by,
    }


def _document(publication: Publication, scanned: Remains | None) -> dict[str, Any]:
    return _change(publication.control) | {
        "max_age_s": publication.control.max_age_s,
        "obeyed_in_s": round(publication.obeyed_in_s, 1),
        "scan": scanned.campaign_id if scanned else None,
        "counts": scanned.counts if scanned else None,
        "reason_code": None,
        "reason": None,
        "next_command": None,
    }
