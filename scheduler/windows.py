"""When a campaign may run, and whether it will be finished in time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ledger.campaigns import Campaign
from ledger.states import Kind
from workers.windows import ALWAYS, Calendar, Windows

_AMPLE = 1.25
"""How much faster than needed it must be to be green."""


_AWAITED = frozenset({Kind.INVENTORY, Kind.PLAN, Kind.VERIFY, Kind.UNDO})
"""Kinds that a person or a gate waits for, or that mend: the configured window holds none up."""


def of(campaign: Campaign, windows: Windows) -> Calendar:
    """Return when a campaign may run: an urgent one always, as one that somebody waits for."""
    is_awaited = campaign.kind in _AWAITED and not campaign.run_window
    return ALWAYS if campaign.urgent or is_awaited else windows.calendar(campaign.run_window)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Whether a campaign will be finished in time.

    Attributes:
        finish_by: when it is to be finished.
        needed_per_s: blobs a second that it needs in the time that it may run; None: there is no
            such time left.
        state: `green`: it is at least a quarter faster than that; `amber`: it is as fast; `red`: it
            is not, or is too late; `unknown`: nothing was rewrapped yet.
    """

    finish_by: datetime
    needed_per_s: float | None
    state: str

    def document(self) -> dict[str, Any]:
        """Return it as `rewrap status --json` has it."""
        return {
            "finish_by": self.finish_by.isoformat(timespec="seconds"),
            "needed_per_s": None if self.needed_per_s is None else round(self.needed_per_s, 1),
            "state": self.state,
        }

    def sentence(self) -> str:
        """Say it in words."""
        by = self.finish_by.isoformat(timespec="minutes")
        if self.needed_per_s is None:
            return f"{self.state}: no time is left in which it may run before {by}"
        return f"{self.state}: it needs {self.needed_per_s:,.1f} blobs/s to be finished by {by}"


def forecast(
    calendar: Calendar, finish_by: datetime, now: datetime, pending: int, rate_per_s: float | None
) -> Forecast:
    """Say whether a campaign will be finished in time.

    Args:
        calendar: when it may run.
        finish_by: when it is to be finished.
        now: now, by the ledger's clock.
        pending: blobs without an outcome.
        rate_per_s: blobs a second so far, of the time in which it ran; None: nothing tells.
    """
    left_s = calendar.open_seconds(now, finish_by)
    if left_s <= 0:
        return Forecast(finish_by, None, "red")
    needed = pending / left_s
    if rate_per_s is None:
        return Forecast(finish_by, needed, "unknown")
    state = "green" if rate_per_s >= needed * _AMPLE else "amber" if rate_per_s >= needed else "red"
    return Forecast(finish_by, needed, state)
