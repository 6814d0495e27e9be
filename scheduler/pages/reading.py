"""What the pages show, read from the ledger: documents of JSON. Runs in threads of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome
from ledger import audit, campaigns, findings, looking, progress, requests
from ledger.campaigns import Campaign
from ledger.connection import Connection, Ledger
from ledger.looking import ShardLine
from ledger.progress import WORK_OF, Progress
from ledger.states import ShardKind, ShardState, State
from scheduler import paces
from scheduler.pages import words
from scheduler.status import Status, of_campaign
from workers.plaintext import plain
from workers.settings import Settings

Document = dict[str, Any]
Cell = str | Mapping[str, str]
"""What stands in a table: text, or text that leads to another page (`text`, `href`)."""

_STATEMENT_S = 2.0
_CENSUS_S = 10.0
_CAMPAIGNS = 100
_ROWS = 100
_REQUESTS = 10
_STEPS = 60


class Reader:
    """Reads what the pages show.

    Args:
        ledger: the ledger.
        settings: the settings.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._settings = settings
        # Of finished campaigns: reading them all again would take longer than all the rest.
        self._finished: dict[int, Status] = {}
        self._mark: tuple[object, ...] = ()

    def campaigns(self, before: int | None) -> Document:
        """Return campaigns, the newest first, and all that are not finished.

        Args:
            before: only those with lower ids; None: from the newest on.
        """
        with self._ledger.reading(_STATEMENT_S) as connection:
            found = looking.newest(connection, before, _CAMPAIGNS)
            statuses = self._statuses(connection, found)
            asked = requests.newest(connection, None, _REQUESTS)
        rows = [_row(self._with_pace(status)) for status in statuses]
        is_full = len(found) >= _CAMPAIGNS
        return {
            "campaigns": rows,
            "older": min(c.id for c in found) if is_full else None,
            "tables": {"requests": words.request_rows(asked)},
        }

    def campaign(self, campaign_id: int) -> Document | None:
        """Return one campaign with everything that its page shows; None: there is none."""
        with self._ledger.reading(_STATEMENT_S) as connection:
            campaign = campaigns.get(connection, campaign_id)
            if campaign is None:
                return None
            sums = progress.read(connection, campaign_id, campaign.kind)
            status = self._status(connection, campaign, sums)
            plot = _plot(connection, campaign, sums)
            head = audit.head(connection)
            asked = requests.newest(connection, campaign_id, _REQUESTS)
        status = self._with_pace(status)
        document = _row(status)
        document["shown"] |= _details(status)
        document["plot"] = plot
        document["audit_head"] = {"entries": head.entries, "hash": head.hash.hex()}
        document["shown"]["audit_head"] = f"{head.entries:,} entries, ends in {head.hash.hex()}"
        document["tables"] = {
            "failures": _failures(status),
            "shards": _shard_counts(status),
            "requests": words.request_rows(asked),
        }
        return document

    def census(self, campaign_id: int) -> Document:
        """Count a campaign's inventory by KEK version: slow where there are many blobs."""
        with self._ledger.reading(_CENSUS_S) as connection:
            campaign = campaigns.get(connection, campaign_id)
            lines = findings.census(connection, campaign_id)
        versions = [KeyVersion(line.key, line.version) for line in lines if line.key]
        return {
            "from_keys": [str(v) for v in versions if campaign is not None and campaign.moves(v)],
            "lines": [asdict(line) for line in lines],
            "table": [
                [
                    line.provider,
                    plain(str(KeyVersion(line.key, line.version))) if line.key else "",
                    line.problem,
                    f"{line.blobs:,}",
                    f"{line.previous:,}",
                ]
                for line in lines
            ],
        }

    def shards(
        self, campaign_id: int, kind: ShardKind | None, state: ShardState | None, after: int
    ) -> Document | None:
        """Return a page of a campaign's shards; None: there is no such campaign."""
        with self._ledger.reading(_STATEMENT_S) as connection:
            if campaigns.get(connection, campaign_id) is None:
                return None
            found = looking.shards(connection, campaign_id, kind, state, after, _ROWS + 1)
        shown = found[:_ROWS]
        more = {"kind": kind, "state": state, "after": shown[-1].shard_no if shown else 0}
        return {
            "shards": [_shard(line) for line in shown],
            "next": _query(more) if len(found) > _ROWS else None,
        }

    def blobs(
        self, campaign_id: int, outcome: Outcome, reason_code: str | None, after: str
    ) -> Document | None:
        """Return a page of a campaign's blobs; None: there is no such campaign."""
        with self._ledger.reading(_STATEMENT_S) as connection:
            campaign = campaigns.get(connection, campaign_id)
            if campaign is None:
                return None
            found = looking.blobs(connection, campaign_id, outcome, reason_code, after, _ROWS + 1)
        shown = found[:_ROWS]
        last = shown[-1].blob_id if shown else ""
        more = {"outcome": outcome, "reason": reason_code, "after": last}
        return {
            "blobs": [asdict(line) for line in shown],
            "next": _query(more) if len(found) > _ROWS else None,
            "dropped": campaign.lists_dropped_at is not None,
        }

    def _statuses(self, connection: Connection, found: Sequence[Campaign]) -> list[Status]:
        if (mark := looking.mark(connection)) != self._mark:
            self._mark, self._finished = mark, {}
        known, now = self._finished, progress.now(connection)
        new = [c for c in found if c.id not in known]
        sums = progress.every(connection, {c.id: c.kind for c in new})
        read = {c.id: self._status(connection, c, sums[c.id]) for c in new}
        known |= {number: s for number, s in read.items() if s.campaign.is_finished}
        return [_at(read.get(c.id) or known[c.id], now) for c in found]

    def _status(self, connection: Connection, campaign: Campaign, sums: Progress) -> Status:
        return of_campaign(
            connection,
            campaign,
            sums,
            keeps_previous=self._settings.keywrap.store.keep_previous,
            windows=self._settings.windows,
        )

    def _with_pace(self, status: Status) -> Status:
        return replace(status, pace=paces.of(self._settings, status.campaign))


