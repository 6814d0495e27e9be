"""Blobs and sidecars in a bucket, through obstore.

A write is one conditional request, never sent again by the client below us (`max_retries` 0;
hyper resends only what no byte was written of): after a hidden second sending a 412 could mean
that we came first as well as that somebody else did. What a write without an answer came to is
found by reading the object back. For that each write leaves a random mark in the object's user
metadata (`keywrap.objectmarks`).

Limits. A replacement keeps the object's content headers and user metadata, but not its tags,
storage class or access control list: those become the bucket's defaults. What a bucket compares is
the ETag, the MD5 of the content in plain S3: bytes that were changed and changed back between our
read and our write are not seen there. (Azure's ETag and Google's generation are new with every
write.) A write that timed out may arrive late; it is made only if the object is still what it was
made from.
"""

import os
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from keywrap.layout import MAX_BLOB_ID_BYTES, RESERVED
from keywrap.objectbucket import Bucket, Operation, VersionedBucket
from keywrap.objectmarks import StoredObject, marks_of
from keywrap.objectreplies import Kind, Reply, reply_of
from keywrap.objectretries import UnansweredError, retrying
from keywrap.objectwrites import Write
from keywrap.stores import (
    ChangedError,
    Entry,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
    VersionsUnseenError,
)

try:
    from obstore.exceptions import BaseError
except ImportError as error:
    raise ImportError(
        "a store in a bucket needs: pip install 'keywrap[s3]', 'keywrap[az]' or 'keywrap[gs]'"
    ) from error

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta, PutMode, UpdateVersion
    from obstore.store import ClientConfig
    from obstore.store import ObjectStore as ObstoreStore

LISTING_THREADS = 8

# obstore would take a leading or trailing slash away, and so read another object; it refuses
# empty, `.` and `..` segments, and control characters.
_NOT_CARRIED = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_NOT_A_SEGMENT = frozenset({"", ".", ".."})
_UNCHANGED = "nothing was changed"
_UNKNOWN = "whether it was changed is not known; read it again"

_Result = TypeVar("_Result")
_Client = TypeVar("_Client")
Tag = Literal["e_tag", "version"]
"""What a store compares before it replaces: the ETag, or the generation (Google)."""

_GENERATION = re.compile("[1-9][0-9]{0,18}")
"""Never 0: a write under the condition "generation 0" creates what is absent."""

_first_user = 0


class _OutOfRangeError(StoreError):
    """The object has no byte where the range begins."""


