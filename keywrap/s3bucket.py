"""What of S3 goes past obstore: listing, and why a bucket refuses.

obstore's listing stops at the first key that is no path of its own (`a//b`, a control character)
and shows `/a` as `a`. So the pages are asked for here, signed by botocore. API reference of Amazon
S3: "ListObjectsV2", "Error responses".
"""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Protocol
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree as ET

from keywrap.endpoints import CONNECT_TIMEOUT_S
from keywrap.objectbucket import Operation, explained
from keywrap.objectlisting import Page, list_keys, list_tagged
from keywrap.objectreplies import Kind, Reply, kind_of
from keywrap.objectretries import UnansweredError, retrying
from keywrap.objectstore import LISTING_THREADS
from keywrap.stores import StoreUnavailableError

try:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import ReadOnlyCredentials
    from botocore.exceptions import BotoCoreError
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies
except ImportError as error:
    raise ImportError("a store in S3 needs: pip install 'keywrap[s3]'") from error

_CODE = re.compile(rb"<Code>([\w.]+)</Code>")
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_ETAGS = f"{NAMESPACE}Contents/{NAMESPACE}ETag"

_PERMISSIONS: dict[Operation, str] = {
    "read": "s3:GetObject on its objects and s3:ListBucket on the bucket",
    "write": "s3:PutObject and s3:GetObject on its objects",
    "delete": "s3:DeleteObject on its objects",
    "list": "s3:ListBucket on the bucket",
    "look back": "s3:GetBucketVersioning and s3:ListBucketVersions on the bucket and "
    "s3:GetObjectVersion on its objects",
}

_REFUSALS = {
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": "the bucket lies in another region",
    "AuthorizationHeaderMalformed": "the bucket lies in another region",
    "InvalidAccessKeyId": "AWS does not know the access key",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "SlowDown": "S3 asks for fewer requests",
}


class Credentials(Protocol):
    """The AWS credentials of the moment."""

    def frozen(self) -> ReadOnlyCredentials:
        """Return them; raise `StoreUnavailableError` where there are none."""


