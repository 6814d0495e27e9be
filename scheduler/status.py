"""The status document: what `rewrap status --json` prints, and what is drawn from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keywrap.rewrapping import Outcome
from ledger import approvals, campaigns, history, progress
from ledger.approvals import Approval
from ledger.campaigns import Campaign
from ledger.connection import Connection, Ledger
from ledger.progress import Progress
from ledger.states import COUNTING, KEEPING, RESUMABLE, Kind, State
from scheduler import confidence, mismatch
from scheduler.waits import Wait, why
from scheduler.windows import Forecast, forecast, of
from workers.windows import ALWAYS, Calendar, Windows

_ANY_TIME = Windows()

MOVING_STATES = RESUMABLE - {State.PLANNED}


@dataclass(frozen=True, slots=True)
class Status:
    """A campaign, how far it is, and why it waits."""

    campaign: Campaign
    progress: Progress
    wait: Wait
    failures: dict[tuple[str, str], int]
    keeps_previous: bool
    is_unwound: bool = False
    calendar: Calendar = ALWAYS
    now: datetime | None = None
    approvals: tuple[Approval, ...] = ()
    pace: Mapping[str, Any] | None = None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last blob is decided at the rate so far; None where unknown."""
        rate = self._rate_per_s
        if self.campaign.state not in MOVING_STATES or not rate or self.campaign.kind in COUNTING:
            return None
        left_s = self.progress.pending / rate
        if self.calendar is ALWAYS or self.now is None:
            return left_s
        end = self.calendar.after(self.now, left_s)
        return (end - self.now).total_seconds() if end else None

    @property
    def _rate_per_s(self) -> float | None:
        """Blobs decided a second of the time in which it may run."""
        done = self.progress
        if self.calendar is ALWAYS or not done.rate_per_s or not done.worked:
            return done.rate_per_s
        open_s = self.calendar.open_seconds(*done.worked)
        return done.decided / open_s if open_s > 0 else done.rate_per_s

    @property
    def forecast(self) -> Forecast | None:
        """Whether it will be finished in time; None where nobody waits for it, or it is over."""
        by, now = self.campaign.finish_by, self.now
        if by is None or now is None or self.campaign.is_finished:
            return None
        return forecast(self.calendar, by, now, self.progress.pending, self._rate_per_s)

    @property
    def proves(self) -> str | None:
        """What a finished verify campaign proves, as a sentence; None for others."""
        campaign, counts = self.campaign, self.progress.counts
        if campaign.kind is not Kind.VERIFY or not campaign.is_finished:
            return None
        # A sample may be as large as the store.
        everything = campaign.sample_size is None or self.progress.scanned == self.progress.listed
        opened, bad = counts[Outcome.CURRENT], self.progress.exceptions
        prefix = bool(campaign.prefix)
        return confidence.sentence(opened, bad, everything=everything, prefix=prefix)

    @property
    def _leaves_previous(self) -> bool:
        keeps = self.campaign.kind in KEEPING
        return self.keeps_previous and keeps and not self.is_unwound

    def document(self) -> dict[str, Any]:
        """Return the document of the command-line contract (DESIGN section 10).

        The counts of a plan are of its sample: `rewrapped` are blobs that would be.
        """
        done, campaign = self.progress, self.campaign
        counts_only = campaign.kind in COUNTING
        return {
            "campaign": campaign.id,
            "kind": campaign.kind,
            "state": campaign.state,
            "reason_code": self.wait.reason_code,
            "reason": self.wait.reason,
            "next_command": self.wait.next_command,
            "target": str(campaign.target) if campaign.target else None,
            "counts": {
                "scanned": done.scanned,
                "pending": 0 if counts_only else done.pending,
                **{outcome.value: done.counts[outcome] for outcome in Outcome},
            },
            "failures": [
                {"outcome": outcome, "reason_code": code, "blobs": n}
                for (outcome, code), n in self.failures.items()
            ],
            "verified": done.verified,
            "proves": self.proves,
            "rate_per_s": round(done.rate_per_s, 1) if done.rate_per_s else None,
            "eta_s": round(self.eta_s, 1) if self.eta_s is not None else None,
            "forecast": self.forecast.document() if self.forecast else None,
            "pace": dict(self.pace) if self.pace else None,
            "kms_requests": done.kms_requests,
            "freed_bytes": done.content_bytes if campaign.kind is Kind.SWEEP else None,
            "unsealed": done.counts[Outcome.REWRAPPED] if self._leaves_previous else 0,
            "pending_approvals": [
                {
                    "id": asked.id,
                    "action": asked.action,
                    "requested_by": asked.requested_by,
                    "expires_at": _iso(asked.expires_at),
                }
                for asked in self.approvals
            ],
            "started_at": _iso(campaign.started_at),
            "finished_at": _iso(campaign.finished_at),
        }


def read(
    ledger: Ledger, campaign_id: int, *, keeps_previous: bool, windows: Windows = _ANY_TIME
) -> Status | None:
    """Read a campaign's status, or None where there is no such campaign.

    Args:
        ledger: the ledger.
        campaign_id: the campaign.
        keeps_previous: whether rewraps leave the old wrap beside the new one.
        windows: when campaigns may run.
    """
    with ledger.begin() as connection:
        campaign = campaigns.get(connection, campaign_id)
        if campaign is None:
            return None
        done = progress.read(connection, campaign_id, campaign.kind)
        return of_campaign(
            connection, campaign, done, keeps_previous=keeps_previous, windows=windows
        )


def of_campaign(
    connection: Connection,
    campaign: Campaign,
    done: Progress,
    *,
    keeps_previous: bool,
    windows: Windows = _ANY_TIME,
) -> Status:
    """Return the status of a campaign whose shards are added up already; see `read`."""
    failed = progress.failures(connection, campaign.id) if done.exceptions else {}
    calendar, now = of(campaign, windows), progress.now(connection)
    wait = why(connection, campaign, done, calendar)
    if campaign.is_finished and mismatch.is_likely(opened := mismatch.opened_of(done), failed):
        wait = Wait("contents_do_not_open", mismatch.probably(opened, failed), mismatch.LOOK)
    is_unwound = history.is_unwound(connection, campaign.id)
    asked = tuple(approvals.pending(connection, campaign.id))
    return Status(campaign, done, wait, failed, keeps_previous, is_unwound, calendar, now, asked)


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