class ObjectStore:
    """A `keywrap.stores.Store` in a bucket. Made by `open_s3`, `open_azure` and `open_gcs`.

    A name that the client cannot carry as it is (with an empty, `.` or `..` segment, a slash at
    either end, a control character, or too long) is listed like any other and raises
    `NotAnObjectError` when it is read or written.

    Use it in one process: after its first request it raises `StoreUnavailableError` in every
    process that is forked from this one, since the client's threads do not come along and a
    request would wait for ever. A store that was only made before the fork works after it.

    Args:
        client: an obstore store of the whole bucket, which sends every request once only.
        bucket: lists it and explains it.
        prefix: how the keys of this store start; empty, or with a slash at the end.
        tag: what the store compares before it replaces.
        not_carried: finds what a name may not hold, since another object would be asked for.
        delete: removes a key, and nothing where there is none; None for obstore's own way.
    """

    def __init__(
        self,
        client: "ObstoreStore",
        bucket: Bucket,
        prefix: str = "",
        *,
        tag: Tag = "e_tag",
        not_carried: re.Pattern[str] = _NOT_CARRIED,
        delete: Callable[[str], object] | None = None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._tag: Tag = tag
        self._not_carried = not_carried
        self._delete = delete or client.delete
        self._retrying = retrying(0.05)

    def check(self) -> None:
        """Tell a bucket that is away or denied from an object that is; see `Store.check`."""
        require_first_process()
        self._bucket.check(self._prefix)

    def read(self, name: str, *, limit: int | None = None) -> StoredObject:
        """Read an object whole, its tag and size from the same answer; see `Store.read`."""

        def get(key: str) -> StoredObject:
            answer = self._client.get(key)
            if limit is not None and answer.meta["size"] > limit:
                # The answer is dropped unread: of its body comes what is on the way already.
                raise TooLargeError(f"{name!r} has more than {limit} bytes", name=name)
            return self._received(answer, name)

        return self._patiently(lambda: self._reading(name, get))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object; see `Store.read_range`.

        Raises:
            ValueError: `start` or `length` is negative.
        """
        if start < 0 or length < 0:
            raise ValueError("a range starts at 0 or later and has no negative length")

        def get(key: str) -> bytes:
            end = start + max(length, 1)  # an empty range cannot be asked for
            part: bytes = self._client.get(key, options={"range": (start, end)}).bytes().to_bytes()
            return part[:length]

        try:
            return self._patiently(lambda: self._reading(name, get))
        except _OutOfRangeError:
            return b""

    def create(self, name: str, data: bytes) -> None:
        """Create an object, only if there is none; see `Store.create`.

        Raises:
            StoreUnavailableError: the bucket refuses, or the outcome is not known.
        """
        write = Write(name, data, None)
        self._patiently(lambda: self._write(write))

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, only if it still is what was read; see `Store.replace`."""
        write = Write(name, data, expected)
        self._patiently(lambda: self._write(write))

    def delete(self, name: str) -> None:
        """Remove an object; see `Store.delete`.

        It is asked for once: a second request could remove what was made anew in between.

        Raises:
            StoreUnavailableError: the bucket refuses, or the outcome is not known.
        """
        key = self._key(name)
        try:
            self._delete(key)
        except (BaseError, OSError) as error:
            reply = reply_of(error, key)
            if reply.kind is not Kind.MISSING:
                raise self._unavailable(name, reply, "delete") from error

    def look(self, name: str) -> Entry:
        """Say how large and old an object is; see `RemovingStore.look`."""

        def head(key: str) -> Entry:
            try:
                meta = self._client.head(key)
            except (BaseError, OSError) as error:
                if reply_of(error, key).status == HTTPStatus.NOT_FOUND:
                    self._client.get(key)  # an answer to HEAD has no body to say what is missing
                raise
            return Entry(meta["size"], self._tag_in(meta, name), meta["last_modified"])

        return self._patiently(lambda: self._reading(name, head))

    def remove(self, name: str, expected: Entry) -> bool:
        """Remove an object that is what was seen; see `RemovingStore.remove`."""
        reply = self._bucket.remove(self._key(name), expected.tag)
        if reply is None:
            return True
        if reply.kind not in {Kind.MISSING, Kind.CHANGED, Kind.CONFLICT}:
            raise self._unavailable(name, reply, "delete")
        try:
            self.look(name)  # a condition on what is absent does not hold either
        except NotFoundError:
            return False
        raise ChangedError(f"{name!r} is no longer what was seen", name=name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of every object that starts with `prefix`; see `Store.names`.

        Every key is yielded as it is, also one that cannot be read by its name. The store's own
        corner is yielded only where the prefix lies in it.
        """
        require_first_process()
        for key in self._bucket.keys(self._prefix + prefix):
            if (name := self._listed(key, prefix)) is not None:
                yield name

    def _listed(self, key: str, prefix: str) -> str | None:
        """Return the name of a key that was listed; None for the store's own corner."""
        name = key[len(self._prefix) :]
        return None if name.startswith(RESERVED) and not prefix.startswith(RESERVED) else name

    def old_versions(
        self, wanted: Callable[[str], bool], limit: int
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield what the bucket keeps of old objects; see `keywrap.stores.VersionedStore`."""
        if not isinstance(self._bucket, VersionedBucket):
            raise VersionsUnseenError("old versions are looked for in buckets of S3 only")
        skip = len(self._prefix)
        found = self._bucket.old_versions(self._prefix, lambda key: wanted(key[skip:]), limit)
        return ((key[skip:], data) for key, data in found)

    def _patiently(self, attempt: Callable[[], _Result]) -> _Result:
        """Try until it is answered, or for long enough."""
        try:
            return attempt()
        except UnansweredError as error:
            first = [error]

        def again() -> _Result:
            # tenacity costs a tenth of a request, so it comes in once the first one has failed.
            if first:
                raise first.pop()
            return attempt()

        return self._retrying(again)

    def _key(self, name: str) -> str:
        require_first_process()
        key = self._prefix + name
        if (
            self._not_carried.search(name)
            or not _NOT_A_SEGMENT.isdisjoint(name.split("/"))
            or len(key.encode()) > MAX_BLOB_ID_BYTES
        ):
            raise NotAnObjectError(f"{name!r} cannot be asked for by its name", name=name)
        return key

    def _reading(self, name: str, get: Callable[[str], _Result]) -> _Result:
        key = self._key(name)
        try:
            return get(key)
        except (BaseError, OSError) as error:
            reply = reply_of(error, key)
            if reply.kind is Kind.MISSING:
                raise NotFoundError(f"there is no {name!r}", name=name) from None
            if reply.kind is Kind.RANGE:
                raise _OutOfRangeError(f"{name!r} ends before", name=name) from error
            raise self._unavailable(name, reply, "read") from error

    def _write(self, write: Write) -> None:
        key = self._key(write.name)
        expected = write.expected
        mode: PutMode = "create"
        if expected is not None:
            mode = cast("UpdateVersion", {self._tag: expected.tag})
        try:
            self._client.put(
                key, write.data, mode=mode, attributes=write.attributes, use_multipart=False
            )
        except (BaseError, OSError) as error:
            self._settle(write, reply_of(error, key), error)

    def _settle(self, write: Write, reply: Reply, error: Exception) -> None:
        """Return where the write is made after all; raise otherwise."""
        write.unknown = write.unknown or reply.kind is Kind.UNKNOWN
        if not write.unknown:
            if reply.kind in {Kind.CHANGED, Kind.MISSING}:
                # A first answer is the truth, even if the bytes that are there are our own.
                raise write.refused() from error
            if reply.kind is not Kind.CONFLICT:
                raise self._unavailable(write.name, reply, "write") from error
        if self._is_made(write, error):
            return
        # It still is what it was. The next attempt has the same condition, so of all that may yet
        # arrive, this one's late request or another writer's, one takes effect and no more.
        outcome = "it was not seen changed; read it again" if write.unknown else _UNCHANGED
        failure = self._unavailable(write.name, reply, "write", outcome)
        if reply.kind in {Kind.CONFLICT, Kind.CHANGED}:
            failure = UnansweredError(str(failure), name=write.name)
        raise failure from error

    def _is_made(self, write: Write, cause: Exception) -> bool:
        """Tell a write that took effect from one that did not.

        Raises:
            ChangedError, AlreadyExistsError: another writer came first.
            StoreUnavailableError: it cannot be read now.
        """

        def took_effect(key: str) -> bool:
            answer = self._client.get(key)
            self._tag_of(answer, write.name)
            if write.mark in marks_of(answer.attributes):
                return True  # whatever it holds now was made from what we wrote
            expected = write.expected
            if expected is None or answer.meta["size"] != len(expected.data):
                raise write.overtaken() from cause
            if not self._received(answer, write.name).is_still(expected):
                raise write.overtaken() from cause
            return False

        try:
            return self._patiently(lambda: self._reading(write.name, took_effect))
        except NotFoundError:
            if write.expected is not None:
                raise write.overtaken() from cause
            return False
        except StoreUnavailableError as error:
            outcome = _UNKNOWN if write.unknown else _UNCHANGED
            raise StoreUnavailableError(f"{error}; {outcome}", name=write.name) from cause

    def _unavailable(
        self, name: str, reply: Reply, operation: Operation, outcome: str = ""
    ) -> StoreUnavailableError:
        kind = UnansweredError if reply.kind is Kind.UNKNOWN else StoreUnavailableError
        said = self._bucket.explain(reply, operation)
        if operation == "write":
            outcome = outcome or (_UNKNOWN if reply.kind is Kind.UNKNOWN else _UNCHANGED)
        return kind("; ".join(filter(None, (f"{name!r}: {said}", outcome))), name=name)

    def _received(self, answer: "GetResult", name: str) -> StoredObject:
        tag = self._tag_of(answer, name)
        return StoredObject(answer.bytes().to_bytes(), tag, answer.attributes)

    def _tag_of(self, answer: "GetResult", name: str) -> str:
        """Return the tag; what has none is no answer of a store, but perhaps a proxy's page."""
        return self._tag_in(answer.meta, name)

    def _tag_in(self, meta: "ObjectMeta", name: str) -> str:
        tag = meta[self._tag]
        if not tag or (self._tag == "version" and not _GENERATION.fullmatch(tag)):
            what = "ETag" if self._tag == "e_tag" else "generation"
            raise StoreUnavailableError(f"{name!r}: the store answered with no {what}", name=name)
        return tag


def once_only(
    kind: Callable[..., _Client], config: object, options: "ClientConfig", credentials: object
) -> _Client:
    """Make an obstore store that sends every request once only; connects to nothing.

    Args:
        kind: the store's class.
        config: what it is made of.
        options: see `keywrap.endpoints.client_options`.
        credentials: called for what signs.

    Raises:
        ValueError: an argument is not of its form.
    """
    try:
        return kind(
            config=config,
            client_options=options,
            retry_config={"max_retries": 0},
            credential_provider=credentials,
        )
    except BaseError as error:
        raise ValueError(str(error).partition("\n")[0]) from error


def require_first_process() -> None:
    """Refuse to use a bucket in a process that was forked from one that has used one.

    Raises:
        StoreUnavailableError: it was: threads and locks of the client below are not there.
    """
    global _first_user
    process = os.getpid()
    if _first_user != process:
        if _first_user:
            raise StoreUnavailableError(
                f"process {_first_user} used a bucket before it forked process {process}: open "
                "the store after the fork"
            )
        _first_user = process
