from collections.abc import Sequence

import pytest

from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.kms import Context, DeniedError, KmsError, ThrottledError
from keywrap.rewrapping import Outcome, Prove
from keywrap.testing.kms import MemoryKeyProvider
from tests.worlds import KEK, World

SLOW = ThrottledError("slow down")


class SlowProvider(MemoryKeyProvider):
    """Finishes the first item of each batch of an operation; the others were throttled."""

    slow_at = ""

    def wrap_many(self, items: Sequence[tuple[DataKey, Context]]) -> list[WrappedKey | KmsError]:
        return self._slow("wrap", super().wrap_many(items))

    def unwrap_many(self, items: Sequence[tuple[WrappedKey, Context]]) -> list[DataKey | KmsError]:
        return self._slow("unwrap", super().unwrap_many(items))

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | KmsError]:
        return self._slow("rewrap", super().rewrap_many(items))

    def _slow(self, operation: str, done: Sequence[object]) -> list:  # type: ignore[type-arg]
        return [*done[:1], *([SLOW] * len(done[1:]))] if operation == self.slow_at else list(done)


@pytest.mark.parametrize(
    ("slow_at", "prove", "kind"),
    [
        ("wrap", Prove.ALL, "wrapped"),  # while it wraps
        ("unwrap", Prove.ALL, "wrapped"),  # while it proves
        ("unwrap", Prove.ALL, "managed"),  # while it opens
        ("rewrap", Prove.SAMPLE, "managed"),
    ],
)
def test_what_was_finished_before_a_batch_was_throttled_is_written_and_the_rest_is_pending(
    slow_at: str, prove: Prove, kind: str
) -> None:
    world = World(provider=SlowProvider)
    ids = [world.plant(kind, blob_id) for blob_id in "abc"]
    world.kms.rotate(world.kek.key)
    assert isinstance(world.kek, SlowProvider)
    world.kek.slow_at = slow_at
    before = {blob_id: world.raw(blob_id) for blob_id in "bc"}
    move = world.migrate if kind == "wrapped" else world.rotate
    report = move(*ids, prove=prove)
    assert report.interruption is SLOW
    assert not report.concerns_some
    assert [(r.blob_id, r.outcome) for r in report.results] == [("a", Outcome.REWRAPPED)]
    assert {blob_id: world.raw(blob_id) for blob_id in "bc"} == before


@pytest.mark.parametrize("prove", Prove)
def test_a_version_that_is_denied_holds_up_its_own_blobs_and_no_others(prove: Prove) -> None:
    world = World()
    world.plant("managed", "denied")
    first = world.target
    world.kms.rotate(KEK)
    world.plant("managed", "open")
    world.kms.rotate(KEK)
    world.kms.disable_version(first)
    before = world.raw("denied")
    report = world.rotate("denied", "open", prove=prove)
    assert [(r.blob_id, r.outcome) for r in report.results] == [("open", Outcome.REWRAPPED)]
    assert isinstance(report.interruption, DeniedError)
    assert report.concerns_some, "the next batch is worth a try"
    assert world.raw("denied") == before
