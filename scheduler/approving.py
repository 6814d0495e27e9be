"""Asking for a second person at the desk, and seeing that one has approved.

Whoever asks signs as well: with the key whose file `REWRAP_APPROVAL_KEY_FILE` names. So the two
signatures are of two people whatever accounts they share.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from keywrap.signing import SigningKey
from ledger import approvals, campaigns
from ledger.approvals import Action, Approval
from ledger.campaigns import Request
from ledger.connection import Connection
from scheduler import awaiting, statements
from scheduler.desk import REFUSED, UNREACHABLE, USAGE, Desk, DeskError, operator
from scheduler.deskjournal import noting
from scheduler.statements import ForgedError, Role

KEY_FILE = "REWRAP_APPROVAL_KEY_FILE"
"""Names the file of the private key of whoever is typing."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who is typing, as the configuration lists them."""

    name: str
    key: SigningKey


@dataclass(frozen=True, slots=True)
class Permit:
    """What lets an action go ahead.

    Attributes:
        approval: the approval; None where none is wanted, or none can be noted.
    """

    approval: Approval | None = None

    def use(self, connection: Connection) -> None:
        """Use it up, in the transaction of what it permits.

        Raises:
            DeskError: it was used or has expired in the meantime.
        """
        if not self.spend(connection):
            assert self.approval is not None  # noqa: S101 - or there was nothing to spend
            raise DeskError(
                f"approval {self.approval.id} was used just now or has expired; nothing was "
                "changed",
                exit_code=REFUSED,
                reason_code="approval_used",
                next_command="run it again: it asks for a new one",
            )

    def spend(self, connection: Connection) -> bool:
        """Use it up after what it permitted; return whether nobody had done so, nor time."""
        return self.approval is None or approvals.use(connection, self.approval)


NO_PERMIT = Permit()
"""For what needs no second person."""

break_glass = click.option(
    "--break-glass",
    metavar="REASON",
    default="",
    help="Go ahead without the second person that [approvals] wants; loud, and on record.",
)


def person(desk: Desk, file: Path | None = None) -> Person:
    """Return who is typing, by the key that they hold.

    Args:
        desk: the operator's desk.
        file: the file of their private key; None for what `REWRAP_APPROVAL_KEY_FILE` names.

    Raises:
        DeskError: no file is named, or nobody is listed with its key.
        SigningKeyError: it holds no key, or others can read it.
    """
    named = str(file) if file else os.environ.get(KEY_FILE, "")
    if not named:
        raise DeskError(
            f"[approvals] wants to know who is asking: {KEY_FILE} is to name the file of your "
            "private key; nothing was changed",
            exit_code=USAGE,
            reason_code="approval_key_wanted",
            next_command="rewrap approval-key --out FILE",
        )
    key = SigningKey.load(Path(named))
    name = desk.settings.approvals.person_of(key.public)
    if name is None:
        raise DeskError(
            f"[approvals.people] lists nobody with the key of {named}; nothing was changed",
            exit_code=REFUSED,
            reason_code="approver_unlisted",
            next_command="have the public key listed in the configuration of every machine",
        )
    return Person(name, key)


def permit(
    desk: Desk,
    action: Action,
    plan: dict[str, Any],
    reason: str,
    campaign_id: int | None = None,
) -> Permit:
    """Return what permits an action, or ask for it and refuse.

    Args:
        desk: the operator's desk.
        action: what is to be done.
        plan: exactly what: strings, integers, booleans and nulls.
        reason: why to go ahead without a second person; empty: not to.
        campaign_id: the campaign that it is about.

    Raises:
        DeskError: nobody has approved it yet; it is on record now that somebody asks.
    """
    if action not in desk.settings.approvals.required:
        if reason:
            raise no_glass(action)
        return NO_PERMIT
    text = statements.text_of(plan)
    if reason:
        return _break_glass(desk, action, text, reason, campaign_id)
    known = _known(desk, action, text)
    if known is None or not known.approved_by:
        raise _wanted(known or _file(desk, action, text, person(desk), "", campaign_id))
    try:
        statements.verify(known, desk.settings.approvals)
    except ForgedError as error:
        raise DeskError(
            f"approval {known.id} does not count: {error}; nothing was changed",
            exit_code=REFUSED,
            reason_code="approval_forged",
            next_command="find out who wrote to the ledger; then have it asked for anew",
        ) from error
    return Permit(known)


@dataclass(frozen=True, slots=True)
class Opening:
    """Requests for campaigns that wait for a second person where one is wanted.

    Attributes:
        desk: the operator's desk.
        connection: the transaction of the requests.
        reason: why to go ahead without a second person; empty: not to.
        filed: what was asked for.
    """

    desk: Desk
    connection: Connection
    reason: str
    filed: list[Approval]

    def request(self, request: Request) -> int:
        """Write a request for a campaign into the ledger; return the campaign's id.

        Raises:
            DeskError: who is asking is not known.
            RequestRefusedError: another open campaign moves some of the same blobs.
        """
        rules = self.desk.settings.approvals
        action = approvals.opening(request.kind, rules.required, urgent=request.urgent)
        if action is None and self.reason:
            raise no_glass(request.kind)
        if action is None:
            return campaigns.request(self.connection, request)
        who = _breaking(self.desk) if self.reason else person(self.desk)
        campaign_id = campaigns.request(self.connection, request)
        campaign = campaigns.get(self.connection, campaign_id)
        assert campaign is not None  # noqa: S101 - just now it was made
        awaiting.hold(self.connection, campaign_id)
        at = approvals.in_seconds(self.connection, rules.expires_s)
        plan = statements.plan_of(campaign)
        asked = _signed(action, plan, at, who, self.reason, campaign_id)
        self.filed.append(replace(asked, id=approvals.file(self.connection, asked)))
        return campaign_id


