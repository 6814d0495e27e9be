import io
import os
import threading

import pytest

from keywrap.blobs import BlobNotFoundError, BusyBlobError, EncryptedBlobs, ReadOnlyError
from keywrap.contentformat import READ_BYTES, ContentError
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.kms import DeniedError
from keywrap.layout import UnsafeBlobIdError
from keywrap.reading import QuarantineError
from keywrap.rewrapping import Outcome, Prove
from keywrap.stores import NotFoundError, StoreUnavailableError
from tests import plainstreams
from tests.worlds import KEK, LEGACY_KINDS, SimulatedCrash, World, crash, spoilt


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def blobs(world: World) -> EncryptedBlobs:
    return EncryptedBlobs(world.reader, world.keys, world.legacy_content)


def _objects(world: World, blob_id: str) -> set[str]:
    return {name for name in world.snapshot() if name.startswith(f"{blob_id}.~")}


@pytest.mark.parametrize("text", [b"", b"hello", bytes(100_000)])
def test_what_is_put_is_got(world: World, blobs: EncryptedBlobs, text: bytes) -> None:
    blobs.put("a/b", text)
    assert blobs.get("a/b") == text
    sidecar = world.sidecar("a/b")
    assert sidecar["key_id"] == f"{KEK}?version=1"
    assert sidecar["context"] == {"blob_id": "a/b"}
    assert sidecar["dek_version"] == 1
    assert not text or text not in b"".join(world.snapshot().values())


def test_an_overwrite_has_a_new_data_key_and_a_new_object(
    world: World, blobs: EncryptedBlobs
) -> None:
    blobs.put("a", b"1")
    first = world.sidecar("a")
    old = world.snapshot()
    blobs.put("a", b"2")
    second = world.sidecar("a")
    assert second["object"] != first["object"]
    assert second["wrapped_dek"] != first["wrapped_dek"]
    assert second["dek_version"] == 2
    assert "previous" not in second, "a writer that changes the data key drops the old wrap"
    assert world.snapshot()[f"a.~{first['object']}"] == old[f"a.~{first['object']}"]
    assert blobs.get("a") == b"2"


def test_a_reader_that_read_the_old_sidecar_still_finds_the_old_content(
    world: World, blobs: EncryptedBlobs
) -> None:
    blobs.put("a", b"1")
    reads: list[None] = []

    def overwrite_before_the_content_is_read() -> None:
        world.store.before("read", lambda: (reads.append(None), world.put("a", b"2"))[0])

    world.store.before("read", overwrite_before_the_content_is_read)
    assert blobs.get("a") == b"1"
    assert reads
    assert blobs.get("a") == b"2"


def test_a_reader_whose_content_was_swept_takes_the_newer_one(
    world: World, blobs: EncryptedBlobs
) -> None:
    blobs.put("a", b"1")

    def overwrite_and_sweep() -> None:
        (old,) = _objects(world, "a")
        world.put("a", b"2")
        world.aside.delete(old)

    world.store.before("read", lambda: world.store.before("read", overwrite_and_sweep))
    assert blobs.get("a") == b"2"


@pytest.mark.parametrize("kind", ["nothing", "managed", *LEGACY_KINDS])
def test_a_crash_before_the_sidecar_is_written_leaves_the_old_pair_whole(
    world: World, blobs: EncryptedBlobs, kind: str
) -> None:
    if kind != "nothing":
        world.plant(kind, "a", b"old")
    before = world.snapshot()
    if kind in {"nothing", "bare"}:
        world.store.before("create", lambda: world.store.before("create", crash))
    else:
        world.store.before("replace", crash)
    with pytest.raises(SimulatedCrash):
        blobs.put("a", b"new")
    after = world.snapshot()
    assert {name: after[name] for name in before} == before
    assert len(_objects(world, "a")) == 1, "the new content lies there, named by nobody"
    if kind == "nothing":
        with pytest.raises(BlobNotFoundError):
            blobs.get("a")
    assert world.wrong() == []


def test_a_crash_before_the_content_is_written_leaves_nothing(
    world: World, blobs: EncryptedBlobs
) -> None:
    world.store.before("create", crash)
    with pytest.raises(SimulatedCrash):
        blobs.put("a", b"new")
    assert world.snapshot() == {}


@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_a_put_over_a_legacy_blob_keeps_unknown_fields_and_its_content(
    world: World, blobs: EncryptedBlobs, kind: str
) -> None:
    world.plant(kind, "a", b"old")
    before = world.snapshot()
    if kind != "bare":
        world.edit("a", tenant={"ratio": 1.5})
    blobs.put("a", b"new")
    assert blobs.get("a") == b"new"
    assert world.snapshot()["a"] == before["a"]
    sidecar = world.sidecar("a")
    assert sidecar["content"] == "stream-v1"
    assert sidecar.get("tenant") == (None if kind == "bare" else {"ratio": 1.5})


