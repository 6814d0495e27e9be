"""Large contents in real files and in a bucket, and what they take of memory."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from obstore.exceptions import GenericError
from obstore.store import MemoryStore, S3Store

from keywrap.blobs import EncryptedBlobs
from keywrap.contentformat import READ_BYTES, ContentError
from keywrap.filestore import FileStore
from keywrap.keyring import KeyRing
from keywrap.layout import Layout
from keywrap.objectstore import ObjectStore
from keywrap.objectuploads import MAX_UPLOAD_BYTES, PART_BYTES, upload
from keywrap.reading import SidecarReader
from keywrap.s3store import open_s3
from keywrap.stores import AlreadyExistsError, StoreUnavailableError, StreamingStore, TooLargeError
from keywrap.testing.kms import MemoryKeyProvider

MIB = 1024 * 1024
REGION = "eu-west-1"

MEASURE = """
import hashlib, json, sys, time
from pathlib import Path
from keywrap.blobs import EncryptedBlobs
from keywrap.filestore import FileStore
from keywrap.keyring import KeyRing
from keywrap.layout import Layout
from keywrap.reading import SidecarReader
from keywrap.testing.kms import MemoryKeyProvider

class Source:
    def __init__(self, size):
        self.left, self.digest = size, hashlib.sha256()
        self.pattern = bytes(range(256)) * 512
    def read(self, size):
        part = self.pattern[: min(size, self.left)]
        self.left -= len(part)
        self.digest.update(part)
        return part

def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

kek = MemoryKeyProvider()
reader = SidecarReader(FileStore(Path(sys.argv[1])), Layout())
blobs = EncryptedBlobs(reader, KeyRing([kek], primary=kek.key))
blobs.put("warm", b"up")
assert list(blobs.stream("warm")) == [b"up"]
before, began = peak(), time.monotonic()
source = Source(int(sys.argv[2]))
blobs.put_stream("large", source)
written, halfway = peak(), time.monotonic()
digest = hashlib.sha256()
for piece in blobs.stream("large"):
    digest.update(piece)
