from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from keywrap.kms import DeniedError, KmsError, ThrottledError, UnavailableError
from keywrap.rewrapping import READS, Outcome, ProofFailedError, Prove
from keywrap.stores import StoreUnavailableError
from keywrap.storewatch import FAILURES
from keywrap.testing.kms import SimpleMemoryKeyProvider
from tests.worlds import KEK, STEPS, FaultyStore, World, at, by_id

ERRORS = [
    DeniedError("no permission", key=KEK, reason_code="permission_denied"),
    UnavailableError("no answer", key=KEK),
    ThrottledError("too fast", key=KEK),
]
_SIDECAR = "a.sidecar.json"
_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def world(store: FaultyStore) -> World:
    return World(store)


def _untouched(world: World) -> Callable[[], None]:
    before = world.snapshot()

    def check() -> None:
        assert world.snapshot() == before
        assert world.store.writes == 0

    return check


def test_a_replacement_whose_reply_is_lost_counts_as_made(world: World) -> None:
    world.plant("wrapped", "a")
    world.store.lose_next_reply()
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.store.writes == 1
    assert world.sidecar("a")["dek_version"] == 2


def test_a_creation_whose_reply_is_lost_counts_as_made(world: World, store: FaultyStore) -> None:
    world.plant("bare", "a")
    store.lose_creates = 1
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert store.writes == 1
    assert world.sidecar("a")["dek_version"] == 1


@pytest.mark.parametrize("kind", ["wrapped", "bare"])
def test_a_lost_reply_and_a_lost_look_are_settled_by_reading_again(
    world: World, store: FaultyStore, kind: str
) -> None:
    world.plant(kind, "a")
    store.lose_next_reply()
    store.lose_creates = 1
    lose_the_look = at(
        "replace", lambda: store.fail_next("read", StoreUnavailableError("no answer"))
    )
    assert by_id(world.migrate("a", before=lose_the_look))["a"].outcome is Outcome.CURRENT
    assert store.writes == 1


def test_a_sidecar_that_a_writer_removed_after_a_lost_reply_is_read_again(
    world: World, store: FaultyStore
) -> None:
    world.plant("wrapped", "a")
    store.lose_next_reply()
    remove = at("replace", lambda: store.before("read", lambda: world.aside.delete(_SIDECAR)))
    result = by_id(world.migrate("a", before=remove))["a"]
    assert result.outcome is not Outcome.REWRAPPED
    assert store.writes == 1


def test_a_write_that_was_not_made_is_made_again(world: World, store: FaultyStore) -> None:
    world.plant("wrapped", "a")
    store.fail_next("replace", StoreUnavailableError("no answer"))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert store.writes == 1


@pytest.mark.parametrize("part", ["a.sidecar.json", "a"])
def test_an_object_that_stays_away_fails_alone(world: World, store: FaultyStore, part: str) -> None:
    world.plant("wrapped", "a")
    world.plant("wrapped", "b")
    store.away.add(part)
    report = world.migrate("a", "b")
    assert report.interruption is None
    results = by_id(report)
    assert (results["a"].outcome, results["a"].reason_code) == (
        Outcome.FAILED,
        "store_unavailable",
    )
    assert results["b"].outcome is Outcome.REWRAPPED
    store.away.clear()
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED


def test_an_object_that_comes_back_in_time_is_rewrapped(world: World, store: FaultyStore) -> None:
    world.plant("wrapped", "a")
    for _ in range(READS - 1):
        store.fail_next("read", StoreUnavailableError("no answer"))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED


@pytest.mark.parametrize("step", ["read", "match", "replace"])
def test_a_store_that_is_away_interrupts_and_decides_nothing(
    world: World, store: FaultyStore, step: str
) -> None:
    ids = [world.plant("wrapped", f"w{n}") for n in range(3)]
    untouched = _untouched(world)
    report = world.migrate(*ids, before=at(step, lambda: setattr(store, "is_down", True)))
    assert isinstance(report.interruption, StoreUnavailableError)
    assert report.results == []
    untouched()
    store.is_down = False
    assert {r.outcome for r in world.migrate(*ids).results} == {Outcome.REWRAPPED}


def test_a_store_that_is_away_is_not_asked_again_for_each_blob(
    world: World, store: FaultyStore
) -> None:
    ids = [world.plant("wrapped", f"w{n}") for n in range(3)]
    store.is_down = True
    asked: list[None] = []
    for _ in range(READS * len(ids)):
        store.before("read", lambda: asked.append(None))
    assert world.migrate(*ids).interruption is not None
    assert len(asked) == len(ids)


def test_once_the_store_is_found_to_be_away_the_other_blobs_are_not_asked_for(
    world: World, store: FaultyStore
) -> None:
    ids = [world.plant("wrapped", f"w{n}") for n in range(3 * FAILURES)]
    store.is_down = True
    asked: list[None] = []
    for _ in ids:
        store.before("read", lambda: asked.append(None))
    assert world.migrate(*ids).interruption is not None
    assert len(asked) == FAILURES


def test_a_store_that_went_away_at_the_last_attempt_fails_nothing(
    world: World, store: FaultyStore
) -> None:
    world.plant("wrapped", "a")
    passes: list[str] = []

    def before(step: str) -> None:
        passes.extend([step] * (step == "read"))
        if step == "read":
            store.away = {"a.sidecar.json"}
            store.is_down = len(passes) == READS

    report = world.migrate("a", before=before)
    assert isinstance(report.interruption, StoreUnavailableError)
    assert report.results == []


