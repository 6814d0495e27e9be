"""A Google Cloud Storage in memory that keeps its rules, and breaks its word only when asked to.

Objects are asked for by the XML API, as obstore does, and listed by the JSON API, as
`keywrap.gcsbucket` does. What it answers follows Google's reference of both ("Upload an object",
"Download an object", "Objects: list", "HTTP status and error codes") and its guides "Request
preconditions" and "Transcoding of gzip-compressed files". What it does not know is refused (501),
never answered by a guess.
"""

import gzip
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from keywrap.testing.buckets import BucketFaults, MemoryBuckets, http_date
from keywrap.testing.gcs_listing import ListError, listing
from keywrap.testing.http_wire import CLOSED, Request, Response

MAX_KEY_BYTES = 1024
"""Cloud Storage, "About Cloud Storage objects": object names."""

_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_DELETE = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_GENERATION = re.compile(r"0|[1-9][0-9]{0,18}")
_KEPT_HEADERS = frozenset(
    {
        "content-type",
        "content-encoding",
        "content-language",
        "content-disposition",
        "cache-control",
    }
)
_OPERATIONS = {
    "GET": "storage.objects.get",
    "HEAD": "storage.objects.get",
    "PUT": "storage.objects.create",
    "DELETE": "storage.objects.delete",
}


class GcsObject(NamedTuple):
    """An object as it is kept.

    Attributes:
        data: its content.
        generation: new with every write.
        headers: content headers and user metadata that came with it, names in lower case.
        modified: when it was written, in seconds since 1970.
    """

    data: bytes
    generation: int
    headers: Mapping[str, str]
    modified: float


