"""What services that are no S3, an environment, and a full object could do to a store."""

import http.client
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from botocore.loaders import Loader

from keywrap.awssession import session
from keywrap.conditions import UnconditionalStoreError, require_conditional_writes
from keywrap.objectmarks import METADATA_BYTES, StoredObject, attributes_of_write, new_mark
from keywrap.objectstore import ObjectStore
from keywrap.s3store import open_s3
from keywrap.stores import StoreUnavailableError
from keywrap.testing.aws_server import AwsServer
from tests.clouds import REGION, CannedServer

Canned = Callable[[Callable[[bytes], bytes | None]], CannedServer]


def opened(address: str) -> ObjectStore:
    return open_s3("blobs", region=REGION, endpoint=address, allow_http=True, timeout_s=1.0)


def answer(status: int, body: str) -> bytes:
    head = (
        f'HTTP/1.1 {status} So\r\netag: "1"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
        f"content-length: {len(body)}\r\n\r\n"
    )
    return f"{head}{body}".encode()


def refusal(status: int, code: str) -> bytes:
    return answer(status, f"<Error><Code>{code}</Code></Error>")


def listing(*keys: str, encoding: str = "", truncated: str = "false") -> bytes:
    entries = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    return answer(
        200,
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{encoding}<IsTruncated>{truncated}</IsTruncated>{entries}</ListBucketResult>",
    )


# Listings


@pytest.mark.usefixtures("aws_credentials")
def test_names_are_decoded_only_where_the_service_says_that_it_encoded_them(
    canned: Canned,
) -> None:
    raw = canned(lambda _head: listing("a%2Fb", "a+b", "x&amp;y"))
    assert list(opened(raw.address).names()) == ["a%2Fb", "a+b", "x&y"]
    url = "<EncodingType>url</EncodingType>"
    encoded = canned(lambda _head: listing("a+b", "a%2Bb", encoding=url))
    assert list(opened(encoded.address).names()) == ["a b", "a+b"]


@pytest.mark.usefixtures("aws_credentials")
def test_a_key_that_is_not_utf8_is_not_listed_as_another(canned: Canned) -> None:
    url = "<EncodingType>url</EncodingType>"
    server = canned(lambda _head: listing("a", "%FF", encoding=url))
    with pytest.raises(StoreUnavailableError, match="not UTF-8"):
        list(opened(server.address).names())


@pytest.mark.usefixtures("aws_credentials")
def test_a_service_that_begins_each_page_anew_is_refused(canned: Canned) -> None:
    server = canned(lambda _head: listing("a", "b", truncated="true"))
    with pytest.raises(StoreUnavailableError, match="not in order"):
        list(opened(server.address).names())


# Conditions


@pytest.mark.usefixtures("aws_credentials")
@pytest.mark.parametrize("condition", [b"if-none-match", b"if-match"])
@pytest.mark.parametrize(
    "hiccup",
    [
        pytest.param(refusal(503, "SlowDown"), id="503"),
        pytest.param(refusal(429, "SlowDown"), id="429"),
        pytest.param(refusal(409, "OperationAborted"), id="409"),
        pytest.param(None, id="none"),
    ],
)
def test_a_write_without_a_refusal_does_not_prove_that_conditions_hold(
    canned: Canned, condition: bytes, hiccup: bytes | None
) -> None:
    def reply(head: bytes) -> bytes | None:
        if head.startswith(b"GET"):
            return answer(200, "mark")
        return hiccup if condition in head else refusal(412, "PreconditionFailed")

    store = opened(canned(reply).address)
    with pytest.raises(StoreUnavailableError, match="not known") as unproved:
        require_conditional_writes(store, "mark")
    assert not isinstance(unproved.value, UnconditionalStoreError)


@pytest.mark.usefixtures("aws_credentials")
def test_a_refusal_of_both_writes_proves_that_conditions_hold(canned: Canned) -> None:
    refused = refusal(412, "PreconditionFailed")
    server = canned(lambda head: answer(200, "mark") if head.startswith(b"GET") else refused)
    require_conditional_writes(opened(server.address), "mark")
    assert len(server.heads) == 3


