"""What an attacker or a broken neighbour may do to wraps and stores while blobs are moved."""

import base64
from collections.abc import Sequence

import pytest

from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import WrappedKey
from keywrap.kms import Context, RefusedError
from keywrap.rewrapping import STORE_FAILURES, Outcome, Prove, Result, Selection
from keywrap.stores import NotAnObjectError, NotFoundError, Stored, StoreUnavailableError
from keywrap.testing.kms import MemoryKeyProvider
from tests.worlds import KEK, OTHER_KEK, FaultyStore, World, by_id

UNLISTED = "aws-kms://arn:aws:kms:eu-west-1:111122223333:key/attacker"


class BoastfulProvider(MemoryKeyProvider):
    """Says that it binds the context, and does not: a transit key that is not derived."""

    def wrap(self, data_key: DataKey, _context: Context) -> WrappedKey:
        return super().wrap(data_key, {})

    def unwrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[DataKey | RefusedError]:
        return super().unwrap_many([(wrapped, {}) for wrapped, _ in items])


class FullStore(FaultyStore):
    """A full disk: it is there and reads, but takes no writes, save of some objects."""

    def __init__(self, *takes: str) -> None:
        super().__init__()
        self.takes = takes

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        if not name.startswith(self.takes or ("\0",)):
            raise StoreUnavailableError("no space left on device", name=name)
        super().replace(name, data, expected)


@pytest.fixture
def world() -> World:
    return World()


def _under_a_boastful_kek(world: World, *blob_ids: str) -> None:
    """Plant blobs whose data keys are wrapped by another KEK, which binds nothing."""
    boastful = BoastfulProvider(world.kms, OTHER_KEK)
    world.keys = KeyRing([world.kek, boastful, world.direct, world.wrapping], primary=KEK)
    for blob_id in blob_ids:
        world.plant("managed", blob_id)
        data_key = world.kek.unwrap(world.reader.read(blob_id).wrapped, {"blob_id": blob_id})
        wrapped = boastful.wrap(data_key, {"blob_id": blob_id})
        world.edit(
            blob_id,
            key_id=str(wrapped.key_version),
            wrapped_dek=base64.b64encode(wrapped.ciphertext).decode(),
            context=None,
        )


def _outcome(result: Result) -> tuple[Outcome, str]:
    return result.outcome, result.reason_code


@pytest.mark.parametrize("prove", Prove)
def test_swapped_sidecars_of_another_kek_are_not_laundered_whatever_it_says_of_binding(
    world: World, prove: Prove
) -> None:
    _under_a_boastful_kek(world, "a", "b")
    a, b = world.raw("a"), world.raw("b")
    world.write_sidecar("a", b)
    world.write_sidecar("b", a)
    results = by_id(world.rotate("a", "b", prove=prove))
    for blob_id in "ab":
        assert _outcome(results[blob_id]) == (Outcome.QUARANTINED, "content_does_not_open")
    assert (world.raw("a"), world.raw("b")) == (b, a), "nothing was changed"


@pytest.mark.parametrize("prove", Prove)
def test_sound_wraps_of_another_kek_that_binds_nothing_are_bound_by_the_target(
    world: World, prove: Prove
) -> None:
    _under_a_boastful_kek(world, "a", "b")
    results = by_id(world.rotate("a", "b", prove=prove))
    assert {r.outcome for r in results.values()} == {Outcome.REWRAPPED}
    assert world.wrong() == []


def test_a_wrap_is_bound_to_where_its_blob_lies_whatever_else_its_sidecar_says(
    world: World,
) -> None:
    world.plant("wrapped", "a")
    world.edit("a", context={"blob_id": "a", "tenant": "of the attacker"})
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.sidecar("a")["context"] == {"blob_id": "a"}
    assert world.wrong() == []


@pytest.mark.parametrize("kind", ["wrapped", "managed"])
@pytest.mark.parametrize("label", [UNLISTED, "env:ANOTHER_KEY", "dpapi:another"])
@pytest.mark.parametrize("migrates", [True, False])
def test_a_wrap_relabelled_to_an_unlisted_key_is_for_a_person_to_look_at_in_every_campaign(
    world: World, kind: str, label: str, *, migrates: bool
) -> None:
    world.plant(kind, "a")
    world.edit("a", key_id=label, context=None)
    before = world.snapshot()
    report = world.migrate("a") if migrates else world.rotate("a")
    assert _outcome(by_id(report)["a"]) == (Outcome.QUARANTINED, "key_not_listed")
    assert world.snapshot() == before


@pytest.mark.parametrize("kind", ["wrapped", "managed"])
@pytest.mark.parametrize("migrates", [True, False])
def test_a_wrap_relabelled_to_a_version_that_is_yet_to_come_does_not_pass_for_current(
    world: World, kind: str, *, migrates: bool
) -> None:
    world.plant(kind, "a")
    world.kms.rotate(KEK)
    world.edit("a", key_id=f"{KEK}?version=99", context=None)
    found = by_id(world.migrate("a") if migrates else world.rotate("a"))["a"]
    assert _outcome(found) == (Outcome.QUARANTINED, "key_version_unknown")
    assert f"{KEK}?version=99" in found.detail


