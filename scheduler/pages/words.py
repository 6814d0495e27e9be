"""How numbers, times and campaigns read on a page. A page says nothing that is not made here."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from keywrap.rewrapping import Outcome
from ledger.requests import Asked, Verdict
from ledger.states import COUNTING, Kind, ShardKind, ShardState, State
from scheduler.status import Status
from workers.plaintext import plain

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400

_LOOKS = {
    State.COMPLETE: "text-bg-success",
    State.COMPLETE_WITH_EXCEPTIONS: "text-bg-warning",
    State.BLOCKED: "text-bg-danger",
    State.STOPPED: "text-bg-danger",
    State.PAUSED: "text-bg-warning",
    State.PAUSING: "text-bg-warning",
    State.AWAITING_APPROVAL: "text-bg-warning",
    State.CANCELLED: "text-bg-secondary",
    State.CANCELLING: "text-bg-secondary",
}
"""Bootstrap's classes; every other state is at work."""

_UNKNOWN = "—"


def duration(seconds: float | None) -> str:
    """Say how long something takes, in its two largest units."""
    if seconds is None:
        return _UNKNOWN
    left = round(seconds)
    if left < _MINUTE_S:
        return f"{left} s"
    if left < _HOUR_S:
        return f"{left // _MINUTE_S} m {left % _MINUTE_S:02d} s"
    if left < _DAY_S:
        return f"{left // _HOUR_S} h {left % _HOUR_S // _MINUTE_S:02d} m"
    return f"{left // _DAY_S} d {left % _DAY_S // _HOUR_S} h"


def moment(at: datetime | None) -> str:
    """Say when something was, in UTC."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else _UNKNOWN


def percent(status: Status) -> float:
    """Return how much of a campaign's work is done, in percent, rounded down to tenths."""
    done, campaign = status.progress, status.campaign
    if campaign.state in {State.COMPLETE, State.COMPLETE_WITH_EXCEPTIONS}:
        return 100.0
    if campaign.kind in COUNTING:  # how many blobs there are is known at its end only
        kind = ShardKind.INVENTORY if campaign.kind is Kind.INVENTORY else ShardKind.BACKUP
        ended, total = done.count(kind, ShardState.DONE), done.count(kind)
    else:
        ended, total = done.decided, done.scanned
    return ended * 1000 // total / 10 if total else 0.0


def bars(status: Status) -> dict[str, float]:
    """Return the lengths of the bar's parts in percent, by what they stand for."""
    done = status.progress
    if status.campaign.kind in COUNTING or not done.scanned:
        return {"done": percent(status), "kept": 0.0, "bad": 0.0}
    kept = sum(done.counts[o] for o in (Outcome.CURRENT, Outcome.EXCLUDED, Outcome.GONE))
    parts = {"done": done.counts[Outcome.REWRAPPED], "kept": kept, "bad": done.exceptions}
    return {name: round(100 * blobs / done.scanned, 2) for name, blobs in parts.items()}


def look(state: State) -> str:
    """Return the class of a state's badge."""
    return _LOOKS.get(state, "task-state-started")


def pace(found: Mapping[str, Any] | None) -> str:
    """Say how fast the key service is asked, against what it may be asked."""
    if not found:
        return _UNKNOWN
    most = [n for n in (found["quota_per_s"], found["max_rate_per_s"]) if n]
    of = f" of {min(most):,g}" if most else ""
    throttled = f", throttled {found['throttled']:,} times" if found["throttled"] else ""
    return f"{found['used_per_s']:,g}{of} requests/s{throttled}"


