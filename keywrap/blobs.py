"""The application's write and read path: `EncryptedBlobs.put`, `get` and `stream`."""

import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from keywrap.auditing import AuditLog, AuditSink, Trail
from keywrap.blobkeys import BlobKeys, LegacyCutOffError, ReadOnlyError
from keywrap.config import TABLES, KeywrapConfig, open_keys, open_reader, read_file
from keywrap.contentformat import ContentError, ContentFormat, Readable
from keywrap.contents import NEW_CONTENT, content_format
from keywrap.contentwriting import Stopwatch, TooSlowError, write_content
from keywrap.control import ControlSource, open_control
from keywrap.datakey import DataKey
from keywrap.keycache import KeyCache
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.reading import GoneError, SidecarReader
from keywrap.sidecar import Sidecar
from keywrap.stores import AlreadyExistsError, ChangedError, NotFoundError

__all__ = [
    "BlobNotFoundError",
    "BusyBlobError",
    "EncryptedBlobs",
    "LegacyCutOffError",
    "ReadOnlyError",
    "TooSlowError",
    "open_blobs",
]

_TRIES = 5

_Result = TypeVar("_Result")


class BlobNotFoundError(Exception):
    """There is no such blob."""


class BusyBlobError(Exception):
    """Other writers came first each time; nothing of this write is visible."""


