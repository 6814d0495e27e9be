"""What finished campaigns tell later ones."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from keywrap.keys import KeyVersion
from ledger import campaigns
from ledger.campaigns import Campaign
from ledger.states import FINISHED, KEEPING, Kind


def newest_finished(
    connection: Connection, kind: Kind, store: str, limit: int = 10
) -> list[Campaign]:
    """Return the campaigns of a kind over a store that ran to their end, the newest first."""
    return campaigns.select(
        connection,
        "WHERE kind = :kind AND store = :store"
        " AND state IN ('complete', 'complete_with_exceptions')"
        " ORDER BY finished_at DESC LIMIT :limit",
        kind=kind,
        store=store,
        limit=limit,
    )


def newest_plan(connection: Connection, plan_of: Kind, store: str, prefix: str) -> Campaign | None:
    """Return the newest plan of a campaign over just these blobs that ran to its end."""
    found = campaigns.select(
        connection,
        "WHERE kind = 'plan' AND plan_of = :plan_of AND store = :store AND prefix = :prefix"
        " AND state IN ('complete', 'complete_with_exceptions') AND lists_dropped_at IS NULL"
        " ORDER BY id DESC LIMIT 1",
        plan_of=plan_of,
        store=store,
        prefix=prefix,
    )
    return next(iter(found), None)


def newest_inventory(connection: Connection, store: str, prefix: str) -> int | None:
    """Return the newest finished inventory of a store in which all blobs of a prefix are.

    One that was given a list counts as well: a blob that it has not seen is looked at anew.
    """
    found: int | None = connection.scalar(
        text(
            "SELECT id FROM campaign WHERE kind = 'inventory' AND state = 'complete'"
            " AND lists_dropped_at IS NULL"
            " AND store = :store AND starts_with(:prefix, prefix) ORDER BY id DESC LIMIT 1"
        ),
        {"store": store, "prefix": prefix},
    )
    return found


def is_unwound(connection: Connection, campaign_id: int) -> bool:
    """Whether a campaign's wraps were sealed or undone since, all of them."""
    return bool(
        connection.scalar(
            text(
                "SELECT EXISTS (SELECT 1 FROM campaign WHERE follows = :id AND state = 'complete')"
            ),
            {"id": campaign_id},
        )
    )


def left_since(connection: Connection, campaign: Campaign) -> list[Campaign]:
    """Return the later campaigns whose old wraps may lie where another has left its own.

    They have another target, some of the same blobs, and are not sealed or undone as a whole.
    """
    return campaigns.select(
        connection,
        "later WHERE id > :id AND kind = ANY(:keeping) AND state = ANY(:finished)"
        " AND started_at IS NOT NULL AND store = :store AND target <> :target"
        " AND (starts_with(prefix, :prefix) OR starts_with(:prefix, prefix))"
        " AND NOT EXISTS (SELECT 1 FROM campaign unwinding"
        "  WHERE unwinding.follows = later.id AND unwinding.state = 'complete') ORDER BY id",
        id=campaign.id,
        keeping=list(KEEPING),
        finished=list(FINISHED),
        store=campaign.store,
        target=str(campaign.target),
        prefix=campaign.prefix,
    )


def moved_from(
    connection: Connection, versions: Sequence[KeyVersion], store: str
) -> Campaign | None:
    """Return the newest campaign that has left wraps under a KEK version beside new ones.

    It is finished, its lists are in the ledger, and it is not sealed or undone as a whole.

    Args:
        connection: the transaction.
        versions: the versions, of which any will do.
        store: over which store.
    """
    found = campaigns.select(
        connection,
        "WHERE kind = ANY(:keeping) AND state = ANY(:finished) AND store = :store"
        " AND lists_dropped_at IS NULL AND NOT EXISTS (SELECT 1 FROM campaign unwinding"
        "  WHERE unwinding.follows = campaign.id AND unwinding.state = 'complete')"
        " AND EXISTS (SELECT 1 FROM outcome o JOIN inventory i USING (campaign_id, blob_id)"
        "  JOIN key_version k ON k.id = i.key_version_id"
        "  WHERE campaign_id = campaign.id AND o.outcome = 'rewrapped'"
        "  AND (k.key, k.version) IN"
        "   (SELECT * FROM unnest(CAST(:keys AS text[]), CAST(:versions AS text[]))))"
        " ORDER BY id DESC LIMIT 1",
        keeping=list(KEEPING),
        finished=list(FINISHED),
        store=store,
        keys=[version.key for version in versions],
        versions=[version.version for version in versions],
    )
    return next(iter(found), None)


def unwound_by(connection: Connection, campaign_id: int) -> list[Campaign]:
    """Return the finished campaigns that sealed or undid a campaign's wraps, in their order."""
    return campaigns.select(
        connection,
        "WHERE follows = :id AND state IN ('complete', 'complete_with_exceptions') ORDER BY id",
        id=campaign_id,
    )