def keys(kind: str, plan_of: str | None, target: str | None, moved: Iterable[str] | None) -> str:
    """Say from which KEK versions to which a campaign moves wraps.

    Args:
        kind: what it does.
        plan_of: what it plans for, if it is a plan.
        target: the KEK version that it moves to; None: it moves none.
        moved: the KEK versions that it moves from; None or none: that is not known.
    """
    if not target:
        return ""
    wraps = {Kind.MIGRATE: "legacy keys", Kind.ROTATE: "managed keys"}
    known = ", ".join(map(plain, moved or ()))
    return f"{known or wraps.get(Kind(plan_of or kind), 'every key')} → {target}"


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what a page shows above a list of campaigns."""
    open_rows = [row for row in rows if row["may"]]
    waiting = [row for row in open_rows if row["reason_code"]]
    counts = [row["counts"] for row in rows]
    bad = sum(c["quarantined"] + c["failed"] + c["conflict"] for c in counts)
    return {
        "open": f"{len(open_rows):,}",
        "waiting": f"{len(waiting):,}",
        "rewrapped": f"{sum(c['rewrapped'] for c in counts):,}",
        "exceptions": f"{bad:,}",
    }


def blob_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of blobs. Ids and details are of whoever writes to the store."""
    names = ("blob_id", "outcome", "reason_code", "detail")
    return [[plain(blob[name]) for name in names] for blob in document["blobs"]]


def shard_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of shards."""
    return [
        [
            str(shard["shard_no"]),
            shard["kind"],
            shard["state"],
            plain(shard["queue"]),
            f"{shard['decided']:,} / {shard['total']:,}",
            f"{shard['exceptions']:,}",
            str(shard["attempt"]),
            plain(shard["owner"] or ""),
            shard["started_at"] or _UNKNOWN,
            shard["finished_at"] or _UNKNOWN,
        ]
        for shard in document["shards"]
    ]


def shown(status: Status) -> dict[str, str]:
    """Return what a page shows of a campaign, by the names that its elements have."""
    done, campaign = status.progress, status.campaign
    counts_only = campaign.kind in COUNTING
    left = [o for o in Outcome if done.counts[o]]
    decided = done.scanned if counts_only else done.decided
    is_still = status.wait.reason or campaign.is_finished  # or nothing is to be typed
    return {
        "id": str(campaign.id),
        "kind": f"{campaign.kind} {campaign.plan_of}" if campaign.plan_of else campaign.kind.value,
        "state": campaign.state.replace("_", " "),
        "reason": plain(status.wait.reason or ""),
        "next": plain(status.wait.next_command or "") if is_still else "",
        "percent": f"{percent(status):.1f}%",
        "decided": f"{decided:,}" if counts_only else f"{decided:,} / {done.scanned:,}",
        "scanned": f"{done.scanned:,}",
        "pending": "0" if counts_only else f"{done.pending:,}",
        "rewrapped": f"{done.counts[Outcome.REWRAPPED]:,}",
        "exceptions": f"{done.exceptions:,}",
        "counts": " · ".join(f"{done.counts[o]:,} {o}" for o in left) or "none decided",
        "rate": f"{done.rate_per_s:,.1f}/s" if done.rate_per_s else _UNKNOWN,
        "eta": duration(status.eta_s),
        "pace": pace(status.pace),
        "scope": f"ids that start with {plain(campaign.prefix)}"
        if campaign.prefix
        else "the store",
        "asked": f"{plain(campaign.requested_by)}, {moment(campaign.created_at)}",
    }


def request_rows(asked: Iterable[Asked]) -> list[list[str]]:
    """Return the table of what was asked for in Flower, and what became of it."""
    return [[moment(a.created_at), plain(a.requested_by), _wish(a), _became(a)] for a in asked]


def _wish(asked: Asked) -> str:
    return f"{asked.action} {asked.campaign_id or ''}".strip()


def _became(asked: Asked) -> str:
    match asked.verdict:
        case None:
            return "waits for a scheduler"
        case Verdict.DONE:
            return f"done: {(asked.state or '').replace('_', ' ')}"
        case Verdict.REFUSED:
            return f"refused [{asked.reason_code}]: {plain(asked.reason or '')}"