class S3Bucket:
    """A bucket as `keywrap.objectbucket.Bucket` wants it; connects to nothing when it is made.

    Args:
        name: the bucket's name.
        region: its region.
        url: where it is reached, the bucket named in host or path, without a slash at the end.
        credentials: sign the requests.
        timeout_s: of one request, in seconds.
        ca_bundle: a file of trusted certificates; empty for those that botocore brings.
    """

    def __init__(
        self,
        name: str,
        *,
        region: str,
        url: str,
        credentials: Credentials,
        timeout_s: float,
        ca_bundle: str = "",
    ) -> None:
        self._name = name
        self._url = url
        self._region = region
        self._credentials = credentials
        self._http = URLLib3Session(
            verify=ca_bundle or True,  # type: ignore[arg-type]  # the stubs know no file
            proxies=get_environ_proxies(url),
            timeout=(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s),  # type: ignore[arg-type]  # nor this pair
            max_pool_connections=LISTING_THREADS,
        )
        self._retrying = retrying(0.1)

    def check(self, prefix: str) -> None:
        """Make sure that the bucket can be listed.

        Raises:
            StoreUnavailableError: it is away, denied or not there; the message says which.
        """
        self._list({"max-keys": "1", "prefix": prefix})

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with `prefix`; see `keywrap.objectlisting.list_keys`."""
        return list_keys(self.page, prefix, LISTING_THREADS)

    def tagged(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield what `keys` does, and each one's ETag; "" where the listing does not say it."""
        return list_tagged(self.page, prefix, LISTING_THREADS)

    def page(self, prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001
        """List a page of up to 1,000 keys and folders that come after a key.

        Raises:
            StoreUnavailableError: the bucket did not answer, or not with a page.
        """
        asked = {"prefix": prefix, "start-after": after, "delimiter": "/" if by_folder else ""}
        answer = self._list({name: value for name, value in asked.items() if value})
        try:
            keys = texts(answer, "Contents", "Key")
            folders = texts(answer, "CommonPrefixes", "Prefix")
        except UnicodeDecodeError:
            # Written otherwise it would come at another place, and the next page after it.
            raise self.strange("a key that is not UTF-8") from None
        truncated = answer.findtext(f"{NAMESPACE}IsTruncated") == "true"
        if truncated and not keys and not folders:
            raise self.strange("a page without an entry that is not the last")
        sizes = texts(answer, "Contents", "Size")
        # What consoles make for a folder: no bytes, and a slash at the end (S3 user guide,
        # "Organizing objects by using folders").
        markers = {k for k, size in zip(keys, sizes, strict=False) if size == "0" and k[-1:] == "/"}
        # API reference of Amazon S3, "Object": only a listing that names one for each key counts.
        tags = [found.text or "" for found in answer.iterfind(_ETAGS)]
        known = dict(zip(keys, tags, strict=True)) if len(tags) == len(keys) else {}
        return Page(keys, folders, truncated, markers, known)

    def remove(self, key: str, tag: str) -> Reply | None:
        """Delete a key that has this ETag; see `keywrap.objectbucket.Bucket.remove`.

        API reference of Amazon S3, "DeleteObject", `If-Match`.
        """
        url = f"{self._url}/{quote(key, safe='/~')}"
        return self._ask("DELETE", url, {"If-Match": tag})[0]

    def explain(self, reply: Reply, operation: Operation) -> str:
        """Say why the bucket refused."""
        place = f"S3 bucket {self._name!r} ({self._region})"
        return explained(place, reply, _REFUSALS, _PERMISSIONS[operation])

    def _list(self, asked: dict[str, str]) -> ET.Element:
        # URL encoding, since XML 1.0 has no way to write most control characters.
        query = {**asked, "encoding-type": "url", "list-type": "2"}
        return self.document(query, "ListBucketResult", "list")

    def document(self, query: dict[str, str], name: str, operation: Operation) -> ET.Element:
        """Return the XML document that the bucket answers a query with.

        Args:
            query: names and values, not encoded.
            name: of the document's root; empty for any.
            operation: for errors.

        Raises:
            RefusedByBucketError, StoreUnavailableError: there is none.
        """
        body = self.get("", query, operation)
        try:
            answer = ET.fromstring(body)  # noqa: S314 - our own store; expat bounds expansion
        except ET.ParseError:
            raise self.strange("an answer that is not XML") from None
        if name and answer.tag != f"{NAMESPACE}{name}":
            raise self.strange(f"<{answer.tag.rpartition('}')[2][:40]}>")
        return answer

    def get(self, path: str, query: dict[str, str], operation: Operation) -> bytes:
        """Return what the bucket, or an object of it, answers a query with.

        Args:
            path: percent-encoded, without a slash at its begin; empty for the bucket.
            query: names and values, not encoded.
            operation: for errors.

        Raises:
            RefusedByBucketError: it refuses; another request would come to the same.
            StoreUnavailableError: it does not answer.
        """
        text = "&".join(f"{name}={quote(query[name], safe='')}" for name in sorted(query))
        return bytes(self._retrying(self._send, f"{self._url}/{path}?{text}", operation))

    def _send(self, url: str, operation: Operation) -> bytes:
        reply, body = self._ask("GET", url, {})
        if reply is None:
            return body
        if reply.kind is Kind.UNKNOWN and reply.status != HTTPStatus.NOT_IMPLEMENTED:
            raise UnansweredError(self.explain(reply, operation))
        raise RefusedByBucketError(self.explain(reply, operation), reply)

    def _ask(self, method: str, url: str, headers: dict[str, str]) -> tuple[Reply | None, bytes]:
        request = AWSRequest(method=method, url=url, headers=headers)
        S3SigV4Auth(self._credentials.frozen(), "s3", self._region).add_auth(request)
        try:
            answer = self._http.send(request.prepare())
        except BotoCoreError as error:
            return Reply(Kind.UNKNOWN, text=str(error)[:300]), b""
        if answer.status_code in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}:
            return None, bytes(answer.content)
        found = _CODE.search(answer.content)
        code = found.group(1).decode() if found else ""
        if not code and HTTPStatus.MULTIPLE_CHOICES <= answer.status_code < HTTPStatus.BAD_REQUEST:
            code = "PermanentRedirect"
        return Reply(kind_of(answer.status_code, code), answer.status_code, code), b""

    def strange(self, what: str) -> StoreUnavailableError:
        """Say that an answer is none of S3's."""
        return StoreUnavailableError(f"S3 bucket {self._name!r}: a listing came as {what}")


class RefusedByBucketError(StoreUnavailableError):
    """The bucket has answered, and refuses.

    Args:
        message: a sentence for the operator.
        reply: what it answered.
    """

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message)
        self.reply = reply


def texts(answer: ET.Element, entry: str, name: str) -> list[str]:
    """Return a field of every entry of a listing, as it is.

    Raises:
        UnicodeDecodeError: one is not UTF-8.
    """
    path = f"{NAMESPACE}{entry}/{NAMESPACE}{name}"
    texts = [found.text or "" for found in answer.iterfind(path)]
    # A service that does not know the encoding sends keys as they are, and `a+b` is no `a b`.
    if answer.findtext(f"{NAMESPACE}EncodingType") != "url":
        return texts
    return [unquote_plus(text, errors="strict") for text in texts]
