"""The pages of ListObjectsV2, as XML (API reference of Amazon S3, "ListObjectsV2")."""

import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, Self
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

MAX_KEYS = 1000
"""The most entries of a page."""


class Entry(Protocol):
    """What a page shows of an object."""

    @property
    def data(self) -> bytes:
        """Its content."""

    @property
    def etag(self) -> str:
        """Its ETag, in double quotes."""

    @property
    def modified(self) -> float:
        """When it was written, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was asked for.

    Attributes:
        bucket: its name.
        prefix: keys start so.
        delimiter: what ends a common prefix; empty: every key is listed by itself.
        after: only what comes after this key.
        max_keys: the most keys and common prefixes, 0 to 1,000.
        url_encoded: whether names are percent-encoded, so that XML can carry all of them.
        asked_after: the `start-after` of the request, which the answer repeats.
        token: the `continuation-token` of the request, which the answer repeats.
    """

    bucket: str
    prefix: str
    delimiter: str
    after: str
    max_keys: int
    url_encoded: bool
    asked_after: str
    token: str

    @classmethod
    def asked(cls, bucket: str, asked: Mapping[str, str]) -> Self:
        """Read the query of a request.

        Raises:
            ValueError: a parameter has no valid value.
        """
        encoding = asked.get("encoding-type", "")
        if encoding not in {"", "url"}:
            raise ValueError("Invalid Encoding Method specified in Request")
        max_keys = asked.get("max-keys", str(MAX_KEYS))
        if not max_keys.isdecimal():
            raise ValueError("Provided max-keys not an integer or within integer range")
        token = asked.get("continuation-token", "")
        start = asked.get("start-after", "")
        return cls(
            bucket,
            asked.get("prefix", ""),
            asked.get("delimiter", ""),
            _of_token(token) if token else start,
            min(int(max_keys), MAX_KEYS),
            encoding == "url",
            start,
            token,
        )

    def shown(self, name: str) -> str:
        """Spell a name in the answer."""
        return quote_plus(name, safe="/") if self.url_encoded else escape(name)


def list_page(page: Page, names: Sequence[str], objects: Mapping[str, Entry]) -> str:
    """Make the answer, without the XML declaration.

    Args:
        page: what was asked for.
        names: all keys of the bucket, sorted.
        objects: by key.
    """
    keys, groups, last, truncated = _entries(page, names)
    parts = [
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
        f"<Name>{page.bucket}</Name><Prefix>{page.shown(page.prefix)}</Prefix>",
        f"<KeyCount>{len(keys) + len(groups)}</KeyCount><MaxKeys>{page.max_keys}</MaxKeys>",
        f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>",
    ]
    if page.delimiter:
        parts.append(f"<Delimiter>{page.shown(page.delimiter)}</Delimiter>")
    if page.url_encoded:
        parts.append("<EncodingType>url</EncodingType>")
    if page.asked_after:
        parts.append(f"<StartAfter>{page.shown(page.asked_after)}</StartAfter>")
    if page.token:
        parts.append(f"<ContinuationToken>{page.token}</ContinuationToken>")
    if truncated:
        parts.append(f"<NextContinuationToken>{_token(last)}</NextContinuationToken>")
    parts += [_contents(page.shown(key), objects[key]) for key in keys]
    parts += [
        f"<CommonPrefixes><Prefix>{page.shown(group)}</Prefix></CommonPrefixes>" for group in groups
    ]
    return "".join((*parts, "</ListBucketResult>"))


def _entries(page: Page, names: Sequence[str]) -> tuple[list[str], list[str], str, bool]:
    """Return keys, common prefixes, the last of both, and whether there are more."""
    keys: list[str] = []
    groups: list[str] = []
    last = page.after
    at = bisect_left(names, page.prefix)
    if page.after:
        at = max(at, bisect_right(names, page.after))
        # Only a page that ended with a common prefix goes on behind all of it.
        if page.token and _group(page, page.after) == page.after:
            at = max(at, _end_of(names, page.after))
    while at < len(names) and names[at].startswith(page.prefix):
        if len(keys) + len(groups) >= page.max_keys:
            return keys, groups, last, page.max_keys > 0
        group = _group(page, names[at])
        if group:
            groups.append(group)
            last = group
            at = _end_of(names, group)
        else:
            keys.append(names[at])
            last = names[at]
            at += 1
    return keys, groups, last, False


def _group(page: Page, name: str) -> str:
    if not page.delimiter:
        return ""
    end = name.find(page.delimiter, len(page.prefix))
    return name[: end + len(page.delimiter)] if end >= 0 else ""


def _end_of(names: Sequence[str], group: str) -> int:
    """Return the place of the first name behind all that start with `group`."""
    return bisect_right(names, group, key=lambda name: name[: len(group)])


def _contents(shown: str, entry: Entry) -> str:
    modified = datetime.fromtimestamp(entry.modified, UTC)
    etag = entry.etag.replace('"', "&quot;")
    return (
        f"<Contents><Key>{shown}</Key>"
        f"<LastModified>{modified:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>{len(entry.data)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _of_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("The continuation token provided is incorrect") from None
