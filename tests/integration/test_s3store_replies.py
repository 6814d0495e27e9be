"""What the store makes of answers that are lost, late, wrong, or no."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from keywrap.objectretries import ATTEMPTS
from keywrap.objectstore import ObjectStore
from keywrap.s3store import open_s3
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotFoundError,
    Stored,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)
from keywrap.testing.aws_server import AwsServer
from tests.clouds import REGION, CannedServer

Canned = Callable[[Callable[[bytes], bytes | None]], CannedServer]

FULL_ANSWER = (
    b'HTTP/1.1 200 OK\r\netag: "1"\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
    b"content-length: 5\r\n\r\nhello"
)


def opened(address: str, bucket: str = "blobs", timeout_s: float = 30.0) -> ObjectStore:
    return open_s3(bucket, region=REGION, endpoint=address, allow_http=True, timeout_s=timeout_s)


def refusal(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def wait_for_a_write(server: AwsServer, before: int) -> None:
    while server.control()["operations"]["PutObject"] == before:
        time.sleep(0.01)


def writes(server: AwsServer) -> int:
    return int(server.control()["writes"])


# Replies that are lost


def test_a_thousand_lost_replies_make_a_thousand_writes(
    aws_server: AwsServer, s3_store: ObjectStore
) -> None:
    before = writes(aws_server)
    aws_server.control(lose_replies=1000)

    def work(number: int) -> None:
        name = f"blob-{number}"
        s3_store.create(name, b"0")
        for count in range(1, 10):
            s3_store.replace(name, b"%d" % count, s3_store.read(name))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(100)))
    assert writes(aws_server) - before == 1000
    assert {s3_store.read(f"blob-{number}").data for number in range(100)} == {b"9"}


@pytest.mark.parametrize("fault", ["lose_replies", "errors", "lose_requests", "slow_down"])
def test_no_increment_is_lost_or_made_twice(
    aws_server: AwsServer, s3_store: ObjectStore, fault: str
) -> None:
    s3_store.create("counter", b"0")
    stop = threading.Event()
    never_made = {"lose_requests", "slow_down"}

    def break_down() -> None:
        while not stop.wait(0.1):
            aws_server.control(**{fault: 2, "conflicts": 1})

    def increment(_: int) -> int:
        done = 0
        while done < 25:
            read = s3_store.read("counter")
            try:
                s3_store.replace("counter", b"%d" % (int(read.data) + 1), read)
            except ChangedError:
                continue
            except StoreUnavailableError as error:
                # What may have been made is always found out: the server answers reads.
                if fault not in never_made and "nothing was changed" not in str(error):
                    raise
                continue
            done += 1
        return done

    trouble = threading.Thread(target=break_down)
    trouble.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            done = sum(pool.map(increment, range(8)))
    finally:
        stop.set()
        trouble.join()
    assert s3_store.read("counter").data == b"%d" % done


def test_a_lost_reply_never_undoes_the_writer_that_came_after(
    aws_server: AwsServer, s3_store: ObjectStore
) -> None:
    """Two writers on the same objects: whoever was told of success is seen in what came of it."""
    other = s3_store
    aws_server.control(lose_probability=0.3)

    def append(name: str, letter: bytes) -> int:
        done = 0
        for _ in range(30):
            read = other.read(name)
            try:
                other.replace(name, read.data + letter, read)
            except ChangedError:
                continue
            done += 1
        return done

    for name in ("a", "b", "c"):
        s3_store.create(name, b"")
        with ThreadPoolExecutor(4) as pool:
            letters = (b"1", b"2", b"3", b"4")
            told = list(pool.map(append, [name] * 4, letters))
        written = s3_store.read(name).data
        assert [written.count(letter) for letter in letters] == told


def test_equal_bytes_of_another_writer_are_not_taken_for_a_write_whose_reply_was_lost(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    faults = {"lose_requests": 1, "latency_ms": {"get": 1000}}
    before = aws_server.control(**faults)["operations"]["PutObject"]
    other = opened(aws_server.address, s3_bucket)
    failed: list[StoreError] = []

    def write() -> None:
        try:
            s3_store.replace("a", b"2", read)
        except StoreError as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for_a_write(aws_server, before)  # its request is lost, and it is about to read back
    other.replace("tenant/a", b"2", Stored(b"1", read.tag))
    writer.join()
    assert [error.reason_code for error in failed] == [ChangedError.reason_code]


def test_what_was_changed_back_meanwhile_is_not_written_again(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    s3_store.create("a", b"old")
    read = s3_store.read("a")
    other = opened(aws_server.address, s3_bucket)
    faults = {"lose_requests": 1, "latency_ms": {"get": 1000}}
    before = aws_server.control(**faults)["operations"]["PutObject"]
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(s3_store.replace, "a", b"new", read)
        wait_for_a_write(aws_server, before)
        other.replace("tenant/a", b"new", Stored(b"old", read.tag))
        aws_server.control(latency_ms={"get": 0})
        other.replace("tenant/a", b"old", other.read("tenant/a"))
        with pytest.raises(ChangedError):
            writing.result()
    assert s3_store.read("a").data == b"old"


def test_a_lost_reply_to_a_creation_is_found_out(
    aws_server: AwsServer, s3_store: ObjectStore
) -> None:
    aws_server.control(lose_replies=1)
    s3_store.create("a", b"1")
    aws_server.control(lose_requests=2)
    s3_store.create("b", b"1")
    aws_server.control(lose_replies=1)
    with pytest.raises(AlreadyExistsError):
        s3_store.create("a", b"1")
    assert [s3_store.read(name).data for name in ("a", "b")] == [b"1", b"1"]


# Answers that say: try again


@pytest.mark.parametrize("fault", ["conflicts", "slow_down", "errors", "lose_requests"])
def test_a_write_goes_through_after_a_hiccup(
    aws_server: AwsServer, s3_store: ObjectStore, fault: str
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    before = writes(aws_server)
    aws_server.control(**{fault: ATTEMPTS - 1})
    s3_store.replace("a", b"2", read)
    assert s3_store.read("a").data == b"2"
    assert writes(aws_server) == before + 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("conflicts", "nothing was changed"),
        ("slow_down", "asks for fewer requests.*not seen changed"),
        ("lose_requests", "not seen changed"),
    ],
)
def test_a_write_that_never_goes_through_says_so(
    aws_server: AwsServer, s3_store: ObjectStore, fault: str, sentence: str
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    aws_server.control(**{fault: 100})
    with pytest.raises(StoreUnavailableError, match=sentence):
        s3_store.replace("a", b"2", read)
    assert s3_store.read("a").data == b"1"


def test_after_a_conflict_the_other_writer_has_won(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    s3_store.replace("a", b"2", read)
    aws_server.control(conflicts=1)
    with pytest.raises(ChangedError):
        s3_store.replace("a", b"3", read)
    aws_server.control(conflicts=1)
    with pytest.raises(AlreadyExistsError):
        s3_store.create("a", b"3")
    assert opened(aws_server.address, s3_bucket).read("tenant/a").data == b"2"


def test_a_write_whose_outcome_cannot_be_read_says_that_it_is_not_known(
    aws_server: AwsServer, s3_store: ObjectStore
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    aws_server.control(lose_replies=1, slow_reads=ATTEMPTS)
    with pytest.raises(StoreUnavailableError, match="whether it was changed is not known"):
        s3_store.replace("a", b"2", read)
    assert s3_store.read("a").data == b"2"


def test_reads_and_listings_outlast_a_hiccup(aws_server: AwsServer, s3_store: ObjectStore) -> None:
    s3_store.create("a", b"12")
    for call, expected in (
        (lambda: s3_store.read("a").data, b"12"),
        (lambda: s3_store.read_range("a", 1, 1), b"2"),
        (lambda: list(s3_store.names()), ["a"]),
        (s3_store.check, None),
    ):
        aws_server.control(slow_reads=ATTEMPTS - 1)
        assert call() == expected  # type: ignore[operator]  # each a call without arguments
        aws_server.control(slow_reads=100)
        with pytest.raises(StoreUnavailableError, match="fewer requests"):
            call()  # type: ignore[operator]
        aws_server.control(slow_reads=0)


# Answers that say no


def test_a_bucket_that_vanished_is_no_empty_store(
    aws_server: AwsServer, s3_bucket: str, s3_store: ObjectStore
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    aws_server.control(delete_buckets=[s3_bucket])
    for call in (
        s3_store.check,
        lambda: s3_store.read("a"),
        lambda: s3_store.read_range("a", 0, 1),
        lambda: s3_store.create("b", b"1"),
        lambda: s3_store.replace("a", b"2", read),
        lambda: s3_store.delete("a"),
        lambda: list(s3_store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match="no such bucket"):
            call()


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        ("GetObject", "s3:GetObject"),
        ("PutObject", "s3:PutObject"),
        ("DeleteObject", "s3:DeleteObject"),
        ("ListObjectsV2", "s3:ListBucket"),
    ],
)
def test_a_denied_bucket_names_the_permission(
    aws_server: AwsServer, s3_store: ObjectStore, operation: str, permission: str
) -> None:
    s3_store.create("a", b"1")
    read = s3_store.read("a")
    calls: dict[str, list[Callable[[], object]]] = {
        "GetObject": [lambda: s3_store.read("a"), lambda: s3_store.read_range("a", 0, 1)],
        "PutObject": [
            lambda: s3_store.create("b", b""),
            lambda: s3_store.replace("a", b"2", read),
        ],
        "DeleteObject": [lambda: s3_store.delete("a")],
        "ListObjectsV2": [
            s3_store.check,
            lambda: list(s3_store.names()),
            lambda: s3_store.read("nothing"),
        ],
    }
    aws_server.control(deny=[operation])
    for call in calls[operation]:
        with pytest.raises(StoreUnavailableError, match=permission):
            call()


@pytest.mark.usefixtures("aws_credentials")
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(404, ""), "404"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "404"),
        (refusal(301, "PermanentRedirect"), "another region"),
        (refusal(400, "AuthorizationHeaderMalformed"), "another region"),
        (refusal(400, "ExpiredToken"), "credentials have expired"),
        (refusal(403, "SignatureDoesNotMatch"), "secret access key"),
        (refusal(403, "RequestTimeTooSkewed"), "clock"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi", "."),
    ],
)
def test_what_is_no_answer_about_an_object_is_never_taken_for_its_absence(
    canned: Canned, answer: bytes, sentence: str
) -> None:
    store = opened(canned(lambda _head: answer).address)
    for call in (
        lambda: store.read("a"),
        lambda: store.read_range("a", 0, 1),
        lambda: store.create("a", b"1"),
        lambda: store.replace("a", b"2", Stored(b"1", '"1"')),
        store.check,
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError, match=sentence):
            call()


@pytest.mark.usefixtures("aws_credentials")
@pytest.mark.parametrize(
    "name",
    [
        (
            "a already exists: Error performing PUT http://x in 1ms - "
            "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchKey</Code>"
        ),
        "Generic S3 error: Error performing GET http:",
        "External AWS credential provider: ",
    ],
)
def test_a_name_cannot_put_words_into_the_answer(canned: Canned, name: str) -> None:
    name = name.replace("//", "/ /")
    store = opened(canned(lambda _head: refusal(403, "AccessDenied")).address)
    with pytest.raises(StoreUnavailableError, match="permission is denied"):
        store.read(name)
    lost = opened(canned(lambda _head: refusal(412, "PreconditionFailed")).address)
    with pytest.raises(ChangedError):
        lost.replace(name, b"2", Stored(b"1", '"1"'))
    with pytest.raises(AlreadyExistsError):
        lost.create(name, b"2")
    absent = opened(canned(lambda _head: refusal(404, "NoSuchKey")).address)
    with pytest.raises(NotFoundError):
        absent.read(name)


@pytest.mark.usefixtures("aws_credentials")
def test_a_first_refusal_is_final_and_asked_for_once(canned: Canned) -> None:
    for status, code, kind in (
        (412, "PreconditionFailed", ChangedError),
        (404, "NoSuchKey", ChangedError),
        (403, "AccessDenied", StoreUnavailableError),
    ):
        server = canned(lambda _head, status=status, code=code: refusal(status, code))
        with pytest.raises(kind):
            opened(server.address).replace("a", b"2", Stored(b"1", '"1"'))
        assert len(server.heads) == 1


@pytest.mark.usefixtures("aws_credentials")
def test_every_write_is_conditional(canned: Canned) -> None:
    server = canned(lambda head: None if head.startswith(b"PUT") else FULL_ANSWER)
    store = opened(server.address)
    with pytest.raises(StoreUnavailableError):
        store.replace("a", b"2", Stored(b"hello", '"1"'))
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"2")
    puts = [head for head in server.heads if head.startswith(b"PUT")]
    assert len(puts) == ATTEMPTS + 1
    assert all(b'\r\nif-match: "1"\r\n' in head for head in puts[:-1])
    assert b"\r\nif-none-match: *\r\n" in puts[-1]


# Servers that are no use


@pytest.mark.usefixtures("aws_credentials")
def test_a_refused_connection_is_a_store_that_is_away(canned: Canned) -> None:
    server = canned(lambda _head: FULL_ANSWER)
    store = opened(server.address)
    server.stop()
    for call in (
        store.check,
        lambda: store.read("a"),
        lambda: store.create("a", b"1"),
        lambda: store.delete("a"),
        lambda: list(store.names()),
    ):
        with pytest.raises(StoreUnavailableError):
            call()
    with pytest.raises(StoreUnavailableError, match="Connection refused"):
        store.read("a")


@pytest.mark.usefixtures("aws_credentials")
def test_a_body_that_breaks_off_is_no_object(canned: Canned) -> None:
    def cut(_head: bytes) -> bytes:
        return FULL_ANSWER.replace(b"length: 5", b"length: 500")

    store = opened(canned(cut).address, timeout_s=0.3)
    with pytest.raises(StoreUnavailableError):
        store.read("a")


@pytest.mark.usefixtures("aws_credentials")
def test_an_object_without_a_tag_cannot_be_replaced_later_and_is_refused(canned: Canned) -> None:
    server = canned(lambda _head: FULL_ANSWER.replace(b"etag", b"x-tag"))
    with pytest.raises(StoreUnavailableError, match="ETag"):
        opened(server.address).read("a")


@pytest.mark.usefixtures("aws_credentials")
def test_what_is_over_the_limit_is_not_downloaded(canned: Canned) -> None:
    endless = FULL_ANSWER.replace(b"length: 5", b"length: 5000000000000")
    server = canned(lambda _head: endless)  # the rest never comes: to wait for it would hang
    with pytest.raises(TooLargeError):
        opened(server.address).read("a", limit=1000)
    assert len(server.heads) == 1


@pytest.mark.usefixtures("aws_credentials")
def test_a_silent_server_is_given_up_in_time(canned: Canned) -> None:
    silence = threading.Event()

    def wait(_head: bytes) -> None:
        silence.wait(20)

    store = opened(canned(wait).address, timeout_s=0.2)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="not known"):
        store.replace("a", b"2", Stored(b"1", '"1"'))
    silence.set()
    assert time.monotonic() - begun < 10


@pytest.mark.usefixtures("aws_credentials")
def test_a_listing_without_end_is_refused(canned: Canned) -> None:
    body = (
        b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<IsTruncated>true</IsTruncated></ListBucketResult>"
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    with pytest.raises(StoreUnavailableError, match="not the last"):
        list(opened(canned(lambda _head: head + body).address).names())
