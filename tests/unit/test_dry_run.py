from dataclasses import replace

import pytest

from keywrap.datakey import DataKey
from keywrap.kms import DeniedError
from keywrap.rewrapping import Outcome, ProofFailedError, Prove, Report, Result, Selection
from keywrap.stores import Stored
from keywrap.testing.kms import SimpleMemoryKeyProvider
from tests.worlds import KEK, LEGACY_KINDS, STEPS, FaultyStore, World, at, by_id


class WrittenError(AssertionError):
    """Somebody wrote."""


class ReadOnlyStore(FaultyStore):
    """A store whose every write is the end of the test."""

    def create(self, name: str, data: bytes) -> None:
        raise WrittenError(name, len(data))

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        raise WrittenError(name, len(data), expected)

    def delete(self, name: str) -> None:
        raise WrittenError(name)


@pytest.fixture
def world() -> World:
    return World(ReadOnlyStore())


def _dry_run(
    world: World, *blob_ids: str, selection: Selection = Selection.LEGACY, prove: Prove = Prove.ALL
) -> Report:
    return world.rewrapper().dry_run(blob_ids, world.goal(selection, prove))


@pytest.mark.parametrize("prove", Prove)
@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_a_blob_that_would_be_rewrapped_is_told_so_and_nothing_is_written(
    world: World, kind: str, prove: Prove
) -> None:
    world.plant(kind, "a")
    before = world.snapshot()
    assert _dry_run(world, "a", prove=prove) == Report([Result("a", Outcome.REWRAPPED)])
    assert world.snapshot() == before


def test_the_store_of_these_tests_would_tell_of_a_write(world: World) -> None:
    world.plant("wrapped", "a")
    with pytest.raises(WrittenError):
        world.migrate("a")


@pytest.mark.parametrize("prove", Prove)
def test_a_dry_run_of_a_rotation_asks_the_kms_for_what_the_rotation_would(prove: Prove) -> None:
    dry, wet = World(ReadOnlyStore()), World()
    for world in (dry, wet):
        for n in range(3):
            world.plant("managed", f"b{n}")
        world.kms.rotate(KEK)
        world.kms.operations.clear()
    ids = [f"b{n}" for n in range(3)]
    report = _dry_run(dry, *ids, selection=Selection.MANAGED, prove=prove)
    assert {r.outcome for r in report.results} == {Outcome.REWRAPPED}
    wet.rotate(*ids, prove=prove)
    assert dry.kms.operations == wet.kms.operations


def test_a_dry_run_goes_through_every_step_but_the_one_that_writes(world: World) -> None:
    world.plant("wrapped", "a")
    steps: list[str] = []
    world.rewrapper(steps.append).dry_run(["a"], world.goal(Selection.LEGACY, Prove.ALL))
    assert steps == [*(step for step in STEPS if step != "replace"), "spare"]


def test_a_dry_run_comes_to_what_the_rewrap_then_comes_to() -> None:
    world = World()
    for kind in (*LEGACY_KINDS, "managed"):
        world.plant(kind, kind)
    for n, record in enumerate((b"{", b"{}", b'{"wrapped_dek": "AAAA"}')):
        world.plant("wrapped", f"bad{n}")
        world.write_sidecar(f"bad{n}", record)
    world.plant("wrapped", "altered")
    world.edit("altered", wrapped_dek="A" * 80)
    world.plant("wrapped", "unlisted")
    world.edit("unlisted", key_id="env:STRANGER")
    world.plant("wrapped", "full")
    world.edit("full", dek_version=2**53 - 1)
    world.plant("direct", "swapped")
    world.write_content("swapped", b"of another key", DataKey.generate(), "records-v1")
    ids = [*world.originals, "never-there"]
    dry = by_id(_dry_run(world, *ids))
    assert world.store.writes == 0
    assert dry == by_id(world.migrate(*ids))
    assert {r.outcome for r in dry.values()} == {
        Outcome.REWRAPPED,
        Outcome.QUARANTINED,
        Outcome.GONE,
        Outcome.CURRENT,
    }
    assert dry["full"].reason_code == "dek_version_invalid"


def test_a_right_that_is_missing_on_the_target_is_found(world: World) -> None:
    world.plant("wrapped", "a")
    denied = DeniedError("no", key=KEK, reason_code="permission_denied")
    goal = world.goal(Selection.LEGACY, Prove.ALL)
    steps = world.rewrapper(at("wrap", lambda: world.kms.fail_next(denied)))
    assert steps.dry_run(["a"], goal) == Report([], denied)


@pytest.mark.parametrize("provider", [SimpleMemoryKeyProvider, None])
def test_a_wrap_that_fails_its_proof_interrupts_a_dry_run(
    provider: type[SimpleMemoryKeyProvider] | None,
) -> None:
    store = ReadOnlyStore()
    world = World(store, provider) if provider else World(store)
    world.plant("wrapped", "a")
    world.kms.corrupt_next_wrap()
    report = _dry_run(world, "a")
    assert report.results == []
    assert isinstance(report.interruption, ProofFailedError)


def test_a_canary_opens_what_the_key_service_would_move_unseen_and_its_content(
    world: World,
) -> None:
    for blob_id in ("sound", "damaged"):
        world.plant("managed", blob_id)
    world.write_content("damaged", b"?", DataKey.generate(), "gcm-v1")
    world.kms.rotate(KEK)
    goal = replace(world.goal(Selection.MANAGED, Prove.SAMPLE), opens_all=True)
    results = by_id(world.rewrapper().dry_run(["sound", "damaged"], goal))
    assert results["sound"].outcome is Outcome.REWRAPPED
    found = results["damaged"]
    assert (found.outcome, found.reason_code) == (Outcome.QUARANTINED, "content_does_not_open")
    assert world.kms.operations["rewrap"] > 0, "without it this test proves nothing"


def test_a_canary_opens_no_wrap_a_second_time(world: World) -> None:
    world.plant("managed", "a")
    world.kms.rotate(KEK)
    world.kms.operations.clear()
    goal = replace(world.goal(Selection.MANAGED, Prove.ALL), opens_all=True)
    world.rewrapper().dry_run(["a"], goal)
    assert world.kms.operations == {"unwrap": 2, "wrap": 1}, "the old wrap once, the new one once"
