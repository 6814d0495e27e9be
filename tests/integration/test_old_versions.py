"""Old versions of sidecars in a bucket of S3, by moto: looked into before a key is retired."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from keywrap.keys import KeyVersion
from keywrap.objectstore import ObjectStore
from keywrap.s3store import open_s3
from keywrap.stores import StoreUnavailableError, VersionsUnseenError
from scheduler import oldversions
from scheduler.desk import Desk
from scheduler.oldversions import OldWraps, look_back
from tests.cloudreaders import foreign_client
from tests.clouds import CannedServer
from workers.settings import load

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "hcvault://transit/blob-kek"
OLD, NEW = KeyVersion(KEY, "1"), KeyVersion(KEY, "2")
SUFFIX = ".sidecar.json"
BLOBS = ("a", "b c/ü+%", "gone")


def sidecar(version: KeyVersion, previous: KeyVersion | None = None) -> bytes:
    record: dict[str, Any] = {"key_id": str(version), "wrapped_dek": "AAAA", "dek_version": 1}
    if previous:
        record["previous"] = {"key_id": str(previous), "wrapped_dek": "AAAA"}
    return json.dumps(record).encode()


@pytest.fixture
def client(moto_address: str, aws_credentials: None) -> Iterator["S3Client"]:  # noqa: ARG001
    client: S3Client = foreign_client("s3", moto_address, dict(os.environ))
    yield client
    client.close()


@pytest.fixture
def bucket(client: "S3Client") -> str:
    name = f"blobs-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


def keep_versions(client: "S3Client", bucket: str, status: Any = "Enabled") -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def put(client: "S3Client", bucket: str, blob_id: str, *datas: bytes) -> None:
    for data in datas:
        client.put_object(Bucket=bucket, Key=f"tenant/{blob_id}{SUFFIX}", Body=data)


def desk_of(tmp_path: Path, address: str, bucket: str) -> Desk:
    path = tmp_path / "rewrap.toml"
    path.write_text(
        f'[store]\nurl = "s3://{bucket}/tenant"\nregion = "eu-west-1"\n'
        f'endpoint = "{address}"\n[backup]\nrequired = false\n'
    )
    desk: Any = SimpleNamespace(settings=load(str(path), {}))
    return desk


def opened(address: str, bucket: str) -> ObjectStore:
    return open_s3(bucket, "tenant", region="eu-west-1", endpoint=address, allow_http=True)


def test_old_and_removed_sidecars_are_counted_and_named_and_newest_ones_are_not(
    client: "S3Client", bucket: str, moto_address: str, tmp_path: Path
) -> None:
    keep_versions(client, bucket)
    put(client, bucket, "a", sidecar(OLD), sidecar(NEW, OLD), sidecar(NEW))
    put(client, bucket, "b c/ü+%", sidecar(NEW), sidecar(OLD), b"{broken", sidecar(NEW))
    put(client, bucket, "gone", sidecar(OLD))
    client.delete_object(Bucket=bucket, Key=f"tenant/gone{SUFFIX}")
    put(client, bucket, "live", sidecar(OLD))  # the scan of the store is there for that
    client.put_object(Bucket=bucket, Key="tenant/a", Body=b"content")
    client.put_object(Bucket=bucket, Key="tenant/a", Body=b"content")
    found = look_back(desk_of(tmp_path, moto_address, bucket), lambda version: version == OLD)
    assert (found.needing, found.unreadable, found.unseen) == (4, 1, "")
    assert set(found.named) == {"a", "b c/ü+%", "gone"}


def test_they_are_listed_page_by_page(client: "S3Client", bucket: str, moto_address: str) -> None:
    keep_versions(client, bucket)
    for number in range(40):
        put(client, bucket, f"{number:03}", sidecar(OLD), sidecar(NEW))
    store = opened(moto_address, bucket)
    query = store._bucket.document  # type: ignore[attr-defined]

    def small(asked: dict[str, str], *rest: Any) -> Any:
        return query(asked | ({"max-keys": "7"} if "versions" in asked else {}), *rest)

    store._bucket.document = small  # type: ignore[attr-defined]
    names = [name for name, _ in store.old_versions(lambda _name: True, 10_000)]
    assert sorted(names) == [f"{number:03}{SUFFIX}" for number in range(40)]


def test_a_bucket_that_kept_versions_once_is_looked_into_and_one_that_never_did_has_none(
    client: "S3Client", bucket: str, moto_address: str
) -> None:
    store = opened(moto_address, bucket)
    put(client, bucket, "a", sidecar(OLD), sidecar(NEW))
    assert list(store.old_versions(lambda _name: True, 10_000)) == []
    keep_versions(client, bucket)
    put(client, bucket, "a", sidecar(OLD), sidecar(NEW))
    keep_versions(client, bucket, "Suspended")
    assert len(list(store.old_versions(lambda _name: True, 10_000))) == 2


def test_what_is_too_large_is_not_read(client: "S3Client", bucket: str, moto_address: str) -> None:
    keep_versions(client, bucket)
    put(client, bucket, "a", b"x" * 11, b"x" * 10, b"")
    found = list(opened(moto_address, bucket).old_versions(lambda _name: True, 10))
    assert sorted(data or b"" for _, data in found) == [b"", b"x" * 10]


@pytest.mark.parametrize(
    ("status", "error"), [(501, VersionsUnseenError), (403, StoreUnavailableError)]
)
def test_a_service_that_cannot_be_asked_and_one_that_refuses_are_told_apart(
    aws_credentials: None,  # noqa: ARG001
    status: int,
    error: type[Exception],
) -> None:
    body = b"<Error><Code>AccessDenied</Code></Error>"
    head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    server = CannedServer(lambda _head: head + body)
    store = opened(server.address, "some-bucket")
    with pytest.raises(error) as raised:
        list(store.old_versions(lambda _name: True, 10))
    if status == 403:
        assert "s3:ListBucketVersions" in str(raised.value)


def test_a_folder_keeps_none(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    path = tmp_path / "rewrap.toml"
    path.write_text(
        f'[store]\nurl = "{(tmp_path / "blobs").as_uri()}"\n[backup]\nrequired = false\n'
    )
    desk: Any = SimpleNamespace(settings=load(str(path), {}))
    found = oldversions.look_back(desk, lambda _version: True)
    assert found == OldWraps(unseen=found.unseen)
    assert "folder" in found.unseen
