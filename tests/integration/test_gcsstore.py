import gzip
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import google.auth
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.oauth2.credentials import Credentials

from keywrap.conditions import UnconditionalStoreError, require_conditional_writes
from keywrap.gcsstore import open_gcs
from keywrap.objectmarks import MARKS
from keywrap.objectretries import ATTEMPTS
from keywrap.objectstore import ObjectStore
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)
from keywrap.tables.store import StoreConfig, check_store, open_store
from keywrap.testing.gcs_server import GcsServer
from keywrap.testing.stores import StoreConformance
from tests.buckets import gcs_store
from tests.clouds import CannedServer

Canned = Callable[[Callable[[bytes], bytes | None]], CannedServer]

FULL_ANSWER = (
    b'HTTP/1.1 200 OK\r\netag: "1"\r\nx-goog-generation: 17\r\n'
    b"last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 5\r\n\r\nhello"
)


def refusal(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>".encode()
    return b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def listing(answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def put_raw(server: GcsServer, bucket: str, key: str, data: bytes, **headers: str) -> None:
    """Put an object as somebody else's application does."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"))
    place = f"/{bucket}/{quote(key, safe='')}"
    connection.request("PUT", place, data, {"Authorization": "Bearer somebody", **named})
    assert connection.getresponse().status == 200
    connection.close()


class TestGcsStore(StoreConformance):
    increments = 50

    @pytest.fixture
    def store(self, gcs_blobs: ObjectStore) -> ObjectStore:
        return gcs_blobs


class TestGcsStoreThatLosesReplies(StoreConformance):
    """Each promise holds although every tenth write is made and not answered."""

    increments = 40

    @pytest.fixture
    def store(self, gcs_server: GcsServer, gcs_blobs: ObjectStore) -> ObjectStore:
        gcs_server.gcs.break_down(lose_probability=0.1)
        return gcs_blobs


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


def test_every_name_in_google_is_listed_and_none_is_mistaken_for_another(
    gcs_server: GcsServer, gcs_bucket: str, gcs_blobs: ObjectStore
) -> None:
    for key in ODD_KEYS:
        put_raw(gcs_server, gcs_bucket, f"tenant/{key}", key.encode())
    plain = ("a/b", "leading", "trailing", "dot", "up", "b", "a")
    for name in plain:
        gcs_blobs.create(name, b"another")
    assert sorted(gcs_blobs.names()) == sorted((*ODD_KEYS, *plain))
    for key in ODD_KEYS:
        for read in (lambda k: gcs_blobs.read(k).data, lambda k: gcs_blobs.read_range(k, 0, 2000)):
            try:
                assert read(key) == key.encode()
            except NotAnObjectError:
                assert key in ODD_KEYS[:10]


def test_thousands_of_odd_names_are_listed_once_each(gcs_blobs: ObjectStore) -> None:
    names = {f"mandant {n % 7}/größe + 50%/dokument #{n:05}?.pdf" for n in range(3_300)}
    names |= {f"flach-{n:05} 文" for n in range(2_200)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: gcs_blobs.create(name, b""), names))
    listed = list(gcs_blobs.names())
    assert len(listed) == len(names)
    assert set(listed) == names
    assert set(gcs_blobs.names("mandant 3")) == {n for n in names if n.startswith("mandant 3")}


def test_a_store_ends_at_its_folder_and_hides_its_own_corner(
    gcs_server: GcsServer, gcs_bucket: str, gcs_blobs: ObjectStore
) -> None:
    for name in ("tenant", "tenant.txt", "tenant2/a", "tenant/a", "tenant/", "other"):
        put_raw(gcs_server, gcs_bucket, name, b"1")
    gcs_blobs.create(".rewrap/control.json", b"{}")
    assert sorted(gcs_blobs.names()) == ["", "a"]
    assert list(gcs_blobs.names(".rewrap/")) == [".rewrap/control.json"]
    assert len(list(gcs_store(gcs_server.address, gcs_bucket).names("tenant"))) == 6


def test_pages_without_an_entry_do_not_end_a_listing(
    gcs_server: GcsServer, gcs_blobs: ObjectStore
) -> None:
    gcs_blobs.create("a", b"")
    gcs_server.gcs.break_down(empty_pages=5)
    assert list(gcs_blobs.names()) == ["a"]
    gcs_server.gcs.break_down(empty_pages=10_000)
    with pytest.raises(StoreUnavailableError, match="not the last"):
        list(gcs_blobs.names())


def test_an_empty_bucket_is_an_empty_store(gcs_blobs: ObjectStore) -> None:
    gcs_blobs.check()
    assert list(gcs_blobs.names()) == []
    with pytest.raises(NotFoundError):
        gcs_blobs.read("a")


@pytest.mark.parametrize(
    "answer",
    [
        {"items": [{"name": "b", "size": "1"}, {"name": "a", "size": "1"}]},
        {"items": [{"name": "a"}]},
        {"items": "a"},
        {"error": {"code": 200}},
        [],
    ],
)
def test_what_is_no_page_of_google_is_no_listing(canned: Canned, answer: object) -> None:
    server = canned(lambda _head: listing(answer))
    with pytest.raises(StoreUnavailableError, match="listing"):
        list(gcs_store(server.address, "blobs").names())


# Writes


def test_a_write_is_conditional_on_the_generation(canned: Canned) -> None:
    server = canned(lambda head: None if head.startswith(b"PUT") else FULL_ANSWER)
    store = gcs_store(server.address, "blobs")
    assert store.read("a").tag == "17"
    with pytest.raises(StoreUnavailableError):
        store.replace("a", b"2", Stored(b"hello", "17"))
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"2")
    puts = [head for head in server.heads if head.startswith(b"PUT")]
    assert len(puts) == ATTEMPTS + 1
    assert all(b"\r\nx-goog-if-generation-match: 17\r\n" in head for head in puts[:-1])
    assert b"\r\nx-goog-if-generation-match: 0\r\n" in puts[-1]


@pytest.mark.parametrize("generation", [b"0", b"", b"-1", b"1e9", b"17x"])
def test_a_generation_that_would_lift_the_condition_is_refused(
    canned: Canned, generation: bytes
) -> None:
    wrong = FULL_ANSWER.replace(b"generation: 17", b"generation: " + generation)
    with pytest.raises(StoreUnavailableError, match="no generation"):
        gcs_store(canned(lambda _head: wrong).address, "blobs").read("a")
    missing = FULL_ANSWER.replace(b"x-goog-generation", b"x-other")
    with pytest.raises(StoreUnavailableError):
        gcs_store(canned(lambda _head: missing).address, "blobs").read("a")


def test_bytes_that_were_changed_and_changed_back_are_seen(gcs_blobs: ObjectStore) -> None:
    gcs_blobs.create("a", b"old")
    read = gcs_blobs.read("a")
    gcs_blobs.replace("a", b"new", read)
    gcs_blobs.replace("a", b"old", gcs_blobs.read("a"))
    with pytest.raises(ChangedError):
        gcs_blobs.replace("a", b"ours", read)


def test_a_thousand_lost_replies_of_google_make_a_thousand_writes(
    gcs_server: GcsServer, gcs_blobs: ObjectStore
) -> None:
    before = gcs_server.gcs.writes
    gcs_server.gcs.break_down(lose_replies=1000)

    def work(number: int) -> None:
        name = f"blob-{number}"
        gcs_blobs.create(name, b"0")
        for count in range(1, 10):
            gcs_blobs.replace(name, b"%d" % count, gcs_blobs.read(name))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(100)))
    assert gcs_server.gcs.writes - before == 1000
    assert gcs_server.gcs.faults.lose_replies == 0
    assert {gcs_blobs.read(f"blob-{number}").data for number in range(100)} == {b"9"}


@pytest.mark.parametrize(
    "fault", ["too_many", "unavailable", "errors", "lose_requests", "lose_replies"]
)
def test_a_write_to_google_goes_through_after_a_hiccup(
    gcs_server: GcsServer, gcs_blobs: ObjectStore, fault: str
) -> None:
    gcs_blobs.create("a", b"1")
    read = gcs_blobs.read("a")
    before = gcs_server.gcs.writes
    gcs_server.gcs.break_down(**{fault: ATTEMPTS - 1})
    gcs_blobs.replace("a", b"2", read)
    gcs_server.gcs.break_down(**{fault: 0})
    assert gcs_blobs.read("a").data == b"2"
    assert gcs_server.gcs.writes == before + 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("too_many", "fewer requests.*not seen changed"), ("lose_requests", "not seen changed")],
)
def test_a_write_to_google_that_never_goes_through_says_so(
    gcs_server: GcsServer, gcs_blobs: ObjectStore, fault: str, sentence: str
) -> None:
    gcs_blobs.create("a", b"1")
    read = gcs_blobs.read("a")
    gcs_server.gcs.break_down(**{fault: 100})
    with pytest.raises(StoreUnavailableError, match=sentence):
        gcs_blobs.replace("a", b"2", read)
    assert gcs_blobs.read("a").data == b"1"


def test_reads_and_listings_of_google_outlast_a_hiccup(
    gcs_server: GcsServer, gcs_blobs: ObjectStore
) -> None:
    gcs_blobs.create("a", b"12")
    calls: tuple[tuple[Callable[[], object], object], ...] = (
        (lambda: gcs_blobs.read("a").data, b"12"),
        (lambda: gcs_blobs.read_range("a", 1, 1), b"2"),
        (lambda: list(gcs_blobs.names()), ["a"]),
        (gcs_blobs.check, None),
    )
    for call, expected in calls:
        gcs_server.gcs.break_down(slow_reads=ATTEMPTS - 1)
        assert call() == expected
        gcs_server.gcs.break_down(slow_reads=100)
        with pytest.raises(StoreUnavailableError, match="fewer requests"):
            call()
        gcs_server.gcs.break_down(slow_reads=0)


def test_equal_bytes_of_another_are_not_taken_for_a_write_to_google_whose_reply_was_lost(
    gcs_server: GcsServer, gcs_bucket: str, gcs_blobs: ObjectStore
) -> None:
    gcs_blobs.create("a", b"1")
    read = gcs_blobs.read("a")
    puts = gcs_server.gcs.operations["storage.objects.create"]
    gcs_server.gcs.break_down(lose_requests=1)
    gcs_server.read_latency_s = 1.0
    failed: list[StoreError] = []

    def write() -> None:
        try:
            gcs_blobs.replace("a", b"2", read)
        except StoreError as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while gcs_server.gcs.operations["storage.objects.create"] == puts:
        time.sleep(0.01)
    put_raw(gcs_server, gcs_bucket, "tenant/a", b"2")
    writer.join()
    assert [error.reason_code for error in failed] == [ChangedError.reason_code]


def test_headers_and_metadata_survive_a_replacement_in_google(
    gcs_server: GcsServer, gcs_bucket: str, gcs_blobs: ObjectStore
) -> None:
    put_raw(
        gcs_server,
        gcs_bucket,
        "tenant/a",
        b"1",
        content_type="application/json",
        cache_control="no-store",
        x_goog_meta_owner="billing",
    )
    for data in (b"2", b"3"):
        gcs_blobs.replace("a", data, gcs_blobs.read("a"))
    attributes = dict(gcs_blobs.read("a").attributes)
    assert len(attributes.pop(MARKS).split(",")) == 2
    assert attributes == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "owner": "billing",
    }


def test_what_is_stored_as_gzip_is_read_and_replaced_as_it_is_stored(
    gcs_server: GcsServer, gcs_bucket: str, gcs_blobs: ObjectStore
) -> None:
    packed = gzip.compress(b"sidecar" * 100)
    put_raw(gcs_server, gcs_bucket, "tenant/a", packed, content_encoding="gzip")
    read = gcs_blobs.read("a")
    assert read.data == packed
    assert gcs_blobs.read_range("a", 2, 5) == packed[2:7]
    gcs_blobs.replace("a", gzip.compress(b"new"), read)
    assert gzip.decompress(gcs_blobs.read("a").data) == b"new"
    assert gcs_blobs.read("a").attributes["Content-Encoding"] == "gzip"


# Conditions


def test_google_is_seen_to_keep_conditions_and_a_careless_imitation_is_not(
    gcs_server: GcsServer, gcs_blobs: ObjectStore
) -> None:
    gcs_blobs.create("mark", b"as it is")
    require_conditional_writes(gcs_blobs, "mark")
    gcs_server.gcs.break_down(ignore_conditions=True)
    with pytest.raises(UnconditionalStoreError):
        require_conditional_writes(gcs_blobs, "mark")
    assert gcs_blobs.read("mark").data == b"as it is"


def test_an_imitation_that_keeps_only_creations_apart_is_refused(canned: Canned) -> None:
    def reply(head: bytes) -> bytes:
        if head.startswith(b"GET"):
            return FULL_ANSWER
        return refusal(412, "PreconditionFailed") if b"match: 0\r\n" in head else FULL_ANSWER

    server = canned(reply)
    with pytest.raises(UnconditionalStoreError, match="If-Match"):
        require_conditional_writes(gcs_store(server.address, "blobs"), "mark")
    stale = server.heads[-1]
    assert b"x-goog-if-generation-match: 12\r\n" in stale  # of a form that Google takes


# Refusals


def test_a_google_bucket_that_vanished_is_no_empty_store(
    gcs_server: GcsServer, gcs_bucket: str, gcs_blobs: ObjectStore
) -> None:
    gcs_blobs.create("a", b"1")
    read = gcs_blobs.read("a")
    gcs_server.gcs.delete_bucket(gcs_bucket)
    for call in (
        gcs_blobs.check,
        lambda: gcs_blobs.read("a"),
        lambda: gcs_blobs.read_range("a", 0, 1),
        lambda: gcs_blobs.create("b", b"1"),
        lambda: gcs_blobs.replace("a", b"2", read),
        lambda: gcs_blobs.delete("a"),
        lambda: list(gcs_blobs.names()),
    ):
        with pytest.raises(StoreUnavailableError, match="no such bucket"):
            call()


@pytest.mark.parametrize("verb", ["get", "create", "delete", "list"])
def test_a_denied_google_bucket_names_the_permission(
    gcs_server: GcsServer, gcs_blobs: ObjectStore, verb: str
) -> None:
    gcs_blobs.create("a", b"1")
    read = gcs_blobs.read("a")
    calls: dict[str, list[Callable[[], object]]] = {
        "get": [lambda: gcs_blobs.read("a"), lambda: gcs_blobs.read_range("a", 0, 1)],
        "create": [lambda: gcs_blobs.create("b", b""), lambda: gcs_blobs.replace("a", b"", read)],
        "delete": [lambda: gcs_blobs.delete("a"), lambda: gcs_blobs.replace("a", b"", read)],
        "list": [
            gcs_blobs.check,
            lambda: list(gcs_blobs.names()),
            lambda: gcs_blobs.read("nothing"),
        ],
    }
    gcs_server.gcs.break_down(deny=[f"storage.objects.{verb}"])
    for call in calls[verb]:
        with pytest.raises(StoreUnavailableError, match=rf"denied.*storage\.objects\.{verb}"):
            call()
    gcs_server.gcs.break_down(deny=[])
    assert gcs_blobs.read("a").data == b"1"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(404, ""), "404"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        (refusal(401, "AuthenticationRequired"), "401"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "."),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi", "."),
    ],
)
def test_what_is_no_answer_of_google_is_never_taken_for_an_absent_object(
    canned: Canned, answer: bytes, sentence: str
) -> None:
    store = gcs_store(canned(lambda _head: answer).address, "blobs")
    for call in (
        lambda: store.read("a"),
        lambda: store.read_range("a", 0, 1),
        lambda: store.create("a", b"1"),
        lambda: store.replace("a", b"2", Stored(b"1", "17")),
        store.check,
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match=sentence):
            call()


def test_an_object_of_google_over_the_limit_is_not_downloaded(canned: Canned) -> None:
    endless = FULL_ANSWER.replace(b"length: 5", b"length: 5000000000000")
    server = canned(lambda _head: endless)  # the rest never comes: to wait for it would hang
    with pytest.raises(TooLargeError):
        gcs_store(server.address, "blobs").read("a", limit=1000)
    assert len(server.heads) == 1


def test_metadata_that_cannot_be_read_leaves_the_object_alone(
    canned: Canned,
) -> None:
    odd = FULL_ANSWER.replace(b"etag", b"x-goog-meta-note: caf\xc3\xa9\r\netag")
    server = canned(lambda _head: odd)
    with pytest.raises(StoreUnavailableError, match="x-goog-meta-note"):
        gcs_store(server.address, "blobs").read("a")


# What the environment says


def test_the_environment_chooses_neither_endpoint_nor_signing_of_google(
    gcs_server: GcsServer,
    gcs_bucket: str,
    canned: Canned,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    trap = canned(lambda _head: None)
    for name in ("BASE_URL", "PROXY_URL"):
        monkeypatch.setenv(f"GOOGLE_{name}", trap.address)
    for name in ("ALLOW_HTTP", "ALLOW_INVALID_CERTIFICATES", "SKIP_SIGNATURE", "HTTP2_ONLY"):
        monkeypatch.setenv(f"GOOGLE_{name}", "true")
    monkeypatch.setenv("GOOGLE_BUCKET", "other")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "stolen")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", trap.address)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    store = gcs_store(gcs_server.address, gcs_bucket)  # it refuses what has no bearer token
    store.check()
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))
    store.delete("a")
    assert list(store.names()) == []
    assert trap.heads == []


def test_requests_to_google_bear_the_token_whatever_the_environment_says(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "stolen")
    server = canned(lambda _head: FULL_ANSWER)
    gcs_store(server.address, "blobs").read("a")
    assert b"\r\nauthorization: Bearer anonymous\r\n" in server.heads[0]


@pytest.mark.parametrize(
    "name", ["SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_service_account_key"]
)
@pytest.mark.usefixtures("no_cloud_settings")
def test_a_service_account_in_a_variable_of_the_clients_own_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/run/account.json")
    with pytest.raises(ValueError, match=rf"{name} is set.*GOOGLE_APPLICATION_CREDENTIALS"):
        open_gcs("blobs")


@pytest.mark.usefixtures("no_cloud_settings")
def test_google_is_asked_at_its_own_endpoint_over_tls() -> None:
    client: Any = open_gcs("blobs")._client
    assert client.config["base_url"] == "https://storage.googleapis.com"
    assert client.client_options["allow_http"] == "false"
    assert client.retry_config["max_retries"] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"bucket": "../x"}, "bucket"),
        ({"bucket": "a..b"}, "bucket"),
        ({"endpoint": "http://127.0.0.1:1"}, "allow_http"),
        ({"endpoint": "ftp://127.0.0.1"}, "endpoint"),
        ({"endpoint": "https://user:secret@host"}, "endpoint"),
        ({"endpoint": "https://host/path"}, "endpoint"),
        ({"prefix": "a/../b"}, "prefix"),
    ],
)
@pytest.mark.usefixtures("no_cloud_settings")
def test_what_is_no_address_of_a_google_bucket_is_refused(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        open_gcs(**{"bucket": "blobs", **arguments})
    assert "secret" not in str(caught.value)


# Credentials


@pytest.mark.usefixtures("no_cloud_settings")
def test_opening_a_google_bucket_needs_no_credentials_and_using_it_does(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(**_: object) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr(google.auth, "default", none)
    server = canned(lambda _head: None)
    store = open_gcs("blobs", endpoint=server.address, allow_http=True)
    for call in (
        store.check,
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match="Google credentials: Your default"):
            call()
    with pytest.raises(StoreUnavailableError, match="nothing was changed"):
        store.create("a", b"")
    assert server.heads == []


@pytest.mark.usefixtures("no_cloud_settings")
def test_a_google_token_is_renewed_when_it_is_old_and_a_refused_renewal_is_told(
    gcs_server: GcsServer, gcs_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Renewed(Credentials):
        renewals = 0

        def refresh(self, _request: object) -> None:
            self.renewals += 1
            if self.renewals > 1:
                raise RefreshError("the account is disabled")
            self.token = "renewed"

    found = Renewed(None)
    monkeypatch.setattr(google.auth, "default", lambda **_: (found, "project"))
    store = open_gcs(gcs_bucket, endpoint=gcs_server.address, allow_http=True)
    store.create("a", b"1")
    store.check()
    assert found.renewals == 1
    found.token = None
    with pytest.raises(StoreUnavailableError, match="the account is disabled"):
        store.check()


def test_the_table_opens_an_emulator_of_google_that_wants_no_credentials(
    gcs_server: GcsServer, gcs_bucket: str
) -> None:
    table = StoreConfig(
        f"gs://{gcs_bucket}/tenant%207", endpoint=gcs_server.address, anonymous=True
    )
    check_store(table)
    store = open_store(table)
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))
    assert list(store.names()) == ["a"]
    assert list(gcs_store(gcs_server.address, gcs_bucket).names()) == ["tenant 7/a"]


FORKS = """
import os, sys
from keywrap.gcsstore import Anonymous, open_gcs
from keywrap.stores import StoreUnavailableError

bucket, address = sys.argv[1:]
store = open_gcs(bucket, endpoint=address, allow_http=True, tokens=Anonymous())

def in_child(call):
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        except StoreUnavailableError:
            os._exit(7)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert in_child(lambda: (store.create("a", b""), list(store.names()))) == 0
store.create("b", b"")
assert in_child(lambda: store.read("a")) == 7
assert in_child(store.check) == 7
"""


def test_a_fork_of_a_process_that_used_a_google_bucket_is_refused_and_does_not_hang(
    gcs_server: GcsServer, gcs_bucket: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, gcs_bucket, gcs_server.address],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
