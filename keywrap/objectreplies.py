"""What a failed request to an object store came to, as obstore's exceptions tell it.

obstore 0.12 (object_store 0.14) names no status, and one exception has several causes: a write
under `If-None-Match` raises `AlreadyExistsError` for 412 (there is one) as for 409 (a race in
flight, nothing written); one under `If-Match` raises `PreconditionError` for 412 (changed) as for
404 (no such key, or no such bucket). So the message is read, which has the status and the body.

Codes: API reference of Amazon S3, "Error responses"; REST API of Azure Storage, "Blob Storage error
codes"; XML API of Google Cloud Storage, "HTTP status and error codes".
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

_CREDENTIALS = re.compile(
    "The operation lacked valid authentication credentials for path "
    "External (?:AWS|Azure|GCP) credential provider: "
)
_ANSWER = re.compile(
    r"(?:Generic \w+ error: )?Error performing [A-Z]+ \S+ in \S+ - "
    r"Server returned non-2xx status code: (\d{3})[^:]*: (.*)",
    re.DOTALL,
)
_REDIRECT = (
    "Received redirect without LOCATION, this normally indicates an incorrectly configured region"
)
_TOO_FAR = re.compile(
    r"Generic \w+ error: (?:Wanted range starting at \d+, but object was only \d+ bytes long"
    r'|Failed to parse value for CONTENT_RANGE header: "bytes 0--1/0")'
)
_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_MISSING = frozenset({"NoSuchKey", "BlobNotFound"})
_HELD = frozenset({"BlobArchived", "BlobImmutableDueToPolicy", "ContainerBeingDeleted"})
"""What Azure answers 409 for a long time, and is no race."""

_SYSTEM_MESSAGE = re.compile(r'^ *message: "([^"]{1,200})"', re.MULTILINE)


class Kind(Enum):
    """What is known of the request."""

    MISSING = auto()  # there is no object of that name
    CHANGED = auto()  # the condition did not hold; nothing was written
    CONFLICT = auto()  # 409: another write was in flight; nothing was written
    RANGE = auto()  # 416: the object has no such bytes
    REFUSED = auto()  # the store refuses; nothing was written, and the next try fares no better
    UNKNOWN = auto()  # no answer, or one of the store's own failure: it may be done or not


@dataclass(frozen=True, slots=True)
class Reply:
    """What a failed request came to.

    Attributes:
        kind: what is known.
        status: the HTTP status; 0 where there was none.
        code: the store's own error code, such as `NoSuchBucket`; may be empty.
        text: what else is known, in a few words; never a header of the request.
    """

    kind: Kind
    status: int = 0
    code: str = ""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.code}".strip() if self.status else self.text


def reply_of(error: Exception, key: str) -> Reply:
    """Read an exception of obstore.

    Args:
        error: as obstore raised it.
        key: the object's key, which messages repeat as it is: it is taken out, since whoever
            names an object could otherwise put an answer into its name.
    """
    message, _, details = str(error).partition("\n\nDebug source:")
    said = _without_key(message, key)
    answer = _ANSWER.match(said)
    if answer is None:
        if found := _CREDENTIALS.match(said):
            return Reply(Kind.REFUSED, text=_first_line(said[found.end() :]))
        if _TOO_FAR.fullmatch(said):  # Azurite gives no bytes where Azure gives a 416
            return Reply(Kind.RANGE, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        if said.endswith(_REDIRECT):
            return Reply(Kind.REFUSED, HTTPStatus.MOVED_PERMANENTLY, "PermanentRedirect")
        cause = _SYSTEM_MESSAGE.search(details)
        text = _first_line(said.rpartition(" - ")[2])
        return Reply(Kind.UNKNOWN, text=f"{text} ({cause.group(1)})" if cause else text)
    status = int(answer.group(1))
    found = _CODE.search(answer.group(2))
    code = found.group(1) if found else ""
    return Reply(kind_of(status, code), status, code)


def kind_of(status: int, code: str) -> Kind:
    """Tell what an answer with an error status means.

    A 404 without a word for the object may be a missing bucket, or a proxy's: never a missing
    object, since that would count a blob as gone.
    """
    if status == HTTPStatus.NOT_FOUND:
        return Kind.MISSING if code in _MISSING else Kind.REFUSED
    if status == HTTPStatus.PRECONDITION_FAILED:
        # Azure: somebody holds a lease on the blob. The condition was not looked at.
        return Kind.REFUSED if code.startswith("Lease") else Kind.CHANGED
    if status == HTTPStatus.CONFLICT:
        return _conflict(code)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return Kind.RANGE
    unanswered = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
    # Both come with 400; the second from a bucket whose objects are encrypted by KMS.
    unanswered = unanswered or code in {"RequestTimeout", "KMS.ThrottlingException"}
    return Kind.UNKNOWN if unanswered else Kind.REFUSED


def _conflict(code: str) -> Kind:
    if code == "BlobAlreadyExists":  # Azure's answer to If-None-Match: *
        return Kind.CHANGED
    return Kind.REFUSED if code in _HELD else Kind.CONFLICT


def _without_key(message: str, key: str) -> str:
    heads = (
        f"Object at location {key} already exists: ",
        f"Object at location {key} not found: ",
        f"Request precondition failure for path {key}: ",
        f"The operation lacked the necessary privileges to complete for path {key}: ",
        f"The operation lacked valid authentication credentials for path {key}: ",
    )
    for _ in range(2):  # a 412 to a creation has two heads
        for head in heads:
            message = message.removeprefix(head)
    return message


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]
