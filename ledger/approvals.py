"""Approvals: what one person asked for, and what a second one signed. Both signatures are kept.

The ledger holds them and is not believed: whoever relies on one verifies the signatures against
the configuration (`scheduler.statements`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from ledger.states import Kind


class Action(StrEnum):
    """What may need two people."""

    START_URGENT = "start_urgent"  # windows are ignored, and others wait
    REENCRYPT = "reencrypt"  # new data keys: nothing undoes it
    SWEEP = "sweep"  # old contents are removed, for good
    UNDO = "undo"  # old wraps come back
    RESTORE = "restore"  # wraps of a backup come back
    CUTOVER_ON = "cutover_on"  # applications open no legacy wrap any more
    RETRY_QUARANTINED = "retry_quarantined"  # what a person must look at is taken up again
    RETIRE = "retire"  # a KEK version is disabled


_OF_KIND = {
    Kind.REENCRYPT: Action.REENCRYPT,
    Kind.SWEEP: Action.SWEEP,
    Kind.UNDO: Action.UNDO,
}


def opening(kind: Kind, required: Collection[Action], *, urgent: bool) -> Action | None:
    """Return which of the actions that need two people opening a campaign is, if it is one.

    Args:
        kind: what the campaign does.
        required: the actions that need two people.
        urgent: whether it is an urgent one.
    """
    actions = [_OF_KIND.get(kind), Action.START_URGENT if urgent else None]
    return next((action for action in actions if action in required), None)


@dataclass(frozen=True, slots=True)
class Approval:
    """What one person asked for, and a second one may have approved.

    Attributes:
        id: its number.
        nonce: what both signatures are made for; no other approval has it.
        action: what is asked for.
        plan: exactly what, in canonical JSON.
        campaign_id: the campaign that it is about; None where it is about none.
        requested_by: the person who asks, as the configuration names them.
        account: the account that they typed it on.
        expires_at: when it stops to count; whole seconds.
        request_signature: theirs.
        reason: why it goes without a second person; empty: it does not.
        approved_by: the second person.
        approved_at: when they signed, by the database's clock.
        approval_signature: theirs.
        used_at: when it was made use of: it is good for once.
    """

    id: int
    nonce: UUID
    action: Action
    plan: str
    campaign_id: int | None
    requested_by: str
    account: str
    expires_at: datetime
    request_signature: bytes
    reason: str = ""
    approved_by: str = ""
    approved_at: datetime | None = None
    approval_signature: bytes = b""
    used_at: datetime | None = None


_COLUMNS = Approval.__slots__


def file(connection: Connection, asked: Approval) -> int:
    """Note what a person asks for; return its number. `id` is not looked at."""
    return int(
        connection.execute(
            text(
                "INSERT INTO approval (nonce, action, plan, campaign_id, requested_by, account,"
                " expires_at, request_signature, reason) VALUES (:nonce, :action, :plan,"
                " :campaign_id, :requested_by, :account, :expires_at, :request_signature, :reason)"
                " RETURNING id"
            ),
            {name: getattr(asked, name) for name in _COLUMNS},
        ).scalar_one()
    )


def get(connection: Connection, approval_id: int) -> Approval | None:
    """Return an approval, or None where there is none of that number."""
    return _newest(connection, "id = :id", id=approval_id)


def newest(connection: Connection, action: Action, plan: str) -> Approval | None:
    """Return the newest request of exactly this plan that is neither used nor expired.

    A broken glass is none: what it was broken for may have been cut off, and is asked for anew.
    """
    return _newest(
        connection,
        "action = :action AND plan = :plan AND reason = '' AND used_at IS NULL"
        " AND expires_at > clock_timestamp()",
        action=action,
        plan=plan,
    )


def of_opening(connection: Connection, campaign_id: int, action: Action) -> Approval | None:
    """Return the newest approval of a campaign's opening, expired or not."""
    which = "campaign_id = :campaign AND action = :action"
    return _newest(connection, which, campaign=campaign_id, action=action)


def of_campaign(connection: Connection, campaign_id: int) -> list[Approval]:
    """Return all approvals that are about a campaign, in the order in which they were asked for."""
    return _select(connection, "campaign_id = :campaign ORDER BY id", campaign=campaign_id)


def pending(connection: Connection, campaign_id: int | None = None) -> list[Approval]:
    """Return what waits for a second person, of one campaign or of all, the oldest first."""
    return _select(
        connection,
        "approved_by = '' AND reason = '' AND used_at IS NULL AND expires_at > clock_timestamp()"
        " AND (CAST(:campaign AS int) IS NULL OR campaign_id = :campaign) ORDER BY id",
        campaign=campaign_id,
    )


def sign(connection: Connection, approval: Approval, person: str, signature: bytes) -> bool:
    """Note a second person's signature; return whether it still waited for one."""
    signed = connection.execute(
        text(
            "UPDATE approval SET approved_by = :person, approval_signature = :signature,"
            " approved_at = clock_timestamp() WHERE id = :id AND nonce = :nonce"
            " AND approved_by = '' AND used_at IS NULL AND expires_at > clock_timestamp()"
        ),
        {"id": approval.id, "nonce": approval.nonce, "person": person, "signature": signature},
    )
    return signed.rowcount == 1


def use(connection: Connection, approval: Approval) -> bool:
    """Note that an approval is made use of; return whether it was not yet, nor had expired."""
    used = connection.execute(
        text(
            "UPDATE approval SET used_at = clock_timestamp() WHERE id = :id AND nonce = :nonce"
            " AND used_at IS NULL AND expires_at > clock_timestamp()"
        ),
        {"id": approval.id, "nonce": approval.nonce},
    )
    return used.rowcount == 1


def in_seconds(connection: Connection, seconds: int) -> datetime:
    """Return the database's time some seconds from now, in whole seconds."""
    at = connection.execute(
        text("SELECT date_trunc('second', clock_timestamp()) + make_interval(secs => :s)"),
        {"s": seconds},
    ).scalar_one()
    return _utc(at)


def _newest(connection: Connection, where: str, **values: object) -> Approval | None:
    found = _select(connection, f"{where} ORDER BY id DESC LIMIT 1", **values)
    return found[0] if found else None


def _select(connection: Connection, where: str, **values: object) -> list[Approval]:
    rows = connection.execute(
        text(f"SELECT {', '.join(_COLUMNS)} FROM approval WHERE {where}"),  # noqa: S608 - constants
        values,
    ).mappings()
    return [_approval(row) for row in rows]


def _approval(row: RowMapping) -> Approval:
    read = {
        "action": Action(row["action"]),
        "expires_at": _utc(row["expires_at"]),
        "request_signature": bytes(row["request_signature"]),
        "approved_at": _utc(row["approved_at"]) if row["approved_at"] else None,
        "approval_signature": bytes(row["approval_signature"]),
    }
    return Approval(**{**row, **read})


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
