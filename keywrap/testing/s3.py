"""An S3 in memory that keeps S3's rules, and breaks its word only when asked to.

What it answers follows the API reference of Amazon S3 (PutObject, GetObject, ListObjectsV2, "Error
responses") and the user guide's "How to prevent object overwrites with conditional writes". What
it does not know is refused (501 NotImplemented), never answered by a guess.
"""

import hashlib
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from keywrap.layout import RESERVED
from keywrap.testing.buckets import BucketFaults, MemoryBuckets, http_date
from keywrap.testing.s3_listing import Page, list_page

MAX_KEY_BYTES = 1024
"""S3 User Guide, "Naming Amazon S3 objects"."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEPT_HEADERS = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-language",
        "content-disposition",
        "cache-control",
        "x-amz-storage-class",
    }
)
_LIST_PARAMETERS = frozenset(
    {
        "list-type",
        "prefix",
        "delimiter",
        "start-after",
        "continuation-token",
        "max-keys",
        "encoding-type",
        "x-id",
    }
)
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_XML_TYPE = {"content-type": "application/xml"}


class Answer(NamedTuple):
    """An HTTP response.

    Attributes:
        status: the HTTP status; 0: there is no answer, the connection is to be closed.
        headers: names in lower case; `content-length` is the sender's business.
        body: the body, also for HEAD, whose sender leaves it out and keeps its length.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


NO_ANSWER = Answer(0, {}, b"")


class S3Object(NamedTuple):
    """An object as it is kept.

    Attributes:
        data: its content.
        etag: the MD5 of its content in double quotes, as S3 gives for plain uploads.
        headers: content headers and user metadata that came with it, names in lower case.
        modified: when it was written, in seconds since 1970.
    """

    data: bytes
    etag: str
    headers: Mapping[str, str]
    modified: float


