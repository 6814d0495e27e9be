from dataclasses import dataclass, field
from typing import Any

import pytest

from scheduler import board
from scheduler.board import Board, View


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Campaign:
    id: int = 1
    kind: str = "rotate"
    is_finished: bool = False


@dataclass
class Done:
    decided: int = 0
    scanned: int = 1000


@dataclass
class Status:
    progress: Done
    campaign: Campaign = field(default_factory=Campaign)


def view(decided: int) -> Any:
    status: Any = Status(Done(decided))
    return View((status,), silence="")


def test_the_rate_now_is_of_the_last_seconds() -> None:
    clock = Clock()
    shown = Board(view(0), clock)
    assert shown.rate(shown.view.statuses[0]) is None, "one reading tells none"
    for second in range(1, 61):
        clock.now += 1
        shown.put(view(second * 10 if second <= 30 else 300 + (second - 30)))
    rate = shown.rate(shown.view.statuses[0])
    assert rate == pytest.approx(1.0)


def test_the_age_is_told_when_nothing_was_read_for_a_while() -> None:
    clock = Clock()
    shown = Board(view(0), clock)
    assert shown.head() == ""
    clock.now += 95
    assert shown.head() == "the ledger has not answered yet; what is shown is 1 min 35 s old"
    shown.trouble = "gone\nforged"
    assert shown.head() == "gone\\nforged; what is shown is 1 min 35 s old"
    shown.put(view(1))
    assert shown.head() == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (86_399, "23 h 59 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_a_time_span_is_said_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert board.duration(seconds) == said
