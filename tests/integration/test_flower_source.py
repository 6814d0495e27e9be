"""What stands between Flower's event loop and the ledger."""

import asyncio
import threading

import pytest

from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from scheduler.pages import navbar, words
from scheduler.pages.source import Source


class Ledger:
    """Answers, hangs or fails as a test says, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()

    def read(self) -> int:
        self.asked += 1
        number = self.asked
        self.free.wait(10)
        if self.error:
            raise self.error
        return number


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_many_who_ask_at_once_ask_the_ledger_once_a_second(clock: Clock) -> None:
    async def story() -> None:
        ledger, source = Ledger(), Source(clock=clock)
        seen = await asyncio.gather(*(source.get("a", ledger.read) for _ in range(20)))
        assert {s.value for s in seen} == {1}
        assert (await source.get("a", ledger.read)).value == 1
        assert (await source.get("b", ledger.read)).value == 2
        clock.now += 1.1
        assert (await source.get("a", ledger.read)).value == 3
        assert ledger.asked == 3

    asyncio.run(story())


def test_what_was_last_read_is_kept_with_its_age_while_the_ledger_is_away(clock: Clock) -> None:
    async def story() -> None:
        ledger, source = Ledger(), Source(clock=clock)
        assert (await source.get("a", ledger.read)).trouble == ""
        ledger.error = LedgerUnavailableError("gone")
        clock.now += 30
        seen = await source.get("a", ledger.read)
        assert (seen.value, seen.age_s) == (1, 30)
        assert "does not answer" in seen.trouble
        never = await source.get("b", ledger.read)
        assert never.value is None
        assert never.trouble
        ledger.error = LedgerNotReadyError("empty")
        clock.now += 2
        assert "rewrap scheduler" in (await source.get("a", ledger.read)).trouble
        ledger.error = ZeroDivisionError()
        clock.now += 2
        assert "log" in (await source.get("a", ledger.read)).trouble
        ledger.error = None
        clock.now += 2
        back = await source.get("a", ledger.read)
        assert (back.age_s, back.trouble) == (0, "")

    asyncio.run(story())


def test_a_ledger_that_hangs_is_waited_for_briefly_and_asked_no_second_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.pages.source._PATIENCE_S", 0.05)

    async def story() -> None:
        ledger, source = Ledger(), Source(clock=clock)
        await source.get("a", ledger.read)
        ledger.free.clear()
        clock.now += 60
        for _ in range(3):
            seen = await asyncio.wait_for(source.get("a", ledger.read), 2)
            assert seen.value == 1
            assert "does not answer" in seen.trouble
        assert ledger.asked == 2
        ledger.free.set()
        await asyncio.sleep(0.1)
        assert (await source.get("a", ledger.read)).trouble == ""

    asyncio.run(story())


def test_who_only_peeks_waits_for_nothing_and_an_answer_that_lasts_is_asked_for_once(
    clock: Clock,
) -> None:
    async def story() -> None:
        ledger, source = Ledger(), Source(clock=clock)
        assert source.peek("a", ledger.read, lasts=True).value is None
        await asyncio.sleep(0.1)
        assert source.peek("a", ledger.read, lasts=True).value == 1
        clock.now += 1000
        source.peek("a", ledger.read, lasts=True)
        await asyncio.sleep(0.1)
        assert ledger.asked == 1
        source.peek("a", ledger.read, lasts=False)
        await asyncio.sleep(0.1)
        assert source.peek("a", ledger.read, lasts=False).value == 2

    asyncio.run(story())


def test_a_question_that_takes_long_is_asked_less_often(clock: Clock) -> None:
    async def story() -> None:
        ledger, source = Ledger(), Source(fresh_s=30, ease=20, clock=clock)
        ledger.free.clear()
        source.peek("a", ledger.read, lasts=False)
        await asyncio.sleep(0.05)
        clock.now += 4
        ledger.free.set()
        await asyncio.sleep(0.1)
        for later, asked in ((70, 1), (20, 2)):
            clock.now += later
            source.peek("a", ledger.read, lasts=False)
            await asyncio.sleep(0.05)
            assert ledger.asked == asked

    asyncio.run(story())


def test_a_bar_that_is_built_otherwise_is_left_as_it_is_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bar = "<nav><ul><li>Workers</li></ul></nav>"
    assert navbar.with_tab(bar) == bar
    assert "no Campaigns tab" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "—"),
        (0, "0 s"),
        (59.6, "1 m 00 s"),
        (3599, "59 m 59 s"),
        (3660, "1 h 01 m"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_said_in_their_two_largest_units(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said