def _at(status: Status, now: datetime) -> Status:
    """Return a status without the approvals that nobody gave in time."""
    return replace(status, approvals=tuple(a for a in status.approvals if a.expires_at > now))


def _shard(line: ShardLine) -> Document:
    times = {name: getattr(line, name) for name in ("started_at", "finished_at")}
    said = {name: at.isoformat(timespec="seconds") if at else None for name, at in times.items()}
    return asdict(line) | said


def _row(status: Status) -> Document:
    campaign = status.campaign
    return {
        **status.document(),
        "prefix": campaign.prefix,
        "requested_by": campaign.requested_by,
        "percent": words.percent(status),
        "bars": words.bars(status),
        "look": words.look(campaign.state),
        "may": _may(campaign),
        "plan_of": campaign.plan_of,
        "shown": words.shown(status),
    }


def _may(campaign: Campaign) -> list[str]:
    """Return what may be asked of a campaign in its state."""
    if campaign.is_finished or campaign.state is State.CANCELLING:
        return []
    if campaign.state in {State.PAUSING, State.PAUSED, State.STOPPED}:
        return ["resume", "cancel"]
    return ["cancel"] if campaign.state is State.AWAITING_APPROVAL else ["pause", "cancel"]


def _details(status: Status) -> dict[str, str]:
    campaign, done = status.campaign, status.progress
    asked = ", ".join(f"{a.action} (rewrap approve {a.id})" for a in status.approvals)
    return {
        "prove": status.proves or campaign.prove or "",
        "started": words.moment(campaign.started_at),
        "finished": words.moment(campaign.finished_at),
        "forecast": status.forecast.sentence() if status.forecast else "",
        "requests": f"{done.kms_requests:,}",
        "verified": f"{done.verified:,} blobs opened" if done.verified else "",
        "approvals": asked,
        "window": campaign.run_window or ("urgent: any time" if campaign.urgent else ""),
    }


def _failures(status: Status) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for (outcome, code), blobs in status.failures.items():
        query = urlencode({"outcome": outcome, "reason": code})
        link = {"text": f"{blobs:,}", "href": f"{status.campaign.id}/blobs?{query}"}
        rows.append([outcome, code or "no reason was given", link])
    return rows


def _shard_counts(status: Status) -> list[list[Cell]]:
    done, rows = status.progress, []
    for kind in ShardKind:
        if not done.count(kind):
            continue
        row: list[Cell] = [kind.value]
        for state in ShardState:
            count, query = done.count(kind, state), urlencode({"kind": kind, "state": state})
            href = f"{status.campaign.id}/shards?{query}"
            row.append({"text": f"{count:,}", "href": href} if count else "0")
        rows.append(row)
    return rows


def _plot(connection: Connection, campaign: Campaign, sums: Progress) -> Document | None:
    """Return blobs a second in equal steps from the first claim to the last end, or to now."""
    if sums.worked is None:
        return None
    start, end = sums.worked
    step_s = max((end - start).total_seconds(), 1e-3) / _STEPS
    kind = WORK_OF[campaign.kind]
    counted = looking.decided_over_time(connection, campaign.id, kind, sums.worked, _STEPS)
    rates = [round(blobs / step_s, 2) for blobs in counted]
    if not any(rates):
        return None
    return {
        "start": start.isoformat(timespec="seconds"),
        "end": end.isoformat(timespec="seconds"),
        "step_s": round(step_s, 3),
        "rates": rates,
        "top": f"{max(rates):,.0f} blobs/s" if max(rates) >= 1 else f"{max(rates):.2f} blobs/s",
        "from": f"{start:%m-%d %H:%M:%S} UTC",
        "to": f"{end:%m-%d %H:%M:%S} UTC",
    }


def _query(values: Mapping[str, object]) -> str:
    return urlencode({name: value for name, value in values.items() if value is not None})
