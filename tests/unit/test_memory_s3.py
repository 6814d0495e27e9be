import hashlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree as ET

import pytest

from keywrap.testing.s3 import Answer, MemoryS3

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
SIGNED = {"authorization": "AWS4-HMAC-SHA256 Credential=somebody"}


@pytest.fixture
def s3() -> MemoryS3:
    return MemoryS3("blobs")


def put(s3: MemoryS3, key: str, data: bytes, **conditions: str) -> Answer:
    headers = SIGNED | {name.replace("_", "-"): value for name, value in conditions.items()}
    return s3.handle("PUT", f"/blobs/{quote(key)}", "", headers, data)


def get(s3: MemoryS3, key: str, **headers: str) -> Answer:
    return s3.handle("GET", f"/blobs/{quote(key)}", "x-id=GetObject", SIGNED | headers, b"")


def page(s3: MemoryS3, query: str = "") -> ET.Element:
    answer = s3.handle("GET", "/blobs", f"list-type=2&encoding-type=url&{query}", SIGNED, b"")
    assert answer.status == 200, answer.body
    return ET.fromstring(answer.body)  # noqa: S314 - our own words


def texts(answer: ET.Element, entry: str, name: str) -> list[str]:
    found = answer.iterfind(f"{NAMESPACE}{entry}/{NAMESPACE}{name}")
    return [unquote_plus(one.text or "") for one in found]


def code(answer: Answer) -> tuple[int, str | None]:
    return answer.status, ET.fromstring(answer.body).findtext("Code")  # noqa: S314


def test_an_object_comes_back_with_the_md5_of_its_content_as_tag(s3: MemoryS3) -> None:
    data = bytes(range(256))
    tag = f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324 - as S3 makes it
    assert put(s3, "a/ü b+c", data).headers["etag"] == tag
    found = get(s3, "a/ü b+c")
    assert (found.status, found.body, found.headers["etag"]) == (200, data, tag)


def test_content_headers_and_metadata_come_back(s3: MemoryS3) -> None:
    headers = SIGNED | {"content-type": "text/x", "x-amz-meta-owner": "me", "x-amz-date": "now"}
    s3.handle("PUT", "/blobs/a", "", headers, b"")
    found = get(s3, "a").headers
    assert found["content-type"] == "text/x"
    assert found["x-amz-meta-owner"] == "me"
    assert "x-amz-date" not in found


def test_a_conditional_write_needs_just_the_tag_that_is_there(s3: MemoryS3) -> None:
    first = put(s3, "a", b"1").headers["etag"]
    assert code(put(s3, "a", b"2", if_none_match="*")) == (412, "PreconditionFailed")
    second = put(s3, "a", b"2", if_match=first).headers["etag"]
    assert code(put(s3, "a", b"3", if_match=first)) == (412, "PreconditionFailed")
    assert code(put(s3, "b", b"3", if_match=first)) == (404, "NoSuchKey")
    assert code(put(s3, "a", b"3", if_none_match=second)) == (501, "NotImplemented")
    assert get(s3, "a").body == b"2"
    assert put(s3, "a", b"3", if_match=second.strip('"')).status == 200
    assert put(s3, "b", b"1", if_none_match="*").status == 200
    assert s3.writes == 4


def test_of_concurrent_writers_one_wins(s3: MemoryS3) -> None:
    for number in range(50):
        tag = put(s3, "a", b"%d" % number).headers["etag"]
        barrier = Barrier(4)

        def write(
            writer: int, number: int = number, tag: str = tag, barrier: Barrier = barrier
        ) -> int:
            barrier.wait()
            return put(s3, "a", b"%d by %d" % (number, writer), if_match=tag).status

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(write, range(4))) == [200, 412, 412, 412]


def test_ranges_are_those_of_http(s3: MemoryS3) -> None:
    put(s3, "a", b"0123456789")
    put(s3, "empty", b"")
    for asked, body, said in (
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=8-", b"89", "bytes 8-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
    ):
        answer = get(s3, "a", range=asked)
        assert (answer.status, answer.body) == (206, body)
        assert answer.headers["content-range"] == said
    assert code(get(s3, "a", range="bytes=10-")) == (416, "InvalidRange")
    assert code(get(s3, "empty", range="bytes=0-0")) == (416, "InvalidRange")
    assert get(s3, "a", range="nonsense").status == 200


def test_what_is_not_there_says_what_is_missing(s3: MemoryS3) -> None:
    assert code(get(s3, "a")) == (404, "NoSuchKey")
    assert code(s3.handle("GET", "/other/a", "", SIGNED, b"")) == (404, "NoSuchBucket")
    assert code(s3.handle("GET", "/other", "list-type=2", SIGNED, b"")) == (404, "NoSuchBucket")
    assert s3.handle("HEAD", "/blobs", "", SIGNED, b"").status == 200
    assert s3.handle("HEAD", "/other", "", SIGNED, b"").status == 404
    assert s3.handle("DELETE", "/blobs/never", "", SIGNED, b"").status == 204


