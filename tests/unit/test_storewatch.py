import pytest

from keywrap.rewrapping import Outcome, Prove
from keywrap.scan import BEAT_NAMES, scan
from keywrap.stores import StoreUnavailableError
from keywrap.storewatch import FAILURES, StoreWatch
from keywrap.testing.stores import MemoryStore
from tests.worlds import FaultyStore, World, by_id


class CountingStore(FaultyStore):
    reads = 0

    def read(self, name: str, *, limit: int | None = None):  # type: ignore[no-untyped-def]  # noqa: ANN201
        self.reads += 1
        return super().read(name, limit=limit)


def test_a_store_that_hangs_is_found_out_after_a_few_requests_and_not_after_all() -> None:
    store = CountingStore()
    world = World(store)
    ids = [world.plant("wrapped", f"b{n:03}") for n in range(200)]
    store.is_down = True
    report = world.migrate(*ids)
    assert isinstance(report.interruption, StoreUnavailableError)
    assert report.results == []
    assert store.reads == FAILURES


def test_many_objects_that_are_away_stop_no_batch_while_the_store_itself_answers() -> None:
    world = World()
    ids = [world.plant("wrapped", f"b{n:03}") for n in range(50)]
    assert isinstance(world.store, FaultyStore)
    world.store.away = {world.layout.sidecar_name(b) for b in ids[:40]}
    results = by_id(world.migrate(*ids))
    assert {results[b].outcome for b in ids[:40]} == {Outcome.FAILED}
    assert {results[b].outcome for b in ids[40:]} == {Outcome.REWRAPPED}


def test_the_store_is_asked_only_where_so_many_requests_in_a_row_had_no_answer() -> None:
    asked = []
    watch = StoreWatch(lambda: asked.append("check"))
    for _ in range(3):
        for _ in range(FAILURES - 1):
            watch.failed()
        watch.answered()
    assert asked == []
    for _ in range(FAILURES):
        watch.failed()
    assert asked == ["check"]
    assert not watch.is_away


@pytest.mark.parametrize("prove", Prove)
def test_a_batch_after_one_whose_store_was_away_asks_anew(prove: Prove) -> None:
    world = World()
    ids = [world.plant("managed", f"b{n:03}") for n in range(20)]
    world.kms.rotate(world.kek.key)
    assert isinstance(world.store, FaultyStore)
    world.store.is_down = True
    assert world.rotate(*ids, prove=prove).interruption
    world.store.is_down = False
    assert {r.outcome for r in world.rotate(*ids, prove=prove).results} == {Outcome.REWRAPPED}


def test_a_long_listing_can_be_stopped_before_its_first_blob() -> None:
    store = MemoryStore()
    for n in range(BEAT_NAMES * 2):
        store.create(f"b{n}", b"")  # without sidecars, which are told of at the end only
    beats = []

    def stop() -> None:
        beats.append(1)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(scan(store, World().layout, beat=stop))
    assert beats == [1]
