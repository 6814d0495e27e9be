from collections.abc import Callable

import pytest

from keywrap.contentformat import READ_BYTES
from keywrap.datakey import DataKey
from keywrap.kms import DeniedError, KmsError, ThrottledError, UnavailableError
from keywrap.rewrapping import READS, Outcome, Result
from keywrap.stores import Stored, StoreUnavailableError
from tests.worlds import KEK, KINDS, FaultyStore, World, by_id


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def world(store: FaultyStore) -> World:
    return World(store)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_that_opens_is_current_and_nothing_is_written(world: World, kind: str) -> None:
    world.plant(kind, "a")
    before = world.snapshot()
    assert world.verifier().verify(["a"]).results == [Result("a", Outcome.CURRENT)]
    assert world.snapshot() == before


def test_a_blob_written_by_the_application_opens(world: World) -> None:
    world.put("a", b"text")
    assert world.verifier().verify(["a"]).results == [Result("a", Outcome.CURRENT)]


def test_a_deleted_blob_is_gone(world: World) -> None:
    assert world.verifier().verify(["a"]).results == [Result("a", Outcome.GONE)]


BROKEN: dict[str, Callable[[World], object]] = {
    "content_does_not_open": lambda w: w.write_content(
        "bad", b"text", DataKey.generate(), "gcm-v1"
    ),
    "content_truncated": lambda w: w.store._objects.update(bad=b"short"),
    "content_missing": lambda w: w.aside.delete("bad"),
    "content_format_unknown": lambda w: w.edit("bad", content="rot13-v1"),
    "wrap_does_not_open": lambda w: w.edit("bad", wrapped_dek="A" * 80),
    "wrap_version_unknown": lambda w: w.edit("bad", key_id=f"{KEK}?version=99"),
    "key_not_listed": lambda w: w.edit("bad", key_id="env:NOT_LISTED"),
    "context_mismatch": lambda w: w.edit("bad", context={"blob_id": "good"}),
    "sidecar_not_json": lambda w: w.write_sidecar("bad", b"{"),
}


@pytest.mark.parametrize("reason_code", BROKEN)
def test_a_blob_that_does_not_open_is_told_with_its_reason_and_the_others_go_on(
    world: World, reason_code: str
) -> None:
    world.plant("managed", "bad")
    world.plant("managed", "good")
    BROKEN[reason_code](world)
    results = by_id(world.verifier().verify(["bad", "good"]))
    assert (results["bad"].outcome, results["bad"].reason_code) == (
        Outcome.QUARANTINED,
        reason_code,
    )
    assert results["good"].outcome is Outcome.CURRENT


def test_the_last_byte_of_the_content_is_verified_too(world: World) -> None:
    world.plant("direct", "a", bytes(20_000))
    content = bytearray(world.snapshot()["a"])
    content[-1] ^= 1
    world.store._objects["a"] = bytes(content)
    assert by_id(world.verifier().verify(["a"]))["a"].reason_code == "content_does_not_open"


def test_a_writer_between_sidecar_and_content_makes_no_false_alarm(world: World) -> None:
    world.plant("wrapped", "a", b"old")
    world.store.before(
        "read",
        lambda: world.store.before(
            "read_range", lambda: world.plant("wrapped", "a", b"new") and None
        ),
    )
    assert world.verifier().verify(["a"]).results == [Result("a", Outcome.CURRENT)]


class MeasuredStore(FaultyStore):
    """Knows how much was read of an object at once."""

    most = 0

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        stored = super().read(name, limit=limit)
        self.most = max(self.most, len(stored.data))
        return stored

    def read_range(self, name: str, start: int, length: int) -> bytes:
        part = super().read_range(name, start, length)
        self.most = max(self.most, len(part))
        return part


def test_a_content_is_not_held_whole() -> None:
    store = MeasuredStore()
    world = World(store)
    world.put("a", bytes(2 * READ_BYTES))
    store.most = 0
    assert world.verifier().verify(["a"]).results == [Result("a", Outcome.CURRENT)]
    assert store.most == READ_BYTES


def test_an_object_that_comes_back_in_time_is_read(world: World) -> None:
    world.plant("managed", "a")
    for _ in range(READS - 1):
        world.store.fail_next("read", StoreUnavailableError("no answer"))
    assert world.verifier().verify(["a"]).results == [Result("a", Outcome.CURRENT)]


@pytest.mark.parametrize("part", ["a", "a.sidecar.json"])
def test_an_object_that_stays_away_fails_alone(world: World, store: FaultyStore, part: str) -> None:
    world.plant("managed", "a")
    world.plant("managed", "b")
    store.away.add(part)
    results = by_id(world.verifier().verify(["a", "b"]))
    assert (results["a"].outcome, results["a"].reason_code) == (
        Outcome.FAILED,
        "store_unavailable",
    )
    assert results["b"].outcome is Outcome.CURRENT


def test_a_store_that_is_away_interrupts_and_blames_no_blob(
    world: World, store: FaultyStore
) -> None:
    world.plant("managed", "a")
    store.is_down = True
    report = world.verifier().verify(["a"])
    assert isinstance(report.interruption, StoreUnavailableError)
    assert report.results == []


@pytest.mark.parametrize("kind", [DeniedError, UnavailableError, ThrottledError])
def test_a_kek_that_refuses_as_a_whole_interrupts_and_blames_no_blob(
    world: World, kind: type[KmsError]
) -> None:
    world.plant("managed", "a")
    world.plant("direct", "b")
    error = kind("no", key=KEK)
    world.kms.fail_next(error)
    report = world.verifier().verify(["a", "b"])
    assert report.interruption is error
    assert report.results == []


def test_only_what_did_not_open_is_read_again(world: World) -> None:
    world.plant("managed", "good")
    world.plant("managed", "bad")
    world.edit("bad", wrapped_dek="A" * 80)
    world.kms.operations.clear()
    world.verifier().verify(["good", "bad"])
    assert world.kms.operations == {"unwrap": 1 + READS}
