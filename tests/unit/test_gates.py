"""A campaign stops by itself at its limits, and neither before nor after them."""

import pytest

from keywrap.rewrapping import Outcome
from ledger.progress import Progress
from scheduler import gates
from workers.settings import Gates

LIMITS = Gates(after=100, quarantined_percent=10.0, failed_percent=10.0, conflict_percent=50.0)


def counts(**some: int) -> dict[Outcome, int]:
    return {outcome: some.get(outcome.value, 0) for outcome in Outcome}


def run(**some: int) -> str | None:
    found = counts(**some)
    done = Progress(1000, found, 0, {}, 0, None, 0)
    stop = gates.of_run(done, LIMITS)
    return stop and stop.reason_code


def canary(**some: int) -> str | None:
    stop = gates.of_canary(counts(**some), LIMITS)
    return stop and stop.reason_code


@pytest.mark.parametrize(
    ("some", "reason_code"),
    [
        ({"rewrapped": 100}, None),
        ({"quarantined": 10, "rewrapped": 90}, None),
        ({"quarantined": 11, "rewrapped": 89}, "canary_failed"),
        ({"quarantined": 10, "rewrapped": 40, "current": 50}, None),
        ({"quarantined": 11, "rewrapped": 40, "current": 49}, "canary_failed"),
        ({"quarantined": 99}, None),
        ({"quarantined": 100}, "canary_failed"),
    ],
)
def test_a_canary_fails_above_the_share_and_from_enough_blobs_on(
    some: dict[str, int], reason_code: str | None
) -> None:
    assert canary(**some) == reason_code


@pytest.mark.parametrize(
    ("some", "reason_code"),
    [
        ({"rewrapped": 100}, None),
        ({"quarantined": 99}, None),
        ({"quarantined": 100}, "nothing_opens"),
        ({"quarantined": 100, "rewrapped": 1}, "too_many_quarantined"),
        ({"quarantined": 100, "current": 1}, "too_many_quarantined"),
        ({"quarantined": 100, "rewrapped": 1, "current": 1}, "too_many_quarantined"),
        ({"quarantined": 10, "rewrapped": 90}, None),
        ({"quarantined": 11, "rewrapped": 89}, "too_many_quarantined"),
        ({"quarantined": 11, "rewrapped": 88}, None),
        ({"failed": 10, "rewrapped": 90}, None),
        ({"failed": 11, "rewrapped": 89}, "too_many_failed"),
        ({"conflict": 50, "rewrapped": 50}, None),
        ({"conflict": 51, "rewrapped": 49}, "too_many_conflict"),
    ],
)
def test_a_run_stops_above_each_share_and_from_enough_blobs_on(
    some: dict[str, int], reason_code: str | None
) -> None:
    assert run(**some) == reason_code


@pytest.mark.parametrize(
    ("some", "reason_code"),
    [
        ({}, None),
        ({"excluded": 1}, "nothing_put_back"),
        ({"excluded": 5}, "nothing_put_back"),
        ({"excluded": 5, "rewrapped": 1}, None),
        ({"excluded": 5, "current": 1}, None),
    ],
)
def test_an_undo_that_found_nothing_to_put_back_is_no_success(
    some: dict[str, int], reason_code: str | None
) -> None:
    stop = gates.of_undo(Progress(10, counts(**some), 0, {}, 0, None, 0))
    assert (stop and stop.reason_code) == reason_code


def test_what_stops_says_how_many_and_what_to_do() -> None:
    stopped = gates.of_canary(counts(quarantined=20, rewrapped=80), LIMITS)
    assert stopped is not None
    assert "80 blobs open and 20 would be quarantined, more than 10%" in stopped.reason
    assert "nothing was changed" in stopped.reason
    stopped = gates.of_run(Progress(1000, counts(failed=30), 0, {}, 0, None, 0), Gates(after=1))
    assert stopped is not None
    assert "30 of 30 blobs are failed, more than 10% ([gates] failed_percent)" in stopped.reason
