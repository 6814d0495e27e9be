"""What of Azure Blob Storage goes past obstore: listing, deleting, and why a container refuses.

obstore's listing shows names otherwise than they are, and hides what no path is; it deletes by a
batch, whose answer does not tell an absent blob from an absent container. REST API of Azure
Storage: "List Blobs", "Delete Blob", "Blob Storage error codes".
"""

from collections.abc import Iterator
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

from keywrap.azurecredentials import Credentials
from keywrap.folderlisting import Page, list_by_folder
from keywrap.objectbucket import Operation, explained
from keywrap.objectreplies import Reply
from keywrap.objectstore import LISTING_THREADS
from keywrap.stores import StoreUnavailableError

try:
    import requests

    from keywrap.objectrequests import ObjectRequests
except ImportError as error:
    raise ImportError("a store in Azure needs: pip install 'keywrap[az]'") from error

PAGE = 5000
"""The most entries of a page that Azure gives."""

_HEADERS = {"x-ms-version": "2023-11-03"}
"""The version that obstore asks for. Since 2021-02-12 names that XML cannot hold are encoded."""

_ROLE = "the role Storage Blob Data Contributor, or"
_PERMISSIONS: dict[Operation, str] = {
    "read": f"{_ROLE} …/containers/blobs/read (of a shared access signature: r)",
    "write": f"{_ROLE} …/containers/blobs/write and …/blobs/read (rcw)",
    "delete": f"{_ROLE} …/containers/blobs/delete (d)",
    "list": f"{_ROLE} …/containers/blobs/read (l)",
}

_REFUSALS = {
    "ContainerNotFound": "there is no such container",
    "ContainerBeingDeleted": "the container is being deleted",
    "AccountIsDisabled": "the account is disabled",
    "AuthenticationFailed": "the key, token or shared access signature is not valid or has expired,"
    " or this machine's clock is wrong",
    "InvalidAuthenticationInfo": "the token is not one for this account",
    "KeyBasedAuthenticationNotPermitted": "the account takes no account key",
    "LeaseIdMissing": "another program holds a lease on the blob",
    "BlobImmutableDueToPolicy": "a policy forbids to change the blob",
    "BlobArchived": "the blob lies in the archive tier",
    "SnapshotsPresent": "the blob has snapshots, which are not deleted with it",
    "ServerBusy": "Azure asks for fewer requests",
}


class AzureContainer:
    """A container as `keywrap.objectbucket.Bucket` wants it; connects to nothing when it is made.

    Args:
        name: the container's name.
        account: that of its storage account.
        url: where it is reached, its own name in it, without a slash at the end.
        credentials: sign the requests.
        timeout_s: of one request, in seconds.
    """

    def __init__(
        self, name: str, *, account: str, url: str, credentials: Credentials, timeout_s: float
    ) -> None:
        self._name = name
        self._account = account
        self._url = url
        self._requests = ObjectRequests(credentials.sign, _code, self.explain, timeout_s)

    def check(self, prefix: str) -> None:
        """Make sure that the container can be listed.

        Raises:
            StoreUnavailableError: it is away, denied or not there; the message says which.
        """
        self._list({"prefix": prefix, "maxresults": "1"})

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the name of every blob that starts with `prefix`; no directory is one."""
        return list_by_folder(self.page, prefix, LISTING_THREADS)

    def page(self, prefix: str, marker: str, by_folder: bool) -> Page:  # noqa: FBT001
        """List a page of blobs and folders.

        Raises:
            StoreUnavailableError: the container did not answer, or not with a page.
        """
        asked = {"prefix": prefix, "marker": marker, "delimiter": "/" if by_folder else ""}
        answer = self._list({**asked, "maxresults": str(PAGE)})
        keys: list[str] = []
        markers: set[str] = set()
        for blob in answer.iterfind("Blobs/Blob"):
            key = self._name_of(blob)
            keys.append(key)
            size = blob.findtext("Properties/Content-Length")
            kind = blob.findtext("Properties/ResourceType")
            if kind == "directory" or (size == "0" and key[-1:] == "/"):
                markers.add(key)
        folders = [self._name_of(found) for found in answer.iterfind("Blobs/BlobPrefix")]
        following = answer.findtext("NextMarker") or ""
        if following and following == marker:
            raise self._strange("a page that is followed by itself")
        return Page(keys, folders, following, markers)

    def delete(self, key: str) -> None:
        """Delete a blob; nothing happens where there is none.

        Raises:
            StoreUnavailableError: the container refuses, or did not answer.
        """
        self._requests.delete(f"{self._url}/{quote(key, safe='/')}", _HEADERS)

    def remove(self, key: str, tag: str) -> Reply | None:
        """Delete a blob that has this ETag; see `keywrap.objectbucket.Bucket.remove`."""
        headers = {**_HEADERS, "If-Match": tag}
        return self._requests.remove(f"{self._url}/{quote(key, safe='/')}", headers)

    def explain(self, reply: Reply, operation: Operation) -> str:
        """Say why the container refused."""
        place = f"Azure container {self._name!r} of account {self._account!r}"
        needed = f"{_PERMISSIONS[operation]}, and a way through the account's network rules"
        return explained(place, reply, _REFUSALS, needed)

    def _list(self, asked: dict[str, str]) -> ET.Element:
        query = {name: value for name, value in asked.items() if value}
        query |= {"restype": "container", "comp": "list"}
        body = self._requests.list(self._url, query, _HEADERS)
        try:
            answer = ET.fromstring(body)  # noqa: S314 - our own store; expat bounds expansion
        except ET.ParseError:
            raise self._strange("an answer that is not XML") from None
        if answer.tag != "EnumerationResults":
            raise self._strange(f"<{answer.tag[:40]}>")
        return answer

    def _name_of(self, entry: ET.Element) -> str:
        found = entry.find("Name")
        text = "" if found is None else found.text or ""
        if found is not None and found.get("Encoded") == "true":
            try:
                return unquote(text, errors="strict")
            except UnicodeDecodeError:
                raise self._strange("a name that is not UTF-8") from None
        return text

    def _strange(self, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"Azure container {self._name!r}: a listing came as {what}")


def _code(answer: requests.Response) -> str:
    return answer.headers.get("x-ms-error-code", "")