def test_what_is_deleted_is_gone(s3: MemoryS3) -> None:
    put(s3, "a", b"1")
    assert s3.handle("HEAD", "/blobs/a", "", SIGNED, b"").status == 200
    assert s3.handle("DELETE", "/blobs/a", "", SIGNED, b"").status == 204
    assert code(get(s3, "a")) == (404, "NoSuchKey")
    assert texts(page(s3), "Contents", "Key") == []


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (("GET", "/blobs/a", "acl"), (501, "NotImplemented")),
        (("GET", "/blobs", "versions"), (501, "NotImplemented")),
        (("PUT", "/blobs", ""), (501, "NotImplemented")),
        (("PATCH", "/blobs/a", ""), (501, "NotImplemented")),
        (("PUT", f"/blobs/{'ä' * 513}", ""), (400, "KeyTooLongError")),
        (("PUT", "/blobs/%ff", ""), (400, "InvalidURI")),
        (("GET", "/blobs", "list-type=2&max-keys=x"), (400, "InvalidArgument")),
        (("GET", "/blobs", "list-type=2&encoding-type=b"), (400, "InvalidArgument")),
        (("GET", "/blobs", "list-type=2&continuation-token=%C3%A4"), (400, "InvalidArgument")),
    ],
)
def test_what_it_does_not_know_is_refused(
    s3: MemoryS3, request_line: tuple[str, str, str], answer: tuple[int, str]
) -> None:
    assert code(s3.handle(*request_line, SIGNED, b"")) == answer


def test_unsigned_and_altered_requests_are_refused(s3: MemoryS3) -> None:
    assert code(s3.handle("PUT", "/blobs/a", "", {}, b"")) == (403, "AccessDenied")
    wrong = hashlib.sha256(b"other").hexdigest()
    assert code(put(s3, "a", b"1", x_amz_content_sha256=wrong)) == (
        400,
        "XAmzContentSHA256Mismatch",
    )
    assert s3.writes == 0


def test_a_listing_goes_through_its_pages_in_order(s3: MemoryS3) -> None:
    names = sorted(f"{number % 7}/ü {number:04}\x01" for number in range(2_345))
    for name in names:
        put(s3, name, b"1")
    listed: list[str] = []
    query, sizes = "", []
    while True:
        answer = page(s3, query)
        keys = texts(answer, "Contents", "Key")
        sizes.append(len(keys))
        listed += keys
        if answer.findtext(f"{NAMESPACE}IsTruncated") == "false":
            break
        token = answer.findtext(f"{NAMESPACE}NextContinuationToken") or ""
        query = f"continuation-token={quote(token)}"
    assert listed == names
    assert sizes == [1000, 1000, 345]
    assert texts(page(s3, "start-after=6&max-keys=1"), "Contents", "Key") == [
        min(name for name in names if name > "6")
    ]


def test_a_listing_by_folder_shows_each_folder_once(s3: MemoryS3) -> None:
    for name in ("a", "b/1", "b/2", "b/c/3", "d/4", "e", "f/"):
        put(s3, name, b"")
    whole = page(s3, "delimiter=/")
    assert texts(whole, "Contents", "Key") == ["a", "e"]
    assert texts(whole, "CommonPrefixes", "Prefix") == ["b/", "d/", "f/"]
    inner = page(s3, "delimiter=/&prefix=b/")
    assert texts(inner, "Contents", "Key") == ["b/1", "b/2"]
    assert texts(inner, "CommonPrefixes", "Prefix") == ["b/c/"]
    folders: list[str] = []
    keys: list[str] = []
    query = ""
    while True:
        answer = page(s3, f"delimiter=/&max-keys=1{query}")
        folders += texts(answer, "CommonPrefixes", "Prefix")
        keys += texts(answer, "Contents", "Key")
        if answer.findtext(f"{NAMESPACE}IsTruncated") == "false":
            break
        query = f"&continuation-token={answer.findtext(f'{NAMESPACE}NextContinuationToken')}"
    assert (keys, folders) == (["a", "e"], ["b/", "d/", "f/"])


def test_each_fault_comes_as_often_as_it_was_asked_for(s3: MemoryS3) -> None:
    put(s3, "a", b"0")
    for fault, status, made in (
        ("conflicts", 409, False),
        ("slow_down", 503, False),
        ("errors", 500, True),
        ("lose_requests", 0, False),
        ("lose_replies", 0, True),
    ):
        s3.break_down(**{fault: 2})
        for _ in range(2):
            before, tag = s3.writes, get(s3, "a").headers["etag"]
            assert put(s3, "a", fault.encode(), if_match=tag).status == status
            assert s3.writes - before == made
        tag = get(s3, "a").headers["etag"]
        assert put(s3, "a", b"after", if_match=tag).status == 200
    s3.break_down(slow_reads=1)
    assert code(get(s3, "a")) == (503, "SlowDown")
    assert get(s3, "a").status == 200
    with pytest.raises(ValueError, match="earthquake"):
        s3.break_down(earthquake=1)


def test_replies_are_lost_with_the_same_chance_in_the_same_order() -> None:
    runs = []
    for _ in range(2):
        s3 = MemoryS3("blobs", seed=7)
        s3.break_down(lose_probability=0.5)
        runs.append([put(s3, f"{n}", b"", if_none_match="*").status for n in range(50)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {0, 200}


def test_what_may_not_be_listed_is_not_told_to_be_missing(s3: MemoryS3) -> None:
    s3.break_down(deny=["ListObjectsV2"])
    assert code(get(s3, "a")) == (403, "AccessDenied")


def test_operations_are_counted(s3: MemoryS3) -> None:
    put(s3, "a", b"")
    get(s3, "a")
    get(s3, "b")
    page(s3)
    assert s3.operations == {"PutObject": 1, "GetObject": 2, "ListObjectsV2": 1}