print(json.dumps({
    "same": digest.digest() == source.digest.digest(),
    "write": written - before, "read": peak() - before,
    "write_s": halfway - began, "read_s": time.monotonic() - halfway,
}))
"""


def blobs_in(store: Any) -> EncryptedBlobs:
    kek = MemoryKeyProvider()
    return EncryptedBlobs(SidecarReader(store, Layout()), KeyRing([kek], primary=kek.key))


def pieces(size: int) -> Iterator[bytes]:
    for start in range(0, size, 100_000):
        yield b"x" * min(100_000, size - start)


def breaking(good: int, error: Exception) -> Iterator[bytes]:
    yield from pieces(good)
    raise error


def everything_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".rewrap/locks" not in str(path)
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def measured(folder: Path, size: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(size)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peaks from /proc")
def test_256_mib_are_written_and_read_in_less_than_64_mib_of_memory(folder: Path) -> None:
    found = measured(folder, 256 * MIB)
    assert found["same"]
    assert 0 < found["write"] < 64 * MIB, found
    assert 0 < found["read"] < 64 * MIB, found


@pytest.mark.skipif(
    "KEYWRAP_LARGE" not in os.environ, reason="2 GiB on the disk: set KEYWRAP_LARGE=1 to run it"
)
@pytest.mark.timeout(900)
def test_2_gib_are_written_and_read_in_less_than_64_mib_of_memory(folder: Path) -> None:
    found = measured(folder, 2048 * MIB)
    assert found["same"]
    assert max(found["write"], found["read"]) < 64 * MIB, found
    print(found)  # noqa: T201 - for docs/performance.md, with -s


def test_a_file_store_takes_an_object_in_pieces(folder: Path) -> None:
    store = FileStore(folder)
    assert isinstance(store, StreamingStore)
    store.create_from("a/b", pieces(250_001))
    assert store.read("a/b").data == b"x" * 250_001
    store.create_from("empty", ())
    assert store.read("empty").data == b""


def test_a_file_that_is_there_is_not_replaced_by_pieces(folder: Path) -> None:
    store = FileStore(folder)
    store.create("a", b"first")
    with pytest.raises(AlreadyExistsError):
        store.create_from("a", pieces(10))
    assert everything_in(folder) == {"a": b"first"}


def test_pieces_that_end_early_leave_no_file_not_even_a_temporary_one(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        FileStore(folder).create_from("a", breaking(200_000, ZeroDivisionError()))
    assert everything_in(folder) == {}


def test_nothing_of_an_object_is_seen_before_its_last_piece(folder: Path) -> None:
    store = FileStore(folder)

    def looking() -> Iterator[bytes]:
        yield b"first"
        assert list(store.names()) == []
        yield b"last"

    store.create_from("a", looking())
    assert store.read("a").data == b"firstlast"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="limits a file's size instead of a disk")
def test_a_disk_that_is_full_leaves_the_old_blob_and_says_that_it_is_the_store(
    folder: Path,
) -> None:
    import resource  # noqa: PLC0415 - of Unix only
    import signal  # noqa: PLC0415

    blobs = blobs_in(FileStore(folder))
    blobs.put("a", b"old")
    before = everything_in(folder)
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_action = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MIB, old_limit[1]))
    try:
        with pytest.raises(StoreUnavailableError):
            blobs.put_stream("a", io.BytesIO(bytes(12 * MIB)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_action)
    assert everything_in(folder) == before
    assert blobs.get("a") == b"old"


def test_a_client_that_goes_away_is_told_apart_from_a_store_that_does(folder: Path) -> None:
    class Client(io.RawIOBase):
        left = READ_BYTES + 100_000

        def read(self, size: int = -1, /) -> bytes:
            if self.left <= 0:
                raise ConnectionResetError("client gone")
            self.left -= size
            return bytes(size)

    blobs = blobs_in(FileStore(folder))
    with pytest.raises(ConnectionResetError, match="client gone"):
        blobs.put_stream("a", Client())
    assert everything_in(folder) == {}


def test_a_file_that_is_cut_or_lengthened_on_the_disk_never_streams_to_an_end(
    folder: Path,
) -> None:
    blobs = blobs_in(FileStore(folder))
    text = os.urandom(READ_BYTES + 3 * 65_536)
    blobs.put_stream("a", io.BytesIO(text))
    (file,) = folder.glob("a.~*")
    whole = file.read_bytes()
    for damaged in (whole[: 72 + 130 * 65_552], whole[:-1], whole + b"\0", whole + whole[72:]):
        file.write_bytes(damaged)
        got = io.BytesIO()
        with pytest.raises(ContentError):
            got.writelines(blobs.stream("a"))
        assert text.startswith(got.getvalue())
        assert len(got.getvalue()) < len(text)


class UploadingStore(ObjectStore):
    """A store in a bucket that takes objects in parts."""

    endpoint: str

    def create_from(self, name: str, chunks: Iterator[bytes]) -> None:
        client = S3Store(
            "blobs",
            endpoint=self.endpoint,
            region=REGION,
            access_key_id="AKIAEXAMPLE",
            secret_access_key="never-sent",
            client_options={"allow_http": True},
        )
        upload(client, self._key(name), chunks)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-sent")
    client = boto3.client("s3", endpoint_url=moto, region_name=REGION)
    client.create_bucket(Bucket="blobs", CreateBucketConfiguration={"LocationConstraint": REGION})
    yield client
    for key in keys_in(client):
        client.delete_object(Bucket="blobs", Key=key)
    client.delete_bucket(Bucket="blobs")
    client.close()


@pytest.fixture
def bucket(s3: Any) -> UploadingStore:
    opened = open_s3(
        "blobs", region=REGION, endpoint=s3.meta.endpoint_url, allow_http=True, prefix="in"
    )
    store = UploadingStore(opened._client, opened._bucket, opened._prefix)
    store.endpoint = s3.meta.endpoint_url
    return store


def keys_in(client: Any) -> set[str]:
    return {found["Key"] for found in client.list_objects_v2(Bucket="blobs").get("Contents", ())}


def test_a_bucket_takes_a_large_blob_in_parts(s3: Any, bucket: UploadingStore) -> None:
    assert isinstance(bucket, StreamingStore)
    blobs = blobs_in(bucket)
    text = os.urandom(2 * PART_BYTES + 12_345)
    blobs.put_stream("large", io.BytesIO(text))
    assert b"".join(blobs.stream("large")) == text
    assert blobs.get("large") == text
    (key,) = (key for key in keys_in(s3) if ".~" in key)
    etag = s3.head_object(Bucket="blobs", Key=key)["ETag"]
    assert etag.strip('"').endswith("-3"), "S3 marks what came in three parts"


def test_a_bucket_shows_nothing_of_an_upload_that_broke_off(s3: Any, bucket: Any) -> None:
    blobs = blobs_in(bucket)
    with pytest.raises(ConnectionResetError):
        bucket.create_from("a", breaking(2 * PART_BYTES, ConnectionResetError()))
    with pytest.raises(ConnectionResetError):
        blobs.put_stream("a", _Gone(2 * PART_BYTES))
    assert keys_in(s3) == set()
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="blobs")


def test_why_an_upload_was_ended_is_told_even_where_the_store_refuses_to_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_client: object, _key: str, chunks: Iterator[bytes], **_options: object) -> None:
        with suppress(ConnectionResetError):
            list(chunks)
        raise GenericError("500")

    monkeypatch.setattr("keywrap.objectuploads.obstore.put", refuse)
    with pytest.raises(ConnectionResetError):
        upload(MemoryStore(), "a", breaking(PART_BYTES, ConnectionResetError()))
    with pytest.raises(GenericError):
        upload(MemoryStore(), "a", pieces(PART_BYTES))


def test_an_upload_replaces_no_object_that_is_there(s3: Any, bucket: UploadingStore) -> None:
    bucket.create("a", b"first")
    with pytest.raises(AlreadyExistsError):
        bucket.create_from("a", pieces(PART_BYTES))
    assert bucket.read("a").data == b"first"
    assert keys_in(s3) == {"in/a"}


def test_an_upload_of_more_parts_than_a_bucket_takes_is_ended(
    s3: Any, bucket: UploadingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_UPLOAD_BYTES == 10_000 * PART_BYTES
    monkeypatch.setattr("keywrap.objectuploads.MAX_UPLOAD_BYTES", PART_BYTES + 5)
    with pytest.raises(TooLargeError):
        bucket.create_from("a", pieces(PART_BYTES + 6))
    assert keys_in(s3) == set()
    bucket.create_from("a", pieces(PART_BYTES + 5))
    assert bucket.read("a").data == b"x" * (PART_BYTES + 5)


class _Gone:
    def __init__(self, good: int) -> None:
        self._left = good

    def read(self, size: int, /) -> bytes:
        if self._left <= 0:
            raise ConnectionResetError("client gone")
        self._left -= size
        return bytes(size)