@contextmanager
def opening(desk: Desk, reason: str = "") -> Iterator[Opening]:
    """Open campaigns in one transaction, and tell of what waits for a second person then.

    Args:
        desk: the operator's desk.
        reason: why to go ahead without a second person; empty: not to.
    """
    with noting(desk) as journal, desk.ledger.begin() as connection:
        opened = Opening(desk, connection, reason, [])
        yield opened
        for asked in opened.filed:  # before the commit: nothing waits that is in no trail
            _note(journal.acted, asked)
    for asked in opened.filed:
        if asked.reason:
            shout(asked)
        else:
            click.echo(f"it waits for a second person; next: rewrap approve {asked.id}")


def _known(desk: Desk, action: Action, plan: str) -> Approval | None:
    try:
        ledger = desk.ledger
    except DeskError as error:
        if action is Action.RESTORE:  # which works on an empty machine
            error.next_command = "run it with --break-glass REASON, which needs no ledger"
        raise
    with ledger.begin() as connection:
        return approvals.newest(connection, action, plan)


def _file(
    desk: Desk, action: Action, plan: str, who: Person, reason: str, campaign_id: int | None
) -> Approval:
    with noting(desk, campaign_id or 0) as journal, desk.ledger.begin() as connection:
        at = approvals.in_seconds(connection, desk.settings.approvals.expires_s)
        asked = _signed(action, plan, at, who, reason, campaign_id)
        asked = replace(asked, id=approvals.file(connection, asked))
        _note(journal.acted, asked)  # before the commit: nothing counts that is in no trail
    return asked


def _break_glass(
    desk: Desk, action: Action, plan: str, reason: str, campaign_id: int | None
) -> Permit:
    who = _breaking(desk)
    try:
        asked = _file(desk, action, plan, who, reason, campaign_id)
    except DeskError as error:
        if error.exit_code != UNREACHABLE or action is not Action.RESTORE:
            raise
        # A restore works on an empty machine; there the trail alone keeps it.
        at = datetime.now(UTC) + timedelta(seconds=desk.settings.approvals.expires_s)
        asked = _signed(action, plan, at.replace(microsecond=0), who, reason, campaign_id)
        with noting(desk) as journal:
            _note(journal.acted, asked)
        shout(asked)
        click.echo("NOT IN THE LEDGER, which does not answer: keep the audit trail", err=True)
        return NO_PERMIT
    shout(asked)
    return Permit(asked)


def _breaking(desk: Desk) -> Person:
    if not desk.settings.approvals.break_glass:
        raise DeskError(
            "[approvals] break_glass = false: nobody goes ahead alone; nothing was changed",
            exit_code=REFUSED,
            reason_code="break_glass_forbidden",
            next_command="run it without --break-glass, and have it approved",
        )
    return person(desk)


def _signed(
    action: Action,
    plan: str,
    expires_at: datetime,
    who: Person,
    reason: str,
    campaign_id: int | None,
) -> Approval:
    asked = Approval(
        0, uuid4(), action, plan, campaign_id, who.name, operator(), expires_at, b"", reason
    )
    role = Role.BREAK_GLASS if reason else Role.REQUEST
    return replace(asked, request_signature=statements.signature(asked, role, who.name, who.key))


def _note(acted: Callable[..., None], asked: Approval) -> None:
    acted(
        "approval",
        "break_glass" if asked.reason else "requested",
        approval=asked.id,
        action=asked.action.value,
        plan=asked.plan,
        person=asked.requested_by,
        reason=asked.reason,
    )


def shout(asked: Approval) -> None:
    """Tell everybody who looks that one person goes ahead alone."""
    click.echo(
        f"*** BREAK GLASS: {asked.requested_by} ({asked.account}) goes ahead with {asked.action} "
        f"without a second person: {asked.reason!r}; this is on record",
        err=True,
    )


def no_glass(what: str) -> DeskError:
    """Say that there is nothing to break: a reason given for nothing is a mistake of somebody's."""
    return DeskError(
        f"[approvals] wants no second person for {what}; nothing was changed",
        exit_code=USAGE,
        reason_code="no_approval_wanted",
        next_command="run it without --break-glass",
    )


def _wanted(asked: Approval) -> DeskError:
    return DeskError(
        f"{asked.action} wants a second person's approval; {asked.requested_by} has asked for it, "
        f"until {asked.expires_at.isoformat(timespec='minutes')}; nothing was changed",
        exit_code=REFUSED,
        reason_code="approval_wanted",
        next_command=f"rewrap approve {asked.id} (a second person), then run this again",
    )