class GcsError(Exception):
    """An error answer: status and code of the XML API, reason of the JSON API."""

    def __init__(self, status: int, code: str, reason: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Faults(BucketFaults):
    """What goes wrong next.

    Attributes:
        too_many: conditional writes answered 429 SlowDown, not made.
        unavailable: conditional writes answered 503 ServiceUnavailable, not made.
        empty_pages: listings answered by a page with no entry that is not the last.
        ignore_conditions: writes are made whatever their condition, as by a careless imitation.
    """

    too_many: int = 0
    unavailable: int = 0
    empty_pages: int = 0
    ignore_conditions: bool = False


class MemoryGcs(MemoryBuckets[GcsObject, Faults]):
    """Cloud Storage behind one address; `operations` are permissions.

    Args:
        buckets: those that there are.
        seed: of the random that loses replies.
    """

    def __init__(self, *buckets: str, seed: int = 0) -> None:
        super().__init__(buckets, seed, Faults())
        self._generation = time.time_ns() // 1000

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        path, _, query = request.target.decode("latin-1").partition("?")
        listed = _LIST.fullmatch(path)
        removed = _DELETE.fullmatch(path) if request.method == "DELETE" else None
        try:
            with self._lock:
                if removed:
                    bucket, key = map(unquote, removed.groups())
                    return self._remove(bucket, key, query, request.headers)
                if listed and request.method == "GET":
                    return self._list(unquote(listed.group(1)), query, request.headers)
                bucket, _, key = path[1:].partition("/")
                return self._object(unquote(bucket), _decoded(key), query, request)
        except GcsError as error:
            return _as_json(error) if listed or removed else _as_xml(error)

    def _object(self, bucket: str, key: str, query: str, request: Request) -> Response:
        permission = _OPERATIONS.get(request.method)
        if permission is None or not key or query:
            raise GcsError(501, "NotImplemented")
        objects = self._begin(permission, bucket, request.headers)
        if request.method == "PUT":
            return self._put(bucket, objects, key, request)
        found = objects.get(key)
        if found is None:
            raise self._absent()
        if request.method == "DELETE":
            del objects[key]
            self._sorted.pop(bucket, None)
            return 204, {}, b""
        return _download(found, request.headers)

    def _remove(self, bucket: str, key: str, query: str, headers: Mapping[str, str]) -> Response:
        """Answer "Objects: delete" of the JSON API, of one generation only."""
        objects = self._begin("storage.objects.delete", bucket, headers)
        asked = dict(parse_qsl(query, errors="strict"))
        if asked.keys() != {"ifGenerationMatch"}:
            raise GcsError(501, "NotImplemented")
        if key not in objects:
            raise self._absent()
        self._check(asked["ifGenerationMatch"], objects[key])
        del objects[key]
        self._sorted.pop(bucket, None)
        return 204, {}, b""

    def _begin(
        self, permission: str, bucket: str, headers: Mapping[str, str]
    ) -> dict[str, GcsObject]:
        self.operations[permission] += 1
        if not headers.get("authorization", "").startswith("Bearer "):
            raise GcsError(401, "AuthenticationRequired", "required")
        objects = self._buckets.get(bucket)
        if objects is None:
            raise GcsError(404, "NoSuchBucket", "notFound")
        if permission in self.faults.deny:
            raise GcsError(403, "AccessDenied", "forbidden")
        if permission in _READS and self.faults.takes("slow_reads"):
            raise GcsError(429, "SlowDown", "rateLimitExceeded")
        return objects

    def _absent(self) -> GcsError:
        if "storage.objects.list" in self.faults.deny:
            return GcsError(403, "AccessDenied", "forbidden")
        return GcsError(404, "NoSuchKey", "notFound")

    def _put(
        self, bucket: str, objects: dict[str, GcsObject], key: str, request: Request
    ) -> Response:
        headers = request.headers
        if "if-match" in headers or "if-none-match" in headers:
            raise GcsError(501, "NotImplemented")
        condition = headers.get("x-goog-if-generation-match")
        if condition is not None:
            if self._is_lost_before():
                return CLOSED
            self._check(condition, objects.get(key))
        if key in objects and "storage.objects.delete" in self.faults.deny:
            raise GcsError(403, "AccessDenied", "forbidden")
        self._sorted.pop(bucket, None)
        self._generation = max(self._generation + 1, time.time_ns() // 1000)
        kept = {n: v for n, v in headers.items() if n in _KEPT_HEADERS or n.startswith(_META)}
        objects[key] = GcsObject(bytes(request.body), self._generation, kept, time.time())
        self.writes += 1
        if condition is not None and self._is_lost_after():
            return CLOSED
        return 200, _tags(objects[key]), b""

    def _is_lost_before(self) -> bool:
        if self.faults.takes("too_many"):
            raise GcsError(429, "SlowDown")
        if self.faults.takes("unavailable"):
            raise GcsError(503, "ServiceUnavailable")
        return self.faults.takes("lose_requests")

    def _is_lost_after(self) -> bool:
        if self.faults.takes("errors"):
            raise GcsError(500, "InternalError")
        return self._loses_reply()

    def _check(self, condition: str, found: GcsObject | None) -> None:
        if not _GENERATION.fullmatch(condition):
            raise GcsError(400, "InvalidArgument")
        if self.faults.ignore_conditions:
            return
        if int(condition) != (0 if found is None else found.generation):
            raise GcsError(412, "PreconditionFailed")

    def _list(self, bucket: str, query: str, headers: Mapping[str, str]) -> Response:
        objects = self._begin("storage.objects.list", bucket, headers)
        asked = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
        names = self._names(bucket)
        empty = self.faults.takes("empty_pages")
        try:
            answer = listing(asked, names, lambda name: len(objects[name].data), empty=empty)
        except ListError:
            raise GcsError(400, "InvalidArgument", "invalid") from None
        return 200, {"content-type": "application/json"}, json.dumps(answer).encode()


_READS = frozenset({"storage.objects.get", "storage.objects.list"})
_META = "x-goog-meta-"


def _download(found: GcsObject, headers: Mapping[str, str]) -> Response:
    answered = {**_tags(found), "last-modified": http_date(int(found.modified))}
    packed = found.headers.get("content-encoding") == "gzip"
    if packed and "gzip" not in headers.get("accept-encoding", ""):
        kept = {n: v for n, v in found.headers.items() if n != "content-encoding"}
        return 200, {**answered, **kept}, gzip.decompress(found.data)  # and no range
    answered |= found.headers
    asked = _RANGE.fullmatch(headers.get("range", ""))
    if asked is None:
        return 200, answered, found.data
    size = len(found.data)
    start = int(asked.group(1))
    end = min(int(asked.group(2) or size), size - 1)
    if start > end:
        raise GcsError(416, "InvalidRange")
    answered["content-range"] = f"bytes {start}-{end}/{size}"
    return 206, answered, found.data[start : end + 1]


def _tags(found: GcsObject) -> dict[str, str]:
    digest = hashlib.md5(found.data, usedforsecurity=False).hexdigest()
    return {
        "etag": f'"{digest}"',
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": "1",
    }


def _decoded(key: str) -> str:
    try:
        name = unquote(key, errors="strict")
    except UnicodeDecodeError:
        raise GcsError(400, "InvalidObjectName") from None
    if len(name.encode()) > MAX_KEY_BYTES or name in {".", ".."} or "\r" in name or "\n" in name:
        raise GcsError(400, "InvalidObjectName")
    return name


def _as_xml(error: GcsError) -> Response:
    body = (
        f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{error.code}</Code>"
        f"<Message>{escape(str(error))}</Message></Error>"
    )
    return error.status, {"content-type": "application/xml; charset=UTF-8"}, body.encode()


def _as_json(error: GcsError) -> Response:
    detail = {"message": str(error), "domain": "global", "reason": error.reason or "backendError"}
    body = {"error": {"code": error.status, "message": str(error), "errors": [detail]}}
    return error.status, {"content-type": "application/json"}, json.dumps(body).encode()
