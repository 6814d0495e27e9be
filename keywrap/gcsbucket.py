"""What of Google Cloud Storage goes past obstore: listing, and why a bucket refuses.

obstore's listing hides names that are no path of their own (`a//b`, a control character). So the
pages are asked for here, as JSON, which carries every name. JSON API of Cloud Storage: "Objects:
list", "HTTP status and error codes"; XML API: the same, for what obstore asks.
"""

from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import quote

import msgspec

from keywrap.objectbucket import Operation, explained
from keywrap.objectlisting import Page, list_keys
from keywrap.objectreplies import Kind, Reply
from keywrap.objectstore import LISTING_THREADS
from keywrap.stores import StoreUnavailableError

try:
    import requests

    from keywrap.objectrequests import ObjectRequests, Sign
except ImportError as error:
    raise ImportError("a store in Google Cloud needs: pip install 'keywrap[gs]'") from error

PAGE = 1000
"""The most entries of a page that Google gives."""

_EMPTY_PAGES = 1000
"""So many pages without an entry in sequence are no answer: each may hide what was deleted."""

_ROLE = "the role Storage Object User, or"
_PERMISSIONS: dict[Operation, str] = {
    "read": f"{_ROLE} storage.objects.get, and storage.objects.list to see what is absent",
    "write": f"{_ROLE} storage.objects.create, storage.objects.get, and to replace an object "
    "storage.objects.delete",
    "delete": f"{_ROLE} storage.objects.delete",
    "list": f"{_ROLE} storage.objects.list",
}

_REFUSALS = {
    "NoSuchBucket": "there is no such bucket",
    "notFound": "there is no such bucket",
    "InvalidBucketName": "there is no such bucket",
    "AuthenticationRequired": "the credentials are not valid, or have expired",
    "InvalidCredentials": "the credentials are not valid, or have expired",
    "authError": "the credentials are not valid, or have expired",
    "required": "the credentials are not valid, or have expired",
    "UserProjectMissing": "the bucket bills whoever asks, which is not supported",
    "userProjectMissing": "the bucket bills whoever asks, which is not supported",
    "AccountProblem": "the project's billing account is closed or disabled",
    "accountDisabled": "the project's billing account is closed or disabled",
    "RetentionPolicyNotMet": "a retention policy forbids to change the object",
    "ObjectUnderActiveHold": "a hold forbids to change the object",
    "SlowDown": "Google asks for fewer requests",
    "rateLimitExceeded": "Google asks for fewer requests",
    "userRateLimitExceeded": "Google asks for fewer requests",
}


class GcsBucket:
    """A bucket as `keywrap.objectbucket.Bucket` wants it; connects to nothing when it is made.

    Args:
        name: the bucket's name.
        service: where Cloud Storage is reached, without a slash at the end.
        sign: signs a request.
        timeout_s: of one request, in seconds.
    """

    def __init__(self, name: str, *, service: str, sign: Sign, timeout_s: float) -> None:
        self._name = name
        self._url = f"{service}/storage/v1/b/{quote(name, safe='')}/o"
        self._requests = ObjectRequests(sign, _code, self.explain, timeout_s)

    def check(self, prefix: str) -> None:
        """Make sure that the bucket can be listed.

        Raises:
            StoreUnavailableError: it is away, denied or not there; the message says which.
        """
        self._list({"prefix": prefix, "maxResults": "1"})

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every name that starts with `prefix`; see `keywrap.objectlisting.list_keys`."""
        return list_keys(self.page, prefix, LISTING_THREADS)

    def page(self, prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001
        """List a page of up to 1,000 keys and folders that come after a key.

        Raises:
            StoreUnavailableError: the bucket did not answer, or not with a page.
        """
        asked = {"prefix": prefix, "delimiter": "/" if by_folder else "", "startOffset": after}
        asked |= {"maxResults": str(PAGE), "pageToken": ""}
        for _ in range(_EMPTY_PAGES):
            page, asked["pageToken"] = self._page(asked, after)
            if page.keys or page.folders or not page.truncated:
                return page
        raise self._strange("pages without an entry that are not the last")

    def remove(self, key: str, tag: str) -> Reply | None:
        """Delete an object of this generation; see `keywrap.objectbucket.Bucket.remove`.

        JSON API of Cloud Storage, "Objects: delete", `ifGenerationMatch`.
        """
        url = f"{self._url}/{quote(key, safe='')}?ifGenerationMatch={tag}"
        reply = self._requests.remove(url, {})
        if reply is not None and reply.status == HTTPStatus.NOT_FOUND:
            # Object or bucket: this API calls both `notFound`. Whoever looks again is told.
            return Reply(Kind.MISSING, reply.status, reply.code)
        return reply

    def explain(self, reply: Reply, operation: Operation) -> str:
        """Say why the bucket refused."""
        place = f"Google Cloud Storage bucket {self._name!r}"
        return explained(place, reply, _REFUSALS, _PERMISSIONS[operation])

    def _page(self, asked: dict[str, str], after: str) -> tuple[Page, str]:
        answer = self._list(asked)
        # startOffset is the first name that is listed, not the last that is not.
        items = [item for item in answer.items if item.name != after]
        markers = {item.name for item in items if item.size == "0" and item.name[-1:] == "/"}
        token = answer.next_page_token
        return Page([item.name for item in items], answer.prefixes, bool(token), markers), token

    def _list(self, asked: dict[str, str]) -> "_Listing":
        query = {name: value for name, value in asked.items() if value}
        query["fields"] = "items(name,size),prefixes,nextPageToken"
        body = self._requests.list(self._url, query, {})
        try:
            return _LISTING.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._strange("something else than a list of objects") from None

    def _strange(self, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"Google Cloud Storage bucket {self._name!r}: a listing came as {what}"
        )


class _Item(msgspec.Struct, frozen=True):
    name: str
    size: str


class _Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    kind: str = ""
    items: list[_Item] = []
    prefixes: list[str] = []
    next_page_token: str = ""


_LISTING = msgspec.json.Decoder(_Listing)


def _code(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"]["errors"][0]["reason"])
    except (ValueError, LookupError, TypeError):
        return ""
