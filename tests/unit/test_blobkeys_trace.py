import pytest

from keywrap.blobs import EncryptedBlobs, LegacyCutOffError
from keywrap.control import Cutover
from keywrap.datakey import DataKey
from keywrap.keycache import KeyCache
from keywrap.kms import RefusedError, UnavailableError
from tests.applications import Kept, Published
from tests.worlds import KEK, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def sink() -> Kept:
    return Kept()


@pytest.fixture
def control() -> Published:
    return Published()


@pytest.fixture
def blobs(world: World, sink: Kept, control: Published) -> EncryptedBlobs:
    return blobs_of(world, sink, control)


def blobs_of(
    world: World, sink: Kept, control: Published, cache: KeyCache | None = None
) -> EncryptedBlobs:
    return EncryptedBlobs(
        world.reader, world.keys, world.legacy_content, control=control, audit=sink, cache=cache
    )


def test_each_wrap_and_unwrap_leaves_its_event(
    world: World, blobs: EncryptedBlobs, sink: Kept
) -> None:
    blobs.put("a", b"text")
    blobs.get("a")
    list(blobs.stream("a"))
    version = str(world.target)
    assert sink.said("event", "outcome", "blob_id", "key_id") == [
        ("wrap", "ok", "a", version),
        ("unwrap", "ok", "a", version),
        ("unwrap", "ok", "a", version),
    ]


def test_where_an_event_cannot_be_taken_nothing_is_handed_out_or_written(
    world: World, blobs: EncryptedBlobs, sink: Kept
) -> None:
    blobs.put("a", b"text")
    before = world.snapshot()
    sink.failure = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        blobs.get("a")
    with pytest.raises(OSError, match="disk full"):
        blobs.put("a", b"new")
    assert world.snapshot() == before


def test_no_event_has_key_material(world: World, blobs: EncryptedBlobs, sink: Kept) -> None:
    world.plant("wrapped", "a")
    world.migrate("a")
    world.kms.fail_next(UnavailableError("no answer", key=KEK))
    blobs.get("a")
    blobs.put("b", b"text")
    key = world.kek.unwrap(world.reader.read("b").wrapped, {"blob_id": "b"}).reveal()
    told = repr(sink.events)
    assert key.hex() not in told
    assert world.sidecar("b")["wrapped_dek"] not in told
    assert repr(key) not in told


def test_with_a_cache_a_wrap_is_opened_once(world: World, sink: Kept, control: Published) -> None:
    world.plant("managed", "a")
    blobs = blobs_of(world, sink, control, KeyCache(10, 60, 100))
    for _ in range(3):
        assert blobs.get("a") == world.originals["a"]
    assert world.kms.operations["unwrap"] == 1
    assert sink.said("event", "cached") == [("unwrap", False), ("unwrap", True), ("unwrap", True)]


def test_without_a_cache_a_wrap_is_opened_each_time(world: World, blobs: EncryptedBlobs) -> None:
    world.plant("managed", "a")
    for _ in range(3):
        blobs.get("a")
    assert world.kms.operations["unwrap"] == 3


def test_a_cache_keeps_no_key_beyond_cutover_and_none_of_another_blob(
    world: World, sink: Kept, control: Published
) -> None:
    blobs = blobs_of(world, sink, control, KeyCache(10, 60, 100))
    world.plant("wrapped", "a")
    blobs.get("a")
    control.cutover(Cutover.ON)
    with pytest.raises(LegacyCutOffError):
        blobs.get("a")
    control.cutover(Cutover.OFF)
    world.plant("managed", "b")
    blobs.get("b")
    world.write_content("c", b"text", DataKey.generate(), "gcm-v1")
    world.write_sidecar("c", {k: v for k, v in world.sidecar("b").items() if k != "context"})
    with pytest.raises(RefusedError):
        blobs.get("c")


def test_a_rewrapped_blob_is_opened_by_its_new_wrap_and_not_from_the_cache(
    world: World, sink: Kept, control: Published
) -> None:
    blobs = blobs_of(world, sink, control, KeyCache(10, 60, 100))
    world.plant("managed", "a")
    blobs.get("a")
    world.kms.rotate(KEK)
    world.rotate("a")
    sink.events.clear()
    blobs.get("a")
    assert sink.said("key_id", "cached") == [(f"{KEK}?version=2", False)]
