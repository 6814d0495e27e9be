"""What people sign when they ask for something, approve it, or break the glass.

A statement is a record in canonical form (`keywrap.certificate.canonical`), signed by Ed25519
(RFC 8032) under a domain of its own. It names its role, so that a signature that asks is never
one that approves; the whole plan, so that no other is approved by it; and a nonce, so that it
counts for nothing else. The ledger that keeps it is not believed.
"""

import base64
import json
from enum import StrEnum
from typing import Any

from keywrap.certificate import canonical
from keywrap.signing import SigningKey
from ledger.approvals import Approval
from ledger.campaigns import Campaign
from workers.approvals_table import Approvals

FORMAT = "rewrap-approval-v1"

_DOMAIN = b"rewrap approval v1"


class Role(StrEnum):
    """What a person says with a signature."""

    REQUEST = "request"  # I ask for this
    APPROVAL = "approval"  # I have looked at it, and it may be done
    BREAK_GLASS = "break_glass"  # I do this alone, and give the reason


class ForgedError(Exception):
    """A signature does not count. The message says whose, and why."""


def plan_of(campaign: Campaign) -> str:
    """Return what opening a campaign amounts to, in canonical JSON.

    Its nonce is in it: an approval of one campaign is none of another that looks the same.
    """
    return text_of(
        {
            "campaign": campaign.id,
            "nonce": str(campaign.nonce),
            "kind": campaign.kind.value,
            "store": campaign.store,
            "prefix": campaign.prefix,
            "target": str(campaign.target) if campaign.target else None,
            "prove": campaign.prove.value if campaign.prove else None,
            "sample": None if campaign.sample is None else repr(campaign.sample),
            "follows": campaign.follows,
            "backs_up": campaign.backs_up,
            "escrow": campaign.escrow,
            "urgent": campaign.urgent,
        }
    )


def text_of(plan: dict[str, Any]) -> str:
    """Return a plan in canonical JSON.

    Raises:
        TypeError: a value in it is no string, integer, boolean, null, list or object.
    """
    return canonical(plan).decode()


def signature(approval: Approval, role: Role, person: str, key: SigningKey) -> bytes:
    """Sign a statement.

    Args:
        approval: what it is about.
        role: what the person says.
        person: who signs, as the configuration names them.
        key: their key.
    """
    return key.sign(_DOMAIN, _statement(approval, role, person))


def verify_request(approval: Approval, approvals: Approvals) -> None:
    """See that a listed person asked for exactly this, or broke the glass for it.

    Raises:
        ForgedError: nobody listed did, or something was changed since.
    """
    role = Role.BREAK_GLASS if approval.reason else Role.REQUEST
    _verify(approval, role, approval.requested_by, approval.request_signature, approvals)


def verify(approval: Approval, approvals: Approvals) -> None:
    """See that two listed people stand for exactly this, or one who broke the glass.

    Raises:
        ForgedError: they do not.
    """
    verify_request(approval, approvals)
    if approval.reason:
        if not approvals.break_glass:
            raise ForgedError("the configuration allows nobody to break the glass")
        return
    if approval.approved_by == approval.requested_by:
        raise ForgedError(f"{approval.requested_by} has approved what they asked for themselves")
    _verify(approval, Role.APPROVAL, approval.approved_by, approval.approval_signature, approvals)


def record(approval: Approval, approvals: Approvals) -> dict[str, Any]:
    """Return an approval as a certificate has it, without a number that is no integer.

    `counts` says whether the signatures are right by the configuration now; `people` gives the
    public keys, so that anybody can verify them.
    """
    try:
        verify(approval, approvals)
    except ForgedError:
        counts = False
    else:
        counts = True
    names = [name for name in (approval.requested_by, approval.approved_by) if name]
    return {
        "approval": approval.id,
        "action": approval.action.value,
        "plan": approval.plan,
        "nonce": str(approval.nonce),
        "requested_by": approval.requested_by,
        "account": approval.account,
        "expires_at": int(approval.expires_at.timestamp()),
        "request_signature": base64.b64encode(approval.request_signature).decode(),
        "approved_by": approval.approved_by or None,
        "approved_at": int(approval.approved_at.timestamp()) if approval.approved_at else None,
        "approval_signature": base64.b64encode(approval.approval_signature).decode() or None,
        "break_glass": approval.reason or None,
        "used": approval.used_at is not None,
        "counts": counts,
        "people": {name: approvals.people.get(name) for name in names},
    }


def _verify(
    approval: Approval, role: Role, person: str, signed: bytes, approvals: Approvals
) -> None:
    key = approvals.key_of(person)
    if key is None:
        raise ForgedError(f"[approvals.people] lists no {person or 'second person'}")
    try:
        statement = _statement(approval, role, person)
    except (ValueError, TypeError, RecursionError):
        raise ForgedError(f"the plan of approval {approval.id} is none") from None
    if not key.verifies(signed, _DOMAIN, statement):
        raise ForgedError(
            f"{person} did not sign this {role.replace('_', ' ')}, or it was changed since"
        )


def _statement(approval: Approval, role: Role, person: str) -> bytes:
    return canonical(
        {
            "format": FORMAT,
            "role": role.value,
            "person": person,
            "nonce": str(approval.nonce),
            "action": approval.action.value,
            "plan": json.loads(approval.plan),
            "campaign": approval.campaign_id,
            "requested_by": approval.requested_by,
            "account": approval.account,
            "expires_at": int(approval.expires_at.timestamp()),
            "reason": approval.reason,
        }
    )
