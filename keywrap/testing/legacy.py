"""Legacy blobs of several kinds, for tests, the demo and the benchmark."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from keywrap.contents import ContentError, content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.opening import open_many
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import Seen, SidecarReader
from keywrap.stores import Store, StoreError

KINDS = ("adopter", "adopter-no-sidecar", "wrapped", "wrapped-provider-field", "adopter-empty")
"""The first adopter's blobs with and without sidecar, wrapped data keys, and an empty blob."""

_LARGEST = 10_000
_BATCH = 200


def _kind(blob_id: str) -> str:
    return blob_id.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class LegacyBlobs:
    """Makes blobs whose plaintext follows from a seed, so that each can be checked afterwards.

    Attributes:
        reader: names the store and its layout.
        direct: the legacy key that is itself the data key of the first adopter's blobs.
        wrapping: the legacy key that wraps the data keys of the others.
        seed: what the plaintexts follow from.
    """

    reader: SidecarReader
    direct: EnvKeyProvider
    wrapping: EnvKeyProvider
    seed: str = "legacy"

    def ids(self, count: int, folder: str = "") -> list[str]:
        """Return the ids of the first `count` blobs of a folder, of all kinds in turn."""
        return [f"{folder}{KINDS[n % len(KINDS)]}-{n:06d}" for n in range(count)]

    def original(self, blob_id: str) -> bytes:
        """Return a blob's plaintext."""
        digest = hashlib.sha256(f"{self.seed}/{blob_id}".encode())
        size = int.from_bytes(digest.digest()[:4], "big") % _LARGEST
        if _kind(blob_id).startswith("adopter-empty"):
            return b""
        return hashlib.shake_256(digest.digest()).digest(size)

    def make(self, blob_ids: Iterable[str], pool: Executor) -> Iterator[str]:
        """Write blobs to the store, and yield the id of each when it is there."""
        return pool.map(self._make_one, blob_ids)

    def _make_one(self, blob_id: str) -> str:
        make = self._wrapped if _kind(blob_id).startswith("wrapped") else self._adopters
        make(self.reader.store, blob_id, self.original(blob_id))
        return blob_id

    def _adopters(self, store: Store, blob_id: str, plaintext: bytes) -> None:
        key = self.direct.unwrap(WrappedKey(KeyVersion(self.direct.key), b""), {})
        content = content_format("records-v1").seal(key, plaintext)
        store.create(self.reader.layout.content_name(blob_id), content)
        if not _kind(blob_id).startswith("adopter-no-sidecar"):
            self._sidecar(store, blob_id, {"plaintext_size": len(plaintext)})

    def _wrapped(self, store: Store, blob_id: str, plaintext: bytes) -> None:
        key = DataKey.generate()
        wrapped = self.wrapping.wrap(key, {"blob_id": blob_id})
        content = content_format("gcm-v1").seal(key, plaintext)
        store.create(self.reader.layout.content_name(blob_id), content)
        record = {
            "key_id": self.wrapping.key,
            "wrapped_dek": base64.b64encode(wrapped.ciphertext).decode(),
            "dek_version": 1,
            "content": "gcm-v1",
            "tenant": {"name": "Zoë", "ratio": 1.10},
        }
        if _kind(blob_id).startswith("wrapped-provider-field"):
            record["provider"] = "env"
        self._sidecar(store, blob_id, record)

    def _sidecar(self, store: Store, blob_id: str, record: dict[str, object]) -> None:
        data = json.dumps(record).encode()
        store.create(self.reader.layout.sidecar_name(blob_id), data)

    def wrong(self, blob_ids: Sequence[str], keys: KeyRing, pool: Executor) -> list[str]:
        """Open blobs as a reader would; return the ids of those that are not their originals.

        Raises:
            KmsError: a KEK as a whole cannot be used.
            QuarantineError: a sidecar cannot be read.
        """
        wrong = []
        for start in range(0, len(blob_ids), _BATCH):
            ids = blob_ids[start : start + _BATCH]
            seen = list(pool.map(self.reader.read, ids))
            items = [
                (s.wrapped, {"blob_id": blob_id}) for blob_id, s in zip(ids, seen, strict=True)
            ]
            for blob_id, s, key in zip(ids, seen, open_many(keys, items), strict=True):
                if not isinstance(key, DataKey) or not self._is_original(blob_id, s, key):
                    wrong.append(blob_id)
        return wrong

    def _is_original(self, blob_id: str, seen: Seen, key: DataKey) -> bool:
        name = self.reader.layout.content_name(blob_id, seen.sidecar.object)
        by_id = "gcm-v1" if _kind(blob_id).startswith("wrapped") else "records-v1"
        try:
            content = self.reader.store.read(name).data
            form = content_format(seen.sidecar.content or by_id)
            return form.open(key, content) == self.original(blob_id)
        except (ContentError, StoreError):
            return False