@_error
@pytest.mark.parametrize("step", ["open", "wrap", "prove"])
def test_a_kek_that_refuses_as_a_whole_interrupts_and_quarantines_nothing(
    world: World, step: str, error: KmsError
) -> None:
    ids = [world.plant("managed", f"m{n}") for n in range(3)]
    world.kms.rotate(KEK)
    untouched = _untouched(world)
    report = world.rotate(*ids, before=at(step, lambda: world.kms.fail_next(error)))
    assert report.interruption is error
    assert report.results == []
    untouched()
    assert {r.outcome for r in world.rotate(*ids).results} == {Outcome.REWRAPPED}


@_error
@pytest.mark.parametrize("step", ["wrap", "prove"])
def test_a_kek_that_refuses_during_a_migration_leaves_every_legacy_wrap(
    world: World, step: str, error: KmsError
) -> None:
    ids = [world.plant(kind, kind) for kind in ("direct", "bare", "wrapped")]
    untouched = _untouched(world)
    report = world.migrate(*ids, before=at(step, lambda: world.kms.fail_next(error)))
    assert report.interruption is error
    assert report.results == []
    untouched()


@_error
def test_a_kek_that_refuses_a_server_side_rewrap_interrupts(world: World, error: KmsError) -> None:
    world.plant("managed", "a")
    world.kms.rotate(KEK)
    untouched = _untouched(world)
    world.kms.fail_next(error)
    report = world.rotate("a", prove=Prove.SAMPLE)
    assert (report.interruption, report.results) == (error, [])
    untouched()


def test_an_old_version_that_is_disabled_blocks_and_quarantines_nothing(world: World) -> None:
    world.plant("managed", "a")
    old = world.target
    world.kms.rotate(KEK)
    world.kms.disable_version(old)
    for prove in Prove:
        report = world.rotate("a", prove=prove)
        assert isinstance(report.interruption, DeniedError)
        assert report.results == []


def test_what_was_decided_before_the_interruption_stays_decided(world: World) -> None:
    world.plant("wrapped", "a")
    world.plant("managed", "m")
    world.kms.fail_next(ERRORS[0])
    report = world.migrate("a", "m", "gone")
    assert {r.blob_id: r.outcome for r in report.results} == {
        "m": Outcome.CURRENT,
        "gone": Outcome.GONE,
    }
    assert report.interruption is ERRORS[0]


@pytest.mark.parametrize("kind", ["wrapped", "managed"])
def test_a_corrupt_wrap_stops_the_batch_and_replaces_no_sidecar_of_it(
    world: World, kind: str
) -> None:
    ids = [world.plant(kind, f"b{n}") for n in range(3)]
    if kind == "managed":
        world.kms.rotate(KEK)
    untouched = _untouched(world)
    world.kms.corrupt_next_wrap()
    report = (world.rotate if kind == "managed" else world.migrate)(*ids)
    assert isinstance(report.interruption, ProofFailedError)
    assert "b0" in str(report.interruption)
    assert report.results == []
    untouched()


def test_a_new_wrap_that_does_not_open_at_all_stops_the_batch() -> None:
    world = World(provider=ForgetfulProvider)
    ids = [world.plant("wrapped", f"b{n}") for n in range(3)]
    untouched = _untouched(world)
    report = world.migrate(*ids)
    assert isinstance(report.interruption, ProofFailedError)
    untouched()


class ForgetfulProvider(SimpleMemoryKeyProvider):
    """Wraps for another blob than it was told."""

    def wrap(self, data_key, context):  # noqa: ANN001, ANN201
        return super().wrap(data_key, {"blob_id": context["blob_id"] + "x"})


@pytest.mark.parametrize("prove", Prove)
def test_a_wrap_under_another_version_is_not_accepted(world: World, prove: Prove) -> None:
    ids = [world.plant("managed", f"m{n}") for n in range(3)]
    world.kms.rotate(KEK)
    untouched = _untouched(world)
    world.kms.wrong_version_next()
    report = world.rotate(*ids, prove=prove)
    assert isinstance(report.interruption, UnavailableError)
    assert report.interruption.reason_code == "version_not_current"
    assert report.results == []
    untouched()
    assert {r.outcome for r in world.rotate(*ids, prove=prove).results} == {Outcome.REWRAPPED}


class HeldStore(FaultyStore):
    """Can be kept open for a batch."""

    is_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        self.check()
        self.is_held = True
        yield
        self.is_held = False


def test_a_store_that_can_be_kept_open_is_so_for_all_of_a_batch_and_no_longer() -> None:
    store = HeldStore()
    world = World(store)
    world.plant("wrapped", "a")
    held: list[bool] = []
    world.migrate("a", before=lambda _step: held.append(store.is_held))
    assert held == [True] * len(STEPS)
    assert not store.is_held


def test_a_store_that_is_away_before_a_batch_is_waited_for_and_no_key_is_used() -> None:
    store = HeldStore()
    world = World(store)
    world.plant("wrapped", "a")
    store.is_down = True
    report = world.migrate("a")
    assert isinstance(report.interruption, StoreUnavailableError)
    assert (report.results, sum(world.kms.operations.values())) == ([], 0)