def test_a_wrap_under_a_version_made_after_the_campaign_began_is_current(world: World) -> None:
    goal = world.goal(Selection.MANAGED, Prove.ALL)
    world.kms.rotate(KEK)
    world.plant("managed", "a")
    assert world.rewrapper().rewrap(["a"], goal).results == [Result("a", Outcome.CURRENT)]


def test_a_store_that_takes_no_writes_interrupts_and_no_blob_is_blamed() -> None:
    world = World(FullStore())
    blob_ids = [world.plant("wrapped", f"{n:02d}") for n in range(STORE_FAILURES)]
    report = world.migrate(*blob_ids)
    assert report.results == []
    assert isinstance(report.interruption, StoreUnavailableError)
    assert "no space left" in str(report.interruption)


def test_what_is_decided_without_a_write_is_kept_when_a_store_takes_none() -> None:
    world = World(FullStore())
    blob_ids = [world.plant("wrapped", f"{n:02d}") for n in range(STORE_FAILURES)]
    world.plant("managed", "at the target")
    report = world.migrate(*blob_ids, "at the target", "not there")
    assert {r.blob_id: r.outcome for r in report.results} == {
        "at the target": Outcome.CURRENT,
        "not there": Outcome.GONE,
    }
    assert isinstance(report.interruption, StoreUnavailableError)


def test_many_objects_that_cannot_be_read_are_not_blamed_on_a_store_that_answers() -> None:
    world = World()
    blob_ids = [world.plant("wrapped", f"{n:02d}") for n in range(STORE_FAILURES + 2)]
    world.store.away = {world.layout.sidecar_name(blob_id) for blob_id in blob_ids}
    report = world.migrate(*blob_ids)
    assert report.interruption is None
    assert {r.outcome for r in report.results} == {Outcome.FAILED}


@pytest.mark.parametrize(("failing", "taken"), [(STORE_FAILURES - 1, 0), (STORE_FAILURES, 1)])
def test_few_failed_writes_or_one_that_succeeds_leave_the_blame_with_the_blobs(
    failing: int, taken: int
) -> None:
    world = World(FullStore("taken"))
    blob_ids = [world.plant("wrapped", f"{n:02d}") for n in range(failing)]
    blob_ids += [world.plant("wrapped", f"taken-{n}") for n in range(taken)]
    report = world.migrate(*blob_ids)
    assert report.interruption is None
    outcomes = [result.outcome for result in report.results]
    assert outcomes == [Outcome.FAILED] * failing + [Outcome.REWRAPPED] * taken


@pytest.mark.parametrize("error", [NotAnObjectError, NotFoundError])
def test_an_object_that_turns_into_something_else_before_its_replacement_is_read_again(
    world: World, error: type[NotAnObjectError | NotFoundError]
) -> None:
    world.plant("wrapped", "a")
    world.plant("wrapped", "b")
    world.store.fail_next("replace", error("a folder became a link", name="a"))
    results = by_id(world.migrate("a", "b"))
    assert {r.outcome for r in results.values()} == {Outcome.REWRAPPED}
    assert world.wrong() == []


@pytest.mark.parametrize("error", [NotAnObjectError, NotFoundError])
def test_an_object_that_is_never_what_was_read_is_a_conflict_of_its_own(
    world: World, error: type[NotAnObjectError | NotFoundError]
) -> None:
    world.plant("wrapped", "a")
    world.plant("wrapped", "b")
    replace = world.store.replace

    def swap(name: str, data: bytes, expected: Stored) -> None:
        if name.startswith("a"):
            raise error("a folder became a link", name=name)
        replace(name, data, expected)

    world.store.replace = swap
    results = by_id(world.migrate("a", "b"))
    assert _outcome(results["a"]) == (Outcome.CONFLICT, "changed_by_writer")
    assert results["b"].outcome is Outcome.REWRAPPED


@pytest.mark.parametrize("prove", [Prove.ALL, Prove.SAMPLE])
def test_a_rewrap_of_another_data_key_is_told_by_the_wrap_before_it(
    world: World, prove: Prove
) -> None:
    world.plant("managed", "a")
    world.plant("managed", "b")
    world.kms.rotate(KEK)
    world.rotate("a", prove=prove)
    world.kms.corrupt_next_wrap()
    world.rotate("b", prove=Prove.SAMPLE)
    assert world.verifier().keeps_data_key("a")
    assert not world.verifier().keeps_data_key("b")


def test_a_wrap_with_none_before_it_proves_nothing_about_its_data_key(world: World) -> None:
    world.plant("managed", "a")
    assert not world.verifier().keeps_data_key("a")