class S3Error(Exception):
    """An error answer of S3: status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(slots=True)
class Faults(BucketFaults):
    """What goes wrong next.

    Attributes:
        conflicts: conditional writes answered 409 ConditionalRequestConflict, not made.
        slow_down: conditional writes answered 503 SlowDown, not made.
    """

    conflicts: int = 0
    slow_down: int = 0


class MemoryS3(MemoryBuckets[S3Object, Faults]):
    """S3 with path-style requests; `operations` have their names in the API.

    Args:
        buckets: those that there are.
        seed: of the random that loses replies.
    """

    def __init__(self, *buckets: str, seed: int = 0) -> None:
        super().__init__(buckets, seed, Faults())
        self._kept: dict[str, dict[str, S3Object]] = {}

    def snapshot(self) -> None:
        """Keep the objects of all buckets as they are now, for `restore`."""
        with self._lock:
            self._kept = {bucket: dict(objects) for bucket, objects in self._buckets.items()}

    def restore(self, keys: Collection[str]) -> None:
        """Put these objects back as they were, and remove the others but those in `.rewrap/`."""
        with self._lock:
            for bucket, objects in self._buckets.items():
                kept = self._kept.get(bucket, {})
                own = {key: found for key, found in objects.items() if key.startswith(RESERVED)}
                back = {key: kept[key] for key in keys if key in kept}
                self._buckets[bucket] = own | back
            self._sorted.clear()

    def handle(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Answer one request.

        Args:
            method: of HTTP.
            path: `/bucket` or `/bucket/key`, percent-encoded.
            query: what follows the `?`, undecoded.
            headers: names in lower case.
            body: the whole body.
        """
        try:
            bucket, slash, key = path[1:].partition("/")
            with self._lock:
                if slash and key:
                    return self._object(method, bucket, key, query, headers, body)
                return self._bucket(method, bucket, query, headers)
        except S3Error as error:
            return _error_answer(error, path)

    def _bucket(self, method: str, bucket: str, query: str, headers: Mapping[str, str]) -> Answer:
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if method == "HEAD" and not asked:
            self._begin("HeadBucket", bucket, headers)
            return Answer(200, {}, b"")
        if (
            method == "GET"
            and asked.get("list-type") == "2"
            and not asked.keys() - _LIST_PARAMETERS
        ):
            objects = self._begin("ListObjectsV2", bucket, headers)
            return self._list(bucket, objects, asked)
        raise S3Error(501, "NotImplemented", f"{method} of a bucket with {query!r}")

    def _object(
        self,
        method: str,
        bucket: str,
        key: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        if query and not query.startswith("x-id="):
            raise S3Error(501, "NotImplemented", f"{method} of an object with {query!r}")
        if "%" in key:
            try:
                key = unquote(key, errors="strict")
            except UnicodeDecodeError:
                raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.") from None
        if len(key.encode()) > MAX_KEY_BYTES:
            raise S3Error(400, "KeyTooLongError", "Your key is too long")
        if method == "GET":
            return self._get(self._begin("GetObject", bucket, headers), key, headers)
        if method == "PUT":
            return self._put(bucket, key, headers, body)
        if method == "HEAD":
            return self._get(self._begin("HeadObject", bucket, headers), key, {})
        if method == "DELETE":
            objects = self._begin("DeleteObject", bucket, headers)
            self._check_conditions(objects.get(key), headers.get("if-match"), None)
            if objects.pop(key, None):
                self._sorted.pop(bucket, None)
            return Answer(204, {}, b"")
        raise S3Error(501, "NotImplemented", f"{method} of an object")

    def _begin(
        self, operation: str, bucket: str, headers: Mapping[str, str]
    ) -> dict[str, S3Object]:
        self.operations[operation] += 1
        if not headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
            raise S3Error(403, "AccessDenied", "Access Denied")
        objects = self._buckets.get(bucket)
        if objects is None:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist")
        if operation in self.faults.deny:
            raise S3Error(403, "AccessDenied", "Access Denied")
        if operation not in {"PutObject", "DeleteObject"} and self.faults.takes("slow_reads"):
            raise S3Error(503, "SlowDown", "Please reduce your request rate.")
        return objects

    def _no_such_key(self) -> S3Error:
        if "ListObjectsV2" in self.faults.deny:
            return S3Error(403, "AccessDenied", "Access Denied")
        return S3Error(404, "NoSuchKey", "The specified key does not exist.")

    def _get(self, objects: Mapping[str, S3Object], key: str, headers: Mapping[str, str]) -> Answer:
        found = objects.get(key)
        if found is None:
            raise self._no_such_key()
        answered = {
            "etag": found.etag,
            "last-modified": http_date(int(found.modified)),
            "accept-ranges": "bytes",
            **found.headers,
        }
        asked = _RANGE.fullmatch(headers.get("range", ""))
        if asked is None or asked.group(0) == "bytes=-":
            return Answer(200, answered, found.data)
        size = len(found.data)
        first, last = asked.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end:
            raise S3Error(416, "InvalidRange", "The requested range is not satisfiable")
        answered["content-range"] = f"bytes {start}-{end}/{size}"
        return Answer(206, answered, found.data[start : end + 1])

    def _put(self, bucket: str, key: str, headers: Mapping[str, str], body: bytes) -> Answer:
        objects = self._begin("PutObject", bucket, headers)
        _check_payload(headers, body)
        if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
        conditional = if_match is not None or if_none_match is not None
        if conditional:
            self._refuse_by_fault()
            if self.faults.takes("lose_requests"):
                return NO_ANSWER
            self._check_conditions(objects.get(key), if_match, if_none_match)
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        if key not in objects:
            self._sorted.pop(bucket, None)
        objects[key] = S3Object(bytes(body), etag, _kept(headers), time.time())
        self.writes += 1
        if conditional:
            if self.faults.takes("errors"):
                raise S3Error(500, "InternalError", "We encountered an internal error.")
            if self._loses_reply():
                return NO_ANSWER
        return Answer(200, {"etag": etag}, b"")

    def _refuse_by_fault(self) -> None:
        if self.faults.takes("conflicts"):
            raise S3Error(
                409,
                "ConditionalRequestConflict",
                "The conditional request cannot succeed due to a conflicting operation against "
                "this resource.",
            )
        if self.faults.takes("slow_down"):
            raise S3Error(503, "SlowDown", "Please reduce your request rate.")

    def _check_conditions(
        self, found: S3Object | None, if_match: str | None, if_none_match: str | None
    ) -> None:
        if if_none_match is not None:
            if if_none_match != "*":
                raise S3Error(501, "NotImplemented", "If-None-Match of a write takes * only")
            if found is not None:
                raise _precondition_failed()
        if if_match is not None:
            if found is None:
                raise self._no_such_key()
            if if_match not in {found.etag, found.etag.strip('"')}:
                raise _precondition_failed()

    def _list(
        self, bucket: str, objects: Mapping[str, S3Object], asked: Mapping[str, str]
    ) -> Answer:
        try:
            page = Page.asked(bucket, asked)
        except ValueError as error:
            raise S3Error(400, "InvalidArgument", str(error)) from None
        return Answer(
            200, _XML_TYPE, (_XML + list_page(page, self._names(bucket), objects)).encode()
        )


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name in _KEPT_HEADERS or name.startswith("x-amz-meta-")
    }


def _check_payload(headers: Mapping[str, str], body: bytes) -> None:
    promised = headers.get("x-amz-content-sha256", "")
    if promised.startswith("STREAMING-"):
        raise S3Error(501, "NotImplemented", "A body in signed chunks")
    if _SHA256.fullmatch(promised) and hashlib.sha256(body).hexdigest() != promised:
        raise S3Error(
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )


def _precondition_failed() -> S3Error:
    return S3Error(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    )


def _error_answer(error: S3Error, path: str) -> Answer:
    body = (
        f"{_XML}<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message>"
        f"<Resource>{escape(path)}</Resource><RequestId>0123456789ABCDEF</RequestId></Error>"
    )
    return Answer(error.status, _XML_TYPE, body.encode())
