"""Whether a campaign may begin: where two people are wanted, the tick sees both signatures."""

import logging

from ledger import approvals, campaigns
from ledger.approvals import Approval
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.states import State
from scheduler import statements
from scheduler.statements import ForgedError
from workers.approvals_table import Approvals

logger = logging.getLogger(__name__)


def may_begin(connection: Connection, campaign: Campaign, rules: Approvals) -> bool:
    """Say whether a campaign may begin, by the configuration of this scheduler.

    One that may never begin is cancelled here: its approval has expired, or is forged. One that
    something put into the ledger past the desk, without asking anybody, waits for a person.

    Args:
        connection: the transaction.
        campaign: a campaign that is planned, or waits for its approval.
        rules: what needs two people, and who they are.
    """
    action = approvals.opening(campaign.kind, rules.required, urgent=campaign.urgent)
    if action is None:
        return True
    found = approvals.of_opening(connection, campaign.id, action)
    if found is None:
        return hold(connection, campaign.id)
    if why := _flaw(connection, campaign, found, rules):
        return _end(connection, campaign, *why)
    if not _is_decided(found):
        return hold(connection, campaign.id)
    if not approvals.use(connection, found):
        return _end(connection, campaign, "approval_used", "its approval was used before")
    if found.reason:
        logger.critical(
            "BREAK GLASS: campaign %d (%s) begins without a second person, by %s (%s): %r",
            campaign.id,
            campaign.kind,
            found.requested_by,
            found.account,
            found.reason,
            extra={"event": "break_glass"},
        )
    return True


def _is_decided(found: Approval) -> bool:
    return bool(found.approved_by or found.reason)


def _flaw(
    connection: Connection, campaign: Campaign, found: Approval, rules: Approvals
) -> tuple[str, str] | None:
    """Return why an approval never lets its campaign begin: a reason code and a sentence."""
    verify = statements.verify if _is_decided(found) else statements.verify_request
    try:
        verify(found, rules)
    except ForgedError as error:
        logger.critical(
            "approval %d of campaign %d: %s",
            found.id,
            campaign.id,
            error,
            extra={"event": "approval_forged"},
        )
        return "approval_forged", f"its approval is forged: {error}"
    if found.plan != statements.plan_of(campaign):
        logger.critical(
            "approval %d: campaign %d was changed since",
            found.id,
            campaign.id,
            extra={"event": "approval_forged"},
        )
        return "approval_forged", "the campaign is not the one that was asked for"
    if found.expires_at <= approvals.in_seconds(connection, 0):
        why = "its approval has expired" if _is_decided(found) else "nobody approved it in time"
        return "approval_expired", why
    return None


def hold(connection: Connection, campaign_id: int) -> bool:
    """Let a campaign that is planned wait for a second person; return that it may not begin."""
    campaigns.step(
        connection,
        campaign_id,
        State.AWAITING_APPROVAL,
        reason_code="approval_wanted",
        reason="a second person must approve exactly this plan",
    )
    return False


def _end(connection: Connection, campaign: Campaign, reason_code: str, reason: str) -> bool:
    campaigns.step(connection, campaign.id, State.CANCELLED, reason_code=reason_code, reason=reason)
    return False
