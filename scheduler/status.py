"""The status document: what `rewrap status --json` prints, and what is drawn from it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keywrap.rewrapping import Outcome
from ledger import campaigns, progress
from ledger.campaigns import Campaign
from ledger.connection import Ledger
from ledger.progress import Progress
from ledger.states import COUNTING, KEEPING, RESUMABLE, Kind, State
from scheduler import confidence
from scheduler.waits import Wait, why

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

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last blob is decided at the rate so far; None where unknown."""
        rate = self.progress.rate_per_s
        if self.campaign.state not in MOVING_STATES or not rate or self.campaign.kind in COUNTING:
            return None
        return self.progress.pending / rate

    @property
    def proves(self) -> str | None:
        """What a finished verify campaign proves, as a sentence; None for others."""
        campaign, counts = self.campaign, self.progress.counts
        if campaign.kind is not Kind.VERIFY or not campaign.is_finished:
            return None
        everything = campaign.sample_size is None and not campaign.prefix
        opened, bad = counts[Outcome.CURRENT], self.progress.exceptions
        return confidence.sentence(opened, bad, everything=everything)

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
            "forecast": None,
            "pace": None,
            "kms_requests": done.kms_requests,
            "freed_bytes": done.content_bytes if campaign.kind is Kind.SWEEP else None,
            "unsealed": done.counts[Outcome.REWRAPPED] if self._leaves_previous else 0,
            "pending_approvals": [],
            "started_at": _iso(campaign.started_at),
            "finished_at": _iso(campaign.finished_at),
        }


def read(ledger: Ledger, campaign_id: int, *, keeps_previous: bool) -> Status | None:
    """Read a campaign's status, or None where there is no such campaign.

    Args:
        ledger: the ledger.
        campaign_id: the campaign.
        keeps_previous: whether rewraps leave the old wrap beside the new one.
    """
    with ledger.begin() as connection:
        campaign = campaigns.get(connection, campaign_id)
        if campaign is None:
            return None
        done = progress.read(connection, campaign_id, campaign.kind)
        failed = progress.failures(connection, campaign_id) if done.exceptions else {}
        wait = why(connection, campaign, done)
        is_unwound = campaigns.is_unwound(connection, campaign_id)
        return Status(campaign, done, wait, failed, keeps_previous, is_unwound)


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
