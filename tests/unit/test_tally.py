from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from keywrap.kms import DeniedError, ThrottledError
from keywrap.rewrapping import Outcome, Report, Result
from tasks.interruptions import Stop
from tasks.runtime import UNPACED
from tasks.tally import Tally

DISABLED = DeniedError("the version is disabled")
SLOW = ThrottledError("slow down")


class Recorded(Tally):
    """Writes to no ledger; the rest is the real one."""

    def __init__(self) -> None:
        runtime = SimpleNamespace(batch=2, keys=SimpleNamespace(requests=0), pacing=UNPACED)
        work: Any = SimpleNamespace(runtime=runtime, check=lambda: None)
        super().__init__(work, lambda _done, _of: None)
        self.ends: list[tuple[Stop | None, bool]] = []

    def _record(self, stop: Stop | None = None, *, finish: bool = False) -> None:
        self.ends.append((stop, finish))


def engine(error: DeniedError | ThrottledError) -> Any:
    """The first batch is held up; the others go through."""

    def take(ids: Sequence[str]) -> Report:
        if "a" in ids:
            return Report([], error, concerns_some=isinstance(error, DeniedError))
        return Report([Result(b, Outcome.REWRAPPED) for b in ids])

    return take


def test_a_version_that_refuses_holds_up_its_own_batch_and_the_shard_goes_on() -> None:
    tally = Recorded()
    assert tally.run("abcdef", engine(DISABLED)) == {"rewrapped": 4}
    assert tally.ends == [(DISABLED, False)]


def test_what_is_slow_for_one_batch_is_not_asked_for_the_next() -> None:
    tally = Recorded()
    assert tally.run("abcdef", engine(SLOW)) == {}
    assert tally.ends == [(SLOW, False)]


@pytest.mark.parametrize("blobs", ["", "bcd"])
def test_a_shard_without_trouble_is_finished(blobs: str) -> None:
    tally = Recorded()
    tally.run(blobs, engine(DISABLED))
    assert tally.ends == [(None, True)]
