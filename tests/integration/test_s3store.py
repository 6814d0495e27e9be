import hashlib
import http.client
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_s3 import S3Client

from keywrap.objectmarks import MARKS
from keywrap.objectstore import ObjectStore
from keywrap.s3store import S3ObjectStore, open_s3
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    Stored,
    StoreUnavailableError,
)
from keywrap.testing.aws_server import AwsServer
from keywrap.testing.stores import StoreConformance
from tests.clouds import CannedServer

REGION = "eu-central-1"


def foreign_client(address: str) -> S3Client:
    """What somebody else's application uses."""
    return boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=address,
        config=Config(s3={"addressing_style": "path"}),
    )


@pytest.fixture
def foreign(aws_server: AwsServer) -> Iterator[S3Client]:
    client = foreign_client(aws_server.address)
    yield client
    client.close()


def opened(server: AwsServer, bucket: str, prefix: str = "") -> ObjectStore:
    return open_s3(bucket, prefix, region=REGION, endpoint=server.address, allow_http=True)


class TestS3Store(StoreConformance):
    increments = 50

    @pytest.fixture
    def store(self, s3_store: ObjectStore) -> ObjectStore:
        return s3_store


class TestS3StoreThatLosesReplies(StoreConformance):
    """Each promise holds although every tenth write is made and not answered."""

    increments = 40

    @pytest.fixture
    def store(self, aws_server: AwsServer, s3_store: ObjectStore) -> ObjectStore:
        aws_server.control(lose_probability=0.1)
        return s3_store


class TestS3StoreOnMoto(StoreConformance):
    # moto serves about 80 requests a second, and let two writers win a race by If-Match in 1 of
    # 60 rounds (facts/kms.md, part F): races are ours to test on a server that keeps the rules.
    increments = 1

    @pytest.fixture
    def store(self, moto_address: str, aws_credentials: None) -> ObjectStore:  # noqa: ARG002
        bucket = f"blobs-{uuid.uuid4().hex[:12]}"
        client = foreign_client(moto_address)
        client.create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        client.close()
        return open_s3(bucket, "tenant", region=REGION, endpoint=moto_address, allow_http=True)

    @pytest.mark.skip(reason="moto's If-Match is no compare-and-set: two writers win at times")
    def test_concurrent_increments_lose_nothing(self) -> None: ...

    @pytest.mark.skip(reason="nor is its If-None-Match: two creators won once in some 15 runs")
    def test_of_concurrent_creators_one_wins(self) -> None: ...


# Names


ODD_KEYS = (
    "a//b",
    "/leading",
    "trailing/",
    "./dot",
    "../up",
    "a/../b",
    "a/.",
    "tab\there",
    "new\nline",
    "bell\x07",
    "delete\x7f",
    "per%2Fcent%00",
    "  spaces  ",
    "plus+and&amp;<xml>",
    "back\\slash",
    "\u0085\u2028\u202e",
    "*?#^[]{}|\"'`~",
    "ÿ" * 500,
)


def put_raw(server: AwsServer, bucket: str, key: str, data: bytes) -> None:
    """Put an object under just this key; clients tidy some of them up."""
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"))
    headers = {"Authorization": "AWS4-HMAC-SHA256 of somebody else"}
    connection.request("PUT", f"/{bucket}/{quote(key, safe='/')}", data, headers)
    assert connection.getresponse().status == 200
    connection.close()


