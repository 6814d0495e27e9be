"""`rewrap approve` and `approval-key`: the second person, where the configuration wants one."""

import json
from pathlib import Path
from typing import Any

import click

from ledger import approvals
from ledger.approvals import Action, Approval
from scheduler import showing, statements
from scheduler.approving import KEY_FILE, Person, person
from scheduler.commands.keys import new_key_file, new_signing_key
from scheduler.commands.reading import CAMPAIGN_ID, as_json
from scheduler.commands.starting import confirm, yes
from scheduler.desk import DONE, REFUSED, USAGE, Desk, DeskError
from scheduler.deskjournal import noting
from scheduler.showing import plain
from scheduler.statements import ForgedError, Role

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("approval-key")
@new_key_file
def approval_key(out: Path) -> None:
    """Make the key with which you ask for and approve what needs two people.

    Prints the line for [approvals.people] in the configuration of every machine. Each person has a
    key of their own, and keeps it where nobody else can read it.

    Example: rewrap approval-key --out ~/approval.key
    """
    path = out.absolute()
    key = new_signing_key(path, "rewrap approval-key --out ANOTHER_FILE")
    click.echo(f"# created {path}: yours alone")
    click.echo(f'[approvals.people]\nYOUR_NAME = "{key.public}"')
    click.echo(f"# next: export {KEY_FILE}={path}")


@click.command()
@click.argument("approval", type=CAMPAIGN_ID, required=False, metavar="[ID]")
@click.option("--key", type=_FILE, metavar="FILE", help=f"Your private key [default: {KEY_FILE}].")
@yes
@as_json
@click.pass_obj
def approve(desk: Desk, approval: int | None, key: Path | None, *, yes: bool, as_json: bool) -> int:
    """Approve, as the second person, exactly the plan that somebody else has asked for.

    Without ID, list what waits. Your signature is over the whole plan: it counts for that one,
    once, until it expires. Whoever asked cannot approve it.

    Example: rewrap approve 7
    """
    if approval is None:
        return _list(desk, as_json=as_json)
    if as_json:
        raise click.UsageError("--json lists what waits, and goes without ID")
    asked = _asked(desk, approval)
    who = person(desk, key)
    _require_another(asked, who)
    confirm(lambda: _say(asked), yes=yes)
    with noting(desk, asked.campaign_id or 0) as journal:
        signature = statements.signature(asked, Role.APPROVAL, who.name, who.key)
        # The trail first: no approval counts that is in no trail.
        journal.acted(
            "approval",
            "approved",
            approval=asked.id,
            action=asked.action.value,
            plan=asked.plan,
            person=who.name,
        )
        with desk.ledger.begin() as connection:
            if not approvals.sign(connection, asked, who.name, signature):
                raise _not_pending(asked.id)
    click.echo(f"approved by {who.name}, asked for by {asked.requested_by}")
    click.echo(f"next: {_next(asked)}")
    return DONE


def _list(desk: Desk, *, as_json: bool) -> int:
    with desk.ledger.begin() as connection:
        found = approvals.pending(connection)
    if as_json:
        showing.document([_document(asked) for asked in found])
        return DONE
    for asked in found:
        until = asked.expires_at.isoformat(timespec="minutes")
        click.echo(f"{asked.id}  {asked.action}  asked for by {asked.requested_by}  until {until}")
        click.echo(f"   next: rewrap approve {asked.id}")
    if not found:
        click.echo("nothing waits for a second person")
    return DONE


def _document(asked: Approval) -> dict[str, Any]:
    return {
        "id": asked.id,
        "action": asked.action,
        "plan": json.loads(asked.plan),
        "campaign": asked.campaign_id,
        "requested_by": asked.requested_by,
        "account": asked.account,
        "expires_at": asked.expires_at.isoformat(timespec="seconds"),
    }


def _asked(desk: Desk, approval_id: int) -> Approval:
    """Return what waits for a second person, seen to be what a listed person asked for.

    Raises:
        DeskError: it does not wait, or what the ledger says is not what was signed.
    """
    with desk.ledger.begin() as connection:
        known = approvals.get(connection, approval_id)
        waits = known is not None and known in approvals.pending(connection)
    if known is None or not waits:
        raise _not_pending(approval_id)
    try:
        statements.verify_request(known, desk.settings.approvals)
    except ForgedError as error:
        raise DeskError(
            f"approval {approval_id} is NOT what somebody asked for: {error}; nothing was signed",
            exit_code=REFUSED,
            reason_code="approval_forged",
            next_command="find out who wrote to the ledger; then have it asked for anew",
        ) from error
    return known


def _require_another(asked: Approval, who: Person) -> None:
    if who.name == asked.requested_by:
        raise DeskError(
            f"{who.name} has asked for this and cannot approve it; nothing was signed",
            exit_code=REFUSED,
            reason_code="own_approval",
            next_command=f"rewrap approve {asked.id} (another person, with a key of their own)",
        )


def _not_pending(approval_id: int) -> DeskError:
    return DeskError(
        f"approval {approval_id} does not wait for anybody: there is none, or it was approved, "
        "was used or has expired; nothing was signed",
        exit_code=USAGE,
        reason_code="approval_not_pending",
        next_command="rewrap approve",
    )


def _say(asked: Approval) -> None:
    until = asked.expires_at.isoformat(timespec="minutes")
    click.echo(f"approve {asked.action}, asked for by {asked.requested_by} ({asked.account})")
    for name, value in json.loads(asked.plan).items():
        if value not in (None, "", False):
            click.echo(f"  {name.replace('_', ' '):<18} {plain(str(value))}")
    click.echo(f"  {'until':<18} {until}")


def _next(asked: Approval) -> str:
    words = {
        Action.RESTORE: "rewrap backup restore …",
        Action.CUTOVER_ON: "rewrap cutover on",
        Action.RETRY_QUARANTINED: f"rewrap retry {asked.campaign_id} --quarantined",
        Action.RETIRE: "rewrap retire …",
    }
    if asked.action not in words:
        return f"rewrap status {asked.campaign_id} --watch"
    return f"{words[asked.action]} ({asked.requested_by}, exactly as before)"
