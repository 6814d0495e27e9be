"""Gates: when a campaign stops by itself, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from keywrap.rewrapping import Outcome
from ledger.progress import Progress
from workers.settings import Gates

_MANY = 100
"""So many quarantined blobs and not one that opened are a wrong key's, not the blobs' fault."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a campaign stops.

    Attributes:
        reason_code: a short stable code.
        reason: a sentence for the operator.
    """

    reason_code: str
    reason: str


NOTHING_PUT_BACK = Stop(
    "nothing_put_back", "no blob has its wrap before beside it any more, so nothing was put back"
)
"""Of an undo: whoever rolls back must not take that for done."""


def of_canary(counts: Mapping[Outcome, int], gates: Gates) -> Stop | None:
    """Judge a canary: nothing was written yet.

    Args:
        counts: what its blobs would have come to.
        gates: the configured limits.
    """
    opened = counts[Outcome.REWRAPPED] + counts[Outcome.CURRENT]
    bad = counts[Outcome.QUARANTINED]
    seen = bad + opened
    if seen < gates.after or bad * 100 <= gates.quarantined_percent * seen:
        return None
    return Stop(
        "canary_failed",
        f"of the canary {opened} blobs open and {bad} would be quarantined, more than "
        f"{gates.quarantined_percent:g}%; nothing was changed. `rewrap plan` says what is wrong; "
        "resume goes on all the same",
    )


def of_run(done: Progress, gates: Gates) -> Stop | None:
    """Judge what a running campaign has come to so far."""
    counts = done.counts
    opened = counts[Outcome.REWRAPPED] + counts[Outcome.CURRENT]
    if counts[Outcome.QUARANTINED] >= _MANY and opened == 0:
        return Stop(
            "nothing_opens",
            f"{counts[Outcome.QUARANTINED]} blobs are quarantined and not one opened: "
            "is a legacy key wrong, or legacy_content in [store]? Nothing was changed. Mend it and "
            "restart the workers; resume goes on, and `rewrap retry --quarantined` takes these up "
            "again",
        )
    limits = {
        Outcome.QUARANTINED: gates.quarantined_percent,
        Outcome.FAILED: gates.failed_percent,
        Outcome.CONFLICT: gates.conflict_percent,
    }
    for outcome, percent in limits.items():
        if done.decided >= gates.after and counts[outcome] * 100 > percent * done.decided:
            return Stop(
                f"too_many_{outcome}",
                f"{counts[outcome]:,} of {done.decided:,} blobs are {outcome}, more than "
                f"{percent:g}% ([gates] {outcome}_percent); what was rewrapped is proved and "
                "stays. resume goes on all the same",
            )
    return None


def of_undo(done: Progress) -> Stop | None:
    """Judge what an undo has come to in the end."""
    return NOTHING_PUT_BACK if done.counts[Outcome.EXCLUDED] == done.decided > 0 else None