# Credentials


@pytest.mark.parametrize(
    "failure",
    [
        ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired"),
        PermissionError(13, "denied", "/var/run/token"),
    ],
)
def test_credentials_that_cannot_be_had_are_a_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def refresh() -> None:
        raise failure

    old = datetime(2020, 1, 1, tzinfo=UTC)
    found = RefreshableCredentials("a", "b", "c", old, refresh, "web-identity")  # type: ignore[arg-type]  # it never returns
    monkeypatch.setattr(botocore.session.Session, "get_credentials", lambda _self: found)
    store = opened("http://127.0.0.1:1")
    for call in (
        store.check,
        lambda: list(store.names()),
        lambda: store.read("a"),
        lambda: store.create("a", b"1"),
    ):
        with pytest.raises(StoreUnavailableError, match="the AWS credentials"):
            call()


# What the environment says


@pytest.mark.parametrize(
    "name",
    [
        "AWS_Server_Side_Encryption",
        "AWS_SSE_KMS_KEY_ID",
        "AWS_sse_customer_key_base64",
        "AWS_SSE_BUCKET_KEY_ENABLED",
    ],
)
def test_no_setting_of_encryption_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ValueError, match=name):
        opened("http://127.0.0.1:1")


@pytest.mark.parametrize("place", ["environment", "home"])
def test_data_files_from_elsewhere_do_not_choose_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    text = json.dumps(Loader().load_data("endpoints"))
    (tmp_path / "endpoints.json").write_text(text.replace("amazonaws.com", "evil.example"))
    rules = tmp_path / "sts" / "2011-06-15" / "endpoint-rule-set-1.json"
    rules.parent.mkdir(parents=True)
    endpoint = {"url": "https://evil.example", "properties": {}, "headers": {}}
    rule = {"conditions": [], "endpoint": endpoint, "type": "endpoint"}
    rules.write_text(json.dumps({"version": "1.0", "parameters": {}, "rules": [rule]}))
    if place == "environment":
        monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    else:
        monkeypatch.setattr(Loader, "CUSTOMER_DATA_PATH", str(tmp_path))
    client = open_s3("blobs", region=REGION)._client
    assert client.config["endpoint"] == f"https://blobs.s3.{REGION}.amazonaws.com"
    found = (
        session("").get_component("data_loader").load_service_model("sts", "endpoint-rule-set-1")
    )
    assert "evil" not in json.dumps(found)


@pytest.mark.usefixtures("aws_credentials")
def test_a_configured_endpoint_is_not_where_sts_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://evil.example")
    client = session("").create_client("sts", region_name=REGION)
    assert client.meta.endpoint_url == f"https://sts.{REGION}.amazonaws.com"


# Objects whose metadata is full


def put_full(server: AwsServer, bucket: str, key: str) -> None:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"))
    note = "x" * (METADATA_BYTES - len("note") - 10)
    headers = {"Authorization": "AWS4-HMAC-SHA256 of somebody", "x-amz-meta-note": note}
    connection.request("PUT", f"/{bucket}/{key}", b"1", headers)
    assert connection.getresponse().status == 200
    connection.close()


def test_where_there_is_no_room_there_is_no_mark() -> None:
    for length in range(1900, METADATA_BYTES):
        full = StoredObject(b"1", "t", {"note": "x" * (length - len("note"))})
        written = attributes_of_write(new_mark(), full)
        assert sum(len(name) + len(value) for name, value in written.items()) <= METADATA_BYTES


def test_a_full_object_is_replaced_and_a_lost_reply_to_it_is_not_taken_for_another_writer(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    put_full(aws_server, s3_bucket, "tenant/a")
    s3_store.replace("a", b"2", s3_store.read("a"))
    read = s3_store.read("a")
    assert (read.data, read.marks) == (b"2", [])
    aws_server.control(lose_replies=1)
    with pytest.raises(StoreUnavailableError, match=r"room for a mark.*not known"):
        s3_store.replace("a", b"3", read)
    assert s3_store.read("a").data == b"3"
