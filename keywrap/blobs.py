"""The application's write and read path: `EncryptedBlobs.put` and `get`."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from keywrap.config import KeywrapConfig, open_keys, open_reader, read_file
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.layout import check_blob_id
from keywrap.reading import GoneError, SidecarReader
from keywrap.sidecar import Sidecar
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotFoundError,
)

_TRIES = 5
_NEW_CONTENT = "gcm-v1"


class BlobNotFoundError(Exception):
    """There is no such blob."""


class ReadOnlyError(Exception):
    """New blobs cannot be written here."""


class BusyBlobError(Exception):
    """Other writers came first each time; nothing of this write is visible."""


@dataclass(frozen=True, slots=True)
class EncryptedBlobs:
    """Reads blobs by what their sidecars say, and writes them under the primary KEK.

    Attributes:
        reader: reads sidecars, and names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
    """

    reader: SidecarReader
    keys: KeyRing
    legacy_content: str = _NEW_CONTENT

    def get(self, blob_id: str) -> bytes:
        """Return a blob's plaintext.

        Raises:
            BlobNotFoundError: there is none.
            QuarantineError: its sidecar cannot be used.
            UnlistedKeyError: its key is not listed in the configuration.
            KmsError: its data key cannot be opened.
            ContentError: its content does not open with its data key.
            StoreError: the store did not answer.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                seen = self.reader.read(blob_id)
            except GoneError:
                break
            name = self.reader.layout.content_name(blob_id, seen.sidecar.object)
            provider = self.keys.provider(seen.wrapped.key_version.key)
            data_key = provider.unwrap(seen.wrapped, {"blob_id": blob_id})
            try:
                content = self.reader.store.read(name).data
            except NotFoundError:
                if tries_left:  # a writer may have committed a newer object in between
                    continue
                break
            return content_format(seen.sidecar.content or self.legacy_content).open(
                data_key, content
            )
        raise BlobNotFoundError(f"no blob {blob_id!r}")

    def put(self, blob_id: str, plaintext: bytes) -> None:
        """Write a blob under a new data key, wrapped by the primary KEK's current version.

        The content goes to a new object and becomes visible by one conditional write of the
        sidecar: a crash before it leaves what was there, whole. The content it replaces stays in
        the store, since a reader may be on its way to it.

        Raises:
            ReadOnlyError: the configuration names no primary KEK.
            UnsafeBlobIdError: the id cannot name a blob.
            QuarantineError: the sidecar that is there cannot be parsed; it is left as it is.
            BusyBlobError: other writers came first each time.
            KmsError: the KEK cannot be used; writes never fall back to another key.
            StoreError: the store did not answer.
        """
        check_blob_id(blob_id)
        context = {"blob_id": blob_id}
        data_key = DataKey.generate()
        if self.keys.primary is None:
            raise ReadOnlyError("[keys] names no primary KEK: this installation only reads")
        wrapped = self.keys.primary.wrap(data_key, context)
        generation = secrets.token_hex(16)
        name = self.reader.layout.content_name(blob_id, generation)
        self.reader.store.create(name, content_format(_NEW_CONTENT).seal(data_key, plaintext))

        def renew(sidecar: Sidecar) -> Sidecar:
            moved = sidecar.rewrapped(wrapped, context, previous=None)
            return replace(moved, content=_NEW_CONTENT, object=generation)

        self._commit(blob_id, renew)

    def _commit(self, blob_id: str, renew: Callable[[Sidecar], Sidecar]) -> None:
        name = self.reader.layout.sidecar_name(blob_id)
        for _ in range(_TRIES):
            try:
                seen = self.reader.read(blob_id)
            except GoneError:
                seen = None
            try:
                if seen is None or seen.stored is None:
                    self.reader.store.create(name, renew(Sidecar()).to_bytes())
                else:
                    self.reader.store.replace(name, renew(seen.sidecar).to_bytes(), seen.stored)
            except (AlreadyExistsError, ChangedError):
                continue
            return
        raise BusyBlobError(f"blob {blob_id!r} is being written by others; try again")


def open_blobs(path: str | Path, environ: Mapping[str, str] = os.environ) -> EncryptedBlobs:
    """Open the blobs that a configuration describes; connects to no key service yet.

    Args:
        path: the TOML file; only its tables `store` and `keys` are read.
        environ: where the secrets are that it names.

    Raises:
        ConfigError: the configuration cannot be used, or a secret is missing.
        StoreUnavailableError: the store is not there.
    """
    table = read_file(Path(path))
    ours = {name: value for name, value in table.items() if name in {"store", "keys"}}
    config = KeywrapConfig.from_table(ours)
    keys = open_keys(config, environ)
    return EncryptedBlobs(open_reader(config), keys, config.store.legacy_content)
