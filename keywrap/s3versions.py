"""What a bucket of S3 keeps of objects that were replaced or removed.

API reference of Amazon S3: GetBucketVersioning, ListObjectVersions, GetObject with `versionId`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from itertools import islice
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree as ET

from keywrap.objectstore import LISTING_THREADS
from keywrap.s3bucket import NAMESPACE, RefusedByBucketError, S3Bucket, texts
from keywrap.stores import VersionsUnseenError

_AT_ONCE = 1000
_UNKNOWN_TO_SERVICE = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.METHOD_NOT_ALLOWED)

_Version = tuple[str, str, int]
"""Key, version id and size in bytes."""


class VersionedS3Bucket(S3Bucket):
    """A bucket that can be asked for old versions."""

    def keeps_versions(self) -> bool:
        """Whether it keeps old versions, or did at some time.

        Raises:
            VersionsUnseenError: the service does not know the question.
            StoreUnavailableError: the bucket does not answer, or refuses.
        """
        try:
            answer = self.document({"versioning": ""}, "", "look back")
        except RefusedByBucketError as error:
            if error.reply.status in _UNKNOWN_TO_SERVICE:
                raise VersionsUnseenError(
                    f"the service cannot be asked whether it keeps versions ({error.reply})"
                ) from error
            raise
        # `Suspended` keeps what there was; a bucket that never had any says nothing. Services name
        # the document in more ways than one.
        return any(part.tag.rpartition("}")[2] == "Status" and part.text for part in answer)

    def old_versions(
        self, prefix: str, wanted: Callable[[str], bool], limit: int
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield key and data of every old version; see `keywrap.stores.VersionedStore`.

        Memory is bounded: so many are read at once, by several threads.
        """
        if not self.keeps_versions():
            return
        versions = (found for found in _listed(self, prefix) if wanted(found[0]))
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            while some := list(islice(versions, _AT_ONCE)):
                read = pool.map(lambda version: _read(self, version, limit), some)
                yield from ((key, data) for (key, _, _), data in zip(some, read, strict=True))


def _listed(bucket: S3Bucket, prefix: str) -> Iterator[_Version]:
    query = {"versions": "", "prefix": prefix, "encoding-type": "url"}
    while True:
        answer = bucket.document(query, "ListVersionsResult", "look back")
        yield from _of_page(bucket, answer)
        if answer.findtext(f"{NAMESPACE}IsTruncated") != "true":
            return
        after = _one(answer, "NextKeyMarker"), _one(answer, "NextVersionIdMarker")
        if after == (query.get("key-marker"), query.get("version-id-marker")) or not after[0]:
            raise bucket.strange("a page of versions that does not say what comes next")
        query |= {"key-marker": after[0], "version-id-marker": after[1]}


def _of_page(bucket: S3Bucket, answer: ET.Element) -> Iterator[_Version]:
    try:
        columns = [
            texts(answer, "Version", name) for name in ("Key", "VersionId", "Size", "IsLatest")
        ]
    except UnicodeDecodeError:
        raise bucket.strange("the version of a key that is not UTF-8") from None
    if len({len(column) for column in columns}) > 1:
        raise bucket.strange("a version that lacks a field")
    for key, version, size, is_latest in zip(*columns, strict=True):
        if is_latest == "false":
            yield key, version, int(size) if size.isdecimal() else 0


def _one(answer: ET.Element, name: str) -> str:
    text = answer.findtext(f"{NAMESPACE}{name}") or ""
    is_encoded = name == "NextKeyMarker" and answer.findtext(f"{NAMESPACE}EncodingType") == "url"
    return unquote_plus(text, errors="strict") if is_encoded else text


def _read(bucket: S3Bucket, version: _Version, limit: int) -> bytes | None:
    key, version_id, size = version
    if size > limit:
        return None
    return bucket.get(quote(key, safe="/~"), {"versionId": version_id}, "look back")