def test_every_key_is_listed_and_none_is_mistaken_for_another(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    for key in ODD_KEYS:
        put_raw(aws_server, s3_bucket, f"tenant/{key}", key.encode())
    for name in ("a/b", "leading", "trailing", "dot", "up", "b", "a"):
        s3_store.create(name, b"another")
    assert set(s3_store.names()) == {*ODD_KEYS, "a/b", "leading", "trailing", "dot", "up", "b", "a"}
    for key in ODD_KEYS:
        for call in (
            lambda key=key: s3_store.read(key).data,
            lambda key=key: s3_store.read_range(key, 0, 2000),
        ):
            try:
                assert call() == key.encode()
            except NotAnObjectError:
                assert key in ODD_KEYS[:11]


def test_a_name_that_is_not_carried_is_not_written_under_another(s3_store: ObjectStore) -> None:
    for name in ("", "/", "/a", "a/", "a//b", "../tenant2/a", "a/../b", "a\nb", "x" * 1025):
        for call in (
            lambda name=name: s3_store.create(name, b""),
            lambda name=name: s3_store.replace(name, b"", Stored(b"", '"1"')),
            lambda name=name: s3_store.delete(name),
        ):
            with pytest.raises(NotAnObjectError):
                call()
    assert list(s3_store.names()) == []


def test_a_store_ends_at_its_folder(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    whole = opened(aws_server, s3_bucket)
    for name in ("tenant", "tenant.txt", "tenant2/a", "tenant/a", "tenant/", "other"):
        put_raw(aws_server, s3_bucket, name, b"1")
    assert sorted(s3_store.names()) == ["", "a"]
    assert sorted(s3_store.names("a")) == ["a"]
    assert sorted(whole.names("tenant")) == [
        "tenant",
        "tenant.txt",
        "tenant/",
        "tenant/a",
        "tenant2/a",
    ]


def test_the_stores_own_corner_is_listed_only_when_asked_for(s3_store: ObjectStore) -> None:
    s3_store.create(".rewrap/control.json", b"{}")
    s3_store.create("a", b"")
    assert list(s3_store.names()) == ["a"]
    assert list(s3_store.names(".rewrap/")) == [".rewrap/control.json"]


def test_the_listing_says_the_tag_that_a_read_returns(s3_store: S3ObjectStore) -> None:
    names = {"a", "f/b c+d", "f/&amp;<é>", "f/g/h"}
    for name in names:
        s3_store.create(name, name.encode())
    before = dict(s3_store.tagged())
    assert before == {name: s3_store.read(name).tag for name in names}
    s3_store.replace("a", b"anew", s3_store.read("a"))
    after = dict(s3_store.tagged())
    assert after.pop("a") != before.pop("a")
    assert after == before
    assert dict(s3_store.tagged("f/g")) == {"f/g/h": before["f/g/h"]}


def test_a_large_store_is_listed_whole(s3_store: ObjectStore) -> None:
    names = {f"tenants/{n % 7}/document {n:05}.pdf" for n in range(3_300)}
    names |= {f"flat-{n:05}" for n in range(2_200)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: s3_store.create(name, b""), names))
    listed = list(s3_store.names())
    assert len(listed) == len(names)
    assert set(listed) == names
    assert set(s3_store.names("tenants/3")) == {n for n in names if n.startswith("tenants/3")}


# What a write leaves as it was


def test_content_headers_and_metadata_survive_a_replacement(
    s3_bucket: str, s3_store: ObjectStore, foreign: S3Client
) -> None:
    foreign.put_object(
        Bucket=s3_bucket,
        Key="tenant/a",
        Body=b"1",
        ContentType="application/json",
        CacheControl="no-store",
        Metadata={"owner": "billing"},
    )
    for data in (b"2", b"3"):
        s3_store.replace("a", data, s3_store.read("a"))
    found = foreign.get_object(Bucket=s3_bucket, Key="tenant/a")
    assert found["ContentType"] == "application/json"
    assert found["CacheControl"] == "no-store"
    assert found["Metadata"].keys() == {"owner", MARKS}
    assert found["Metadata"]["owner"] == "billing"
    assert len(found["Metadata"][MARKS].split(",")) == 2


def test_marks_never_outgrow_the_metadata_of_an_object(
    s3_bucket: str, s3_store: ObjectStore, foreign: S3Client
) -> None:
    foreign.put_object(
        Bucket=s3_bucket, Key="tenant/full", Body=b"1", Metadata={"note": "x" * 1950}
    )
    s3_store.create("empty", b"1")
    for name in ("full", "empty"):
        for number in range(40):
            s3_store.replace(name, b"%d" % number, s3_store.read(name))
        metadata = foreign.get_object(Bucket=s3_bucket, Key=f"tenant/{name}")["Metadata"]
        assert sum(len(key) + len(value) for key, value in metadata.items()) <= 2048
    assert len(s3_store.read("empty").marks) == 16


def test_a_foreign_writer_wins(s3_bucket: str, s3_store: ObjectStore, foreign: S3Client) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    foreign.put_object(Bucket=s3_bucket, Key="tenant/a", Body=b"theirs")
    with pytest.raises(ChangedError):
        s3_store.replace("a", b"ours", read)
    with pytest.raises(AlreadyExistsError):
        s3_store.create("a", b"ours")
    assert s3_store.read("a").data == b"theirs"


def test_equal_bytes_of_another_writer_are_not_our_write(s3_store: ObjectStore) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    s3_store.replace("a", b"2", read)
    with pytest.raises(ChangedError):
        s3_store.replace("a", b"2", read)


# What the environment says


def test_the_environment_chooses_neither_endpoint_nor_signing(
    aws_server: AwsServer,
    s3_bucket: str,
    canned: Callable[..., CannedServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trap = canned(lambda _head: None)
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROXY_URL"):
        monkeypatch.setenv(name, trap.address)
    for name in (
        "AWS_ALLOW_HTTP",
        "AWS_ALLOW_INVALID_CERTIFICATES",
        "AWS_SKIP_SIGNATURE",
        "AWS_UNSIGNED_PAYLOAD",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "AWS_REQUEST_PAYER",
        "AWS_S3_EXPRESS",
        "AWS_USE_FIPS_ENDPOINT",
    ):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("AWS_BUCKET", "other")
    monkeypatch.setenv("AWS_REGION", "us-gov-west-1")
    store = opened(aws_server, s3_bucket)  # the server refuses what is not signed
    store.check()
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))
    store.delete("a")
    assert list(store.names()) == []
    assert trap.heads == []


@pytest.mark.usefixtures("aws_credentials")
def test_requests_are_signed_whatever_the_environment_says(
    canned: Callable[..., CannedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_UNSIGNED_PAYLOAD", "true")
    server = canned(lambda _head: b'HTTP/1.1 200 OK\r\netag: "1"\r\ncontent-length: 0\r\n\r\n')
    open_s3("blobs", region=REGION, endpoint=server.address, allow_http=True).create("a", b"1")
    (head,) = server.heads
    assert b"\r\nauthorization: AWS4-HMAC-SHA256 Credential=AKIA" in head
    assert f"/{REGION}/s3/aws4_request".encode() in head
    assert hashlib.sha256(b"1").hexdigest().encode() in head
    assert b"x-amz-request-payer" not in head


def test_a_key_for_server_side_encryption_is_not_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms")
    with pytest.raises(ValueError, match="AWS_SERVER_SIDE_ENCRYPTION"):
        open_s3("blobs", region=REGION)


def test_aws_is_asked_at_its_regional_endpoint_over_tls() -> None:
    for bucket, region, url in (
        ("blobs", "eu-central-1", "https://blobs.s3.eu-central-1.amazonaws.com"),
        ("blobs", "us-east-1", "https://blobs.s3.us-east-1.amazonaws.com"),
        ("blobs", "cn-north-1", "https://blobs.s3.cn-north-1.amazonaws.com.cn"),
        ("dotted.blobs", "eu-central-1", "https://s3.eu-central-1.amazonaws.com"),
    ):
        client = open_s3(bucket, region=region)._client
        assert client.config["endpoint"] == url
        assert client.client_options["allow_http"] == "false"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"bucket": "../x"}, "bucket"),
        ({"bucket": "a/b"}, "bucket"),
        ({"region": ""}, "region"),
        ({"region": "evil.example/"}, "region"),
        ({"endpoint": "http://127.0.0.1:1"}, "allow_http"),
        ({"endpoint": "ftp://127.0.0.1"}, "endpoint"),
        ({"endpoint": "https://user:secret@host"}, "endpoint"),
        ({"endpoint": "https://host/path"}, "endpoint"),
        ({"prefix": "a/../b"}, "prefix"),
    ],
)
def test_what_is_no_address_of_a_bucket_is_refused(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        open_s3(**{"bucket": "blobs", "region": REGION, **arguments})
    assert "secret" not in str(caught.value)


# Processes


def test_opening_connects_to_nothing_and_needs_no_credentials(
    canned: Callable[..., CannedServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    server = canned(lambda _head: None)
    store = open_s3("blobs", region=REGION, endpoint=server.address, allow_http=True)
    for call in (
        store.check,
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match="no AWS credentials"):
            call()
    assert server.heads == []


FORKS = """
import os, sys
from keywrap.s3store import S3ObjectStore, open_s3
from keywrap.stores import StoreUnavailableError

bucket, address = sys.argv[1:]
def opened():
    return open_s3(bucket, region="eu-central-1", endpoint=address, allow_http=True)

def in_child(call):
    child = os.fork()
    if child == 0:
        try:
            call()
            status = 0
        except StoreUnavailableError as error:
            print(error, flush=True)
            status = 7
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

store = opened()
def work():
    store.create(str(os.getpid()), b"")
    list(store.names())
assert in_child(work) == 0
work()
assert in_child(lambda: store.read("a")) == 7
assert in_child(store.check) == 7
assert in_child(lambda: list(store.names())) == 7
assert in_child(lambda: opened().read("a")) == 7
"""


def test_a_fork_of_a_process_that_used_a_bucket_is_refused_and_does_not_hang(
    aws_server: AwsServer, s3_bucket: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, s3_bucket, aws_server.address],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("before it forked") == 4


def test_what_a_console_makes_for_a_folder_is_no_object_but_one_with_bytes_is(
    foreign: S3Client, aws_server: AwsServer, s3_bucket: str
) -> None:
    for key, data in {"t/": b"", "t/empty/": b"", "t/full/": b"1", "t/empty/a": b""}.items():
        foreign.put_object(Bucket=s3_bucket, Key=key, Body=data)
    assert sorted(opened(aws_server, s3_bucket, "t").names()) == ["empty/a", "full/"]
