"""What a certificate says of a campaign: one small function for each section of it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import keywrap
from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome, Prove
from ledger import (
    approvals,
    audit,
    backups,
    campaigns,
    certificates,
    findings,
    history,
    progress,
    publications,
)
from ledger import retirements as retired
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.progress import Progress
from ledger.states import COUNTING, Kind, ShardKind, State
from scheduler import confidence, effective, statements
from scheduler.desk import REFUSED, Desk, DeskError, operator

LISTED = 10_000
"""Exceptions that are listed one by one; the rest is counted, and stands for by its digest."""

LISTED_BYTES = 8 * 1024 * 1024
"""And no more of them than this, as JSON: where ids are long, a certificate is still readable."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate is about.

    Attributes:
        desk: the operator's desk.
        connection: one transaction of one moment, see `certificates.of_one_moment`.
        campaign: the campaign.
        done: how far it is.
    """

    desk: Desk
    connection: Connection
    campaign: Campaign
    done: Progress


def record_of(desk: Desk, campaign_id: int) -> dict[str, Any]:
    """Return the record of a finished campaign whose counts balance.

    Raises:
        DeskError: it is not finished, decides nothing, or its counts do not balance.
    """
    desk.listed_campaign(campaign_id)
    with desk.ledger.begin() as connection:
        certificates.of_one_moment(connection)
        campaign = campaigns.get(connection, campaign_id)
        assert campaign is not None  # noqa: S101 - just now it was there
        done = progress.read(connection, campaign_id, campaign.kind)
        _require_finished(campaign)
        _require_balance(connection, campaign, done)
        subject = Subject(desk, connection, campaign, done)
        record: dict[str, Any] = {}
        for section in SECTIONS:
            record |= section(subject)
    return record


def _require_finished(campaign: Campaign) -> None:
    ended = campaign.state in {State.COMPLETE, State.COMPLETE_WITH_EXCEPTIONS}
    if ended and campaign.kind not in {*COUNTING, Kind.PLAN}:
        return
    why = (
        f"is {campaign.state}" if not ended else f"is of kind {campaign.kind}, and decides nothing"
    )
    raise DeskError(
        f"campaign {campaign.id} {why}; nothing was written",
        exit_code=REFUSED,
        reason_code="campaign_not_complete" if not ended else "nothing_to_certify",
        next_command=f"rewrap status {campaign.id}",
    )


def _require_balance(connection: Connection, campaign: Campaign, done: Progress) -> None:
    """See that rows, counters and inventory say the same: balanced counts or no certificate."""
    rows = certificates.recount(connection, campaign.id)
    listed = certificates.inventoried(connection, campaign.id)
    counted = {o.value: n for o, n in done.counts.items() if n}
    in_sample = campaign.kind is Kind.VERIFY and campaign.sample_size is not None
    if rows == counted and done.pending == 0 and (in_sample or listed == done.scanned):
        return
    raise DeskError(
        f"the counts of campaign {campaign.id} do not balance: {done.scanned} scanned, {listed} in "
        f"the inventory, shards count {counted}, rows {rows}; nothing was written",
        exit_code=REFUSED,
        reason_code="counts_do_not_balance",
        next_command=f"rewrap blobs {campaign.id}",
    )


def _head(subject: Subject) -> dict[str, Any]:
    campaign = subject.campaign
    return {
        "campaign": campaign.id,
        "kind": campaign.kind.value,
        "state": campaign.state.value,
        "store": subject.desk.settings.keywrap.store.place,
        "prefix": campaign.prefix,
        "requested_by": campaign.requested_by,
        "certified_by": operator(),
        "created_at": _iso(campaign.created_at),
        "started_at": _iso(campaign.started_at),
        "finished_at": _iso(campaign.finished_at),
        "certified_at": _iso(progress.now(subject.connection)),
    }


def _keys(subject: Subject) -> dict[str, Any]:
    lines = findings.census(subject.connection, subject.campaign.id)
    found = [
        {
            "key_id": str(KeyVersion(line.key, line.version)) if line.key else "",
            "problem": line.problem,
            "blobs": line.blobs,
            "previous": line.previous,
        }
        for line in lines
    ]
    target = subject.campaign.target
    return {"keys_before": found, "target": str(target) if target else None}


def _counts(subject: Subject) -> dict[str, Any]:
    counts = {o.value: subject.done.counts[o] for o in Outcome}
    return {"counts": {"scanned": subject.done.scanned, **counts}}


def _exceptions(subject: Subject) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    rest, digest, room = 0, hashlib.sha256(), LISTED_BYTES
    for blob in certificates.exceptions(subject.connection, subject.campaign.id):
        line = {"blob_id": blob.blob_id, "outcome": blob.outcome, "reason_code": blob.reason_code}
        written = json.dumps(line, sort_keys=True).encode() + b"\n"
        room -= len(written)
        # Once one is left out, so are all after it: the list is a beginning, without holes.
        if len(listed) < LISTED and room >= 0 and not rest:
            listed.append(line)
        else:
            rest += 1
            digest.update(written)
    more = {"blobs": rest, "sha256": digest.hexdigest()} if rest else None
    return {"exceptions": listed, "more_exceptions": more}


def _proof(subject: Subject) -> dict[str, Any]:
    campaign, done = subject.campaign, subject.done
    verified = progress.counts(subject.connection, campaign.id, ShardKind.VERIFY)
    canary = verified[Outcome.REWRAPPED]
    bad = sum(verified[o] for o in (Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT))
    opened = done.counts[Outcome.CURRENT] if campaign.kind is Kind.VERIFY else done.verified
    found: dict[str, Any] = {
        "policy": campaign.prove.value if campaign.prove else None,
        "canary_opened": canary,
        "sample_opened": opened,
    }
    # The bound is of a sample without a failure. Of one with some it would be an untruth.
    if not bad and (campaign.prove is Prove.SAMPLE or campaign.kind is Kind.VERIFY):
        found["bad_at_most_ppm_with_99_percent"] = confidence.bound_ppm(opened)
    return {"proof": found}


def _backup(subject: Subject) -> dict[str, Any]:
    known = backups.get(subject.connection, subject.campaign.id)
    if known is None:
        return {"backup": None}
    return {
        "backup": {
            "manifest": known.manifest,
            "sha256": known.sha256,
            "blobs": known.blobs,
            "escrow": subject.campaign.escrow,
            "recipients": known.recipients.split(","),
            "opened_at": _iso(known.verified_at),
        }
    }


def _shared(subject: Subject) -> dict[str, Any]:
    """Name the keys that are themselves the data key of many blobs: they open these still.

    A new wrap changes nothing of that, only a new data key does, or that the blob is gone.
    """
    tables = subject.desk.settings.keywrap.keys.env
    direct = sorted(f"env:{name}" for name, table in tables.items() if table.scheme == "direct")
    given_up = [Outcome.GONE.value]
    if subject.campaign.kind is Kind.REENCRYPT:
        given_up.append(Outcome.REWRAPPED.value)
    still = certificates.still_wrapped(subject.connection, subject.campaign.id, direct, given_up)
    return {"shared_keys_that_still_open_content": still}


def _unwound(subject: Subject) -> dict[str, Any]:
    ended = history.unwound_by(subject.connection, subject.campaign.id)
    return {"followed_by": [{"campaign": c.id, "kind": c.kind.value} for c in ended]}


def _approvals(subject: Subject) -> dict[str, Any]:
    """Give both signatures with what was signed, so that they are verified without the ledger."""
    rules = subject.desk.settings.approvals
    found = approvals.of_campaign(subject.connection, subject.campaign.id)
    return {"approvals": [statements.record(one, rules) for one in found]}


def _retirements(subject: Subject) -> dict[str, Any]:
    found = [
        {
            "key_id": str(one.version),
            "step": one.step.value,
            "requested_by": one.requested_by,
            "closes": list(one.closes),
            "backup_wraps_left": one.backup_wraps,
            "object_versions_left": one.object_versions,
        }
        for one in retired.recent(subject.connection)
    ]
    return {"retirements": found}


def _control(subject: Subject) -> dict[str, Any]:
    table = subject.desk.settings.keywrap.control
    known = publications.newest(subject.connection, table.store_id) if table else None
    if known is None:
        return {"control": None}
    control = known.control
    return {
        "control": {
            "serial": control.serial,
            "cutover": control.cutover.value,
            "primary": str(control.primary) if control.primary else None,
        }
    }


def _audit(subject: Subject) -> dict[str, Any]:
    return {"audit_head": str(audit.head(subject.connection))}


def _software(subject: Subject) -> dict[str, Any]:
    settings = effective.tables(subject.desk.settings)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"software": keywrap.__version__, "configuration_sha256": digest}


SECTIONS: tuple[Callable[[Subject], dict[str, Any]], ...] = (
    _head,
    _keys,
    _counts,
    _exceptions,
    _proof,
    _backup,
    _shared,
    _unwound,
    _approvals,
    _retirements,
    _control,
    _audit,
    _software,
)
"""What a certificate says. Another file adds its own by a line here."""


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