@dataclass(frozen=True, slots=True)
class EncryptedBlobs:
    """Reads blobs by what their sidecars say, and writes them under the current KEK version.

    May be used from many threads.

    Attributes:
        reader: reads sidecars, and names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        control: tells which KEK version new wraps need and whether legacy wraps still open; None
            where the configuration has no control file.
        audit: takes an event for each wrap and unwrap.
        cache: holds opened data keys; None: each is opened when it is needed.
    """

    reader: SidecarReader
    keys: KeyRing
    legacy_content: str = "gcm-v1"
    control: ControlSource | None = None
    audit: AuditSink = field(default_factory=AuditLog)
    cache: KeyCache | None = None

    def get(self, blob_id: str) -> bytes:
        """Return a blob's plaintext.

        Raises:
            BlobNotFoundError: there is none.
            QuarantineError: its sidecar cannot be used.
            UnlistedKeyError: its key is not listed in the configuration.
            LegacyCutOffError: its wrap is a legacy one, and these are not opened any more.
            ControlError: it is a legacy one, and whether these are still opened is not known.
            KmsError: its data key cannot be opened.
            ContentError: its content does not open with its data key.
            StoreError: the store did not answer.
        """
        store = self.reader.store
        return self._at_content(
            blob_id, lambda form, data_key, name: form.open(data_key, store.read(name).data)
        )

    def stream(self, blob_id: str) -> Iterator[bytes]:
        """Return a blob's plaintext in pieces, in memory that does not grow with the blob.

        The first piece is opened before this returns, so most errors come here. Each piece was
        authenticated, at its place, before it is handed out; that there is nothing missing after
        it is known only when the iterator ends. Until then do nothing that cannot be taken back,
        and when it raises, let whoever was handed pieces know that they are not the whole.

        Of `stream-v1` a piece has 64 KiB, and about 20 MiB are held. A `gcm-v1` blob is one
        message with one tag: it is held whole, and comes as one piece. Of `records-v1` a piece is
        a record; that records are missing or moved is not seen, as with `get`.

        Args:
            blob_id: the blob's id.

        Returns:
            The pieces, fetched as they are asked for. Nothing is left open where the iterator is
            dropped before its end.

        Raises:
            ContentError: as `get`; also later, from the iterator.
            NotFoundError: only from the iterator: a writer replaced the blob, and its old content
                was removed meanwhile. Read it again.
            StoreError: as `get`; also later, from the iterator.
            Exception: otherwise as `get`.
        """

        def begin(form: ContentFormat, data_key: DataKey, name: str) -> Iterator[bytes]:
            store = self.reader.store
            chunks = form.chunks(data_key, partial(store.read_range, name))
            return chain((next(chunks, b""),), self._watched(blob_id, chunks))

        return filter(None, self._at_content(blob_id, begin))

    def put(self, blob_id: str, plaintext: bytes) -> None:
        """Write a blob under a new data key, wrapped by the current KEK version.

        The content goes to a new object and becomes visible by one conditional write of the
        sidecar: a crash before it leaves what was there, whole. The content it replaces stays in
        the store, since a reader may be on its way to it; `rewrap sweep` removes it later.

        Raises:
            ReadOnlyError: the configuration names no primary KEK.
            UnsafeBlobIdError: the id cannot name a blob.
            QuarantineError: the sidecar that is there cannot be parsed; it is left as it is.
            BusyBlobError: other writers came first each time.
            TooSlowError: the content took more than `COMMIT_WITHIN_S`; nothing of it is visible.
            KmsError: the KEK cannot be used; writes never fall back to another key.
            UnlistedKeyError: the control file's KEK is not listed.
            ControlError: which KEK version is current is not known.
            ProofFailedError: the new wrap does not open to the data key.
            StoreError: the store did not answer.
        """
        self.put_stream(blob_id, io.BytesIO(plaintext))

    def put_stream(self, blob_id: str, source: Readable) -> None:
        """Write a blob as `put` does, in memory that does not grow with it.

        A store that takes no streams (`keywrap.stores.StreamingStore`) gets it whole all the same.

        Args:
            blob_id: the blob's id.
            source: where the plaintext comes from, such as an open binary file; read to its end
                and not closed.

        Raises:
            Exception: as `put`; and what `source.read` raises. Nothing of the blob is visible
                then, and what was there is there still.
        """
        generation = secrets.token_hex(16)
        name = self.reader.layout.content_name(blob_id, generation)
        self.reader.layout.sidecar_name(blob_id)  # an id that cannot name one is refused now
        data_key = DataKey.generate()
        # Before the content, so that a KMS that is away is known at once.
        wrapped = self._wraps.wrap(blob_id, data_key)
        watch = Stopwatch()
        write_content(self.reader.store, name, data_key, source)
        self._commit(blob_id, generation, data_key, wrapped, watch)

    @property
    def _wraps(self) -> BlobKeys:
        return BlobKeys(self.keys, self.control, Trail(self.audit), self.cache)

    def _at_content(
        self, blob_id: str, use: Callable[[ContentFormat, DataKey, str], _Result]
    ) -> _Result:
        """Call `use` with the format, data key and name of a blob's content."""
        for tries_left in reversed(range(_TRIES)):
            try:
                seen = self.reader.read(blob_id)
            except GoneError:
                break
            name = self.reader.layout.content_name(blob_id, seen.sidecar.object)
            form = content_format(seen.sidecar.content or self.legacy_content)
            data_key = self._wraps.open(blob_id, seen)
            try:
                return use(form, data_key, name)
            except NotFoundError:
                if tries_left:  # a writer may have committed a newer object in between
                    continue
                break
            except ContentError as error:
                self._alert(blob_id, error, seen.wrapped.key_version)
                raise
        raise BlobNotFoundError(f"no blob {blob_id!r}")

    def _watched(self, blob_id: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except ContentError as error:
            self._alert(blob_id, error)
            raise

    def _alert(self, blob_id: str, error: Exception, version: KeyVersion | None = None) -> None:
        Trail(self.audit).record("alert", blob_id, version, error)

    def _commit(
        self,
        blob_id: str,
        generation: str,
        data_key: DataKey,
        wrapped: WrappedKey,
        watch: Stopwatch,
    ) -> None:
        """Let the sidecar name the new content: the one write that makes it visible."""
        name = self.reader.layout.sidecar_name(blob_id)
        store, context = self.reader.store, {"blob_id": blob_id}
        for _ in range(_TRIES):
            try:
                seen = self.reader.read(blob_id)
            except GoneError:
                seen = None
            wrapped = self._wraps.renewed(blob_id, data_key, wrapped)
            old = Sidecar() if seen is None else seen.sidecar
            moved = old.rewrapped(wrapped, context, previous=None)
            data = replace(moved, content=NEW_CONTENT, object=generation).to_bytes()
            watch.require_time()
            try:
                if seen is None or seen.stored is None:
                    store.create(name, data)
                else:
                    store.replace(name, data, seen.stored)
            except (AlreadyExistsError, ChangedError):
                continue
            return
        raise BusyBlobError(f"blob {blob_id!r} is being written by others; try again")


def open_blobs(
    path: str | Path,
    environ: Mapping[str, str] = os.environ,
    *,
    audit: AuditSink | None = None,
) -> EncryptedBlobs:
    """Open the blobs that a configuration describes; connects to no key service yet.

    Args:
        path: the TOML file; only the tables `keywrap.config.TABLES` are read.
        environ: where the secrets are that it names.
        audit: takes an event for each wrap and unwrap; by default JSON lines to the logger
            `keywrap.audit`.

    Raises:
        ConfigError: the configuration cannot be used, or a secret is missing.
        StoreUnavailableError: the store is not there.
    """
    table = read_file(Path(path))
    config = KeywrapConfig.from_table({n: value for n, value in table.items() if n in TABLES})
    reader, keys, bounds = open_reader(config), open_keys(config, environ), config.cache
    return EncryptedBlobs(
        reader,
        keys,
        config.store.legacy_content,
        control=open_control(config, reader.store),
        audit=AuditLog() if audit is None else audit,
        cache=KeyCache(bounds.max_keys, bounds.max_age_s, bounds.max_uses) if bounds else None,
    )