@pytest.mark.parametrize("kind", ["nothing", "managed"])
def test_of_two_writers_the_later_wins_and_nothing_is_torn(
    world: World, blobs: EncryptedBlobs, kind: str
) -> None:
    if kind == "managed":
        world.plant(kind, "a")
        world.store.before("replace", lambda: world.put("a", b"other"))
    else:
        world.store.before("create", lambda: None)
        world.store.before("create", lambda: world.put("a", b"other"))
    blobs.put("a", b"ours")
    assert blobs.get("a") == b"ours"
    assert world.sidecar("a")["dek_version"] == (3 if kind == "managed" else 2)


def test_many_writers_at_once_leave_one_whole_blob(world: World, blobs: EncryptedBlobs) -> None:
    texts = [f"writer {n}".encode() for n in range(4)]
    done: list[bytes] = []

    def write(text: bytes) -> None:
        try:
            blobs.put("a", text)
        except BusyBlobError:
            return
        done.append(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs.get("a") in done
    assert world.sidecar("a")["dek_version"] == len(done)


def test_a_writer_that_never_comes_first_says_so_and_shows_nothing(
    world: World, blobs: EncryptedBlobs
) -> None:
    world.plant("direct", "a", b"old")
    for turn in range(20):
        world.store.before("replace", lambda turn=turn: world.edit("a", turn=turn))
    with pytest.raises(BusyBlobError):
        blobs.put("a", b"new")
    assert blobs.get("a") == b"old"


@pytest.mark.parametrize("kind", ["direct", "bare", "wrapped", "provider", "managed", "empty"])
def test_every_kind_of_blob_is_read(world: World, blobs: EncryptedBlobs, kind: str) -> None:
    world.plant(kind, "a")
    assert blobs.get("a") == world.originals["a"]


def test_a_missing_blob_is_not_found(blobs: EncryptedBlobs) -> None:
    with pytest.raises(BlobNotFoundError, match="'a'"):
        blobs.get("a")


def test_a_sidecar_without_content_is_not_found(world: World, blobs: EncryptedBlobs) -> None:
    blobs.put("a", b"1")
    (name,) = _objects(world, "a")
    world.aside.delete(name)
    with pytest.raises(BlobNotFoundError):
        blobs.get("a")


def test_an_installation_without_a_primary_key_only_reads(world: World) -> None:
    world.plant("managed", "a", b"text")
    reader = EncryptedBlobs(world.reader, KeyRing([world.kek]), world.legacy_content)
    before = world.snapshot()
    with pytest.raises(ReadOnlyError):
        reader.put("a", b"new")
    assert world.snapshot() == before
    assert reader.get("a") == b"text"


@pytest.mark.parametrize("blob_id", ["", "../a", "a/../b", "/etc/passwd", "a\nb", "a\\b"])
def test_an_unsafe_id_is_refused_before_anything_is_asked_or_written(
    world: World, blobs: EncryptedBlobs, blob_id: str
) -> None:
    with pytest.raises(UnsafeBlobIdError):
        blobs.put(blob_id, b"text")
    with pytest.raises(QuarantineError):
        blobs.get(blob_id)
    assert world.snapshot() == {}
    assert world.kms.operations == {}


def test_a_write_never_falls_back_to_another_key(world: World, blobs: EncryptedBlobs) -> None:
    world.plant("direct", "a")
    before = world.snapshot()
    world.kms.disable_version(world.target)
    with pytest.raises(DeniedError):
        blobs.put("a", b"new")
    with pytest.raises(DeniedError):
        blobs.put("b", b"new")
    assert world.snapshot() == before


def test_a_malformed_sidecar_is_not_written_over(world: World, blobs: EncryptedBlobs) -> None:
    world.plant("direct", "a")
    world.write_sidecar("a", b"{torn")
    with pytest.raises(QuarantineError):
        blobs.put("a", b"new")
    assert world.raw("a") == b"{torn"


def test_a_blob_under_another_blobs_data_key_is_no_content(
    world: World, blobs: EncryptedBlobs
) -> None:
    world.plant("managed", "a")
    world.write_content("a", b"text", DataKey.generate(), "gcm-v1")
    with pytest.raises(ValueError, match="does not open"):
        blobs.get("a")


class Broken(io.RawIOBase):
    """A source that fails after some bytes, as a client that goes away."""

    def __init__(self, good: int, error: BaseException) -> None:
        self._left, self._error = good, error

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            raise self._error
        part = min(size, self._left)
        self._left -= part
        return os.urandom(part)


@pytest.mark.parametrize("size", [0, 5, 65_536, 300_000])
def test_what_is_put_as_a_stream_is_got_and_streamed(blobs: EncryptedBlobs, size: int) -> None:
    text = os.urandom(size)
    blobs.put_stream("a", io.BytesIO(text))
    assert blobs.get("a") == text
    pieces = list(blobs.stream("a"))
    assert b"".join(pieces) == text
    assert all(0 < len(piece) <= 65_536 for piece in pieces)


@pytest.mark.parametrize("kind", ["direct", "bare", "wrapped", "managed", "empty"])
def test_every_kind_of_blob_is_streamed(world: World, blobs: EncryptedBlobs, kind: str) -> None:
    world.plant(kind, "a")
    assert b"".join(blobs.stream("a")) == world.originals["a"]


@pytest.mark.parametrize(
    "error", [ConnectionResetError("client gone"), ValueError("bad form"), KeyboardInterrupt()]
)
def test_a_source_that_fails_leaves_what_was_there_and_its_own_error(
    world: World, blobs: EncryptedBlobs, error: BaseException
) -> None:
    blobs.put("a", b"old")
    before = world.snapshot()
    with pytest.raises(type(error)) as raised:
        blobs.put_stream("a", Broken(100_000, error))
    assert raised.value is error
    assert world.snapshot() == before
    assert blobs.get("a") == b"old"


def test_a_stream_that_was_cut_raises_and_does_not_end(world: World, blobs: EncryptedBlobs) -> None:
    text = os.urandom(200_000)
    blobs.put("a", text)
    (name,) = _objects(world, "a")
    world.store._objects[name] = world.store._objects[name][: 72 + 2 * 65_552]
    got: list[bytes] = []
    with pytest.raises(ContentError):
        got.extend(blobs.stream("a"))
    assert b"".join(got) == text[:65_536]


def test_the_first_piece_is_opened_before_the_stream_is_handed_out(
    world: World, blobs: EncryptedBlobs
) -> None:
    with pytest.raises(BlobNotFoundError):
        blobs.stream("missing")
    blobs.put("a", b"text")
    (name,) = _objects(world, "a")
    world.store._objects[name] = spoilt(world.store._objects[name])
    with pytest.raises(ContentError):
        blobs.stream("a")
    world.kms.fail_next(DeniedError("not you", key=KEK))
    with pytest.raises(DeniedError):
        blobs.stream("a")


def test_a_content_that_is_removed_while_it_is_streamed_is_told(
    world: World, blobs: EncryptedBlobs
) -> None:
    blobs.put("a", bytes(READ_BYTES + 100))
    (name,) = _objects(world, "a")
    stream = blobs.stream("a")
    next(stream)
    world.aside.delete(name)
    with pytest.raises(NotFoundError):
        list(stream)


@pytest.mark.parametrize("blob_id", ["a.sidecar.json", ".rewrap/control.json"])
def test_an_id_whose_parts_could_be_mistaken_is_refused_before_the_kms_is_asked(
    world: World, blobs: EncryptedBlobs, blob_id: str
) -> None:
    with pytest.raises(UnsafeBlobIdError):
        blobs.put(blob_id, b"text")
    assert world.kms.operations == {}


def test_what_is_put_opens_by_the_page_of_the_format_alone(
    world: World, blobs: EncryptedBlobs
) -> None:
    text = os.urandom(100_000)
    blobs.put("a", text)
    (name,) = _objects(world, "a")
    key = world.kek.unwrap(world.reader.read("a").wrapped, {"blob_id": "a"}).reveal()
    assert plainstreams.open_whole(key, world.snapshot()[name]) == text


def test_a_migration_moves_stream_blobs_of_any_length_by_their_first_chunk(
    world: World, blobs: EncryptedBlobs
) -> None:
    for blob_id, text in (("a", b""), ("b", os.urandom(200_000))):
        blobs.put(blob_id, text)
        world.originals[blob_id] = text
    world.kms.rotate(KEK)
    report = world.rotate("a", "b", prove=Prove.CONTENT)
    assert {result.outcome for result in report.results} == {Outcome.REWRAPPED}
    assert world.wrong() == []


def test_a_store_that_is_away_is_no_missing_blob(world: World, blobs: EncryptedBlobs) -> None:
    world.plant("managed", "a")
    world.store.fail_next("read", StoreUnavailableError("no answer"))
    with pytest.raises(StoreUnavailableError):
        blobs.get("a")
