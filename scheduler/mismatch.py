"""Contents that their data keys do not open: the sign of a wrong `[store] legacy_content`."""

import shlex
from collections.abc import Mapping

from keywrap.contents import CONTENT_FORMATS
from keywrap.rewrapping import Outcome
from ledger import history, progress
from ledger.progress import Progress
from ledger.states import Kind
from scheduler.desk import REFUSED, Desk, DeskError

CODES = frozenset(
    {
        "content_does_not_open",
        "content_malformed",
        "content_record_length",
        "content_too_large",
        "content_truncated",
    }
)
"""What a content is quarantined for that is read as another format than its own."""

LOOK = "rewrap preflight"
"""It tries the other formats on real blobs."""

_NEARLY_ALL = 0.9
_FEW = 3
"""Fewer bad contents than this may just be damaged."""

Failures = Mapping[tuple[str, str], int]


def count(failures: Failures) -> int:
    """Return how many blobs are quarantined since their content is not what their format says.

    Args:
        failures: blobs by outcome and reason code.
    """
    return sum(
        blobs
        for (outcome, code), blobs in failures.items()
        if outcome == Outcome.QUARANTINED and code in CODES
    )


def is_likely(opened: int, failures: Failures) -> bool:
    """Whether the configuration is to blame, and not the blobs.

    Args:
        opened: how many blobs were opened, the bad ones among them.
        failures: those that are bad, by outcome and reason code.
    """
    return count(failures) >= max(_FEW, _NEARLY_ALL * opened)


def opened_of(done: Progress) -> int:
    """Return how many blobs of a campaign were opened, the bad ones among them."""
    return done.counts[Outcome.REWRAPPED] + done.counts[Outcome.CURRENT] + done.exceptions


def others(legacy_content: str) -> str:
    """Name the content formats that are not configured."""
    return " and ".join(f'"{name}"' for name in CONTENT_FORMATS if name != legacy_content)


def sentence(opened: int, failures: Failures, legacy_content: str) -> str:
    """Say that the configuration is to blame, and which other formats there are.

    Args:
        opened: how many blobs were opened, the bad ones among them.
        failures: those that are bad, by outcome and reason code.
        legacy_content: what the configuration says.
    """
    return (
        f'{probably(opened, failures)}. It is "{legacy_content}"; the others are '
        f"{others(legacy_content)}. Where a key is itself the data key, it may be that key instead"
    )


def probably(opened: int, failures: Failures) -> str:
    """Say in short that the configuration is to blame; see `sentence`."""
    return (
        f"{count(failures):,} of {opened:,} contents do not open: [store] legacy_content is "
        "probably wrong"
    )


def require_none(desk: Desk, kind: Kind, prefix: str) -> None:
    """See that the newest plan of a campaign has not found its contents unreadable.

    Raises:
        DeskError: it has.
    """
    store = desk.settings.keywrap.store
    with desk.ledger.begin() as connection:
        plan = history.newest_plan(connection, kind, store.place, prefix)
        if plan is None:
            return
        done = progress.read(connection, plan.id, Kind.PLAN)
        failures = progress.failures(connection, plan.id)
    opened = opened_of(done)
    if not is_likely(opened, failures):
        return
    again = ["rewrap", "plan", kind.value, *(("--prefix", prefix) if prefix else ())]
    raise DeskError(
        f'plan {plan.id}: {probably(opened, failures)}. It is "{store.legacy_content}" now: if it '
        "was mended since, plan again; nothing was changed",
        exit_code=REFUSED,
        reason_code="contents_do_not_open",
        next_command=f"{LOOK}, then: {shlex.join(again)}",
    )
