"""Legacy blobs of several kinds, for tests, the demo and the benchmark."""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from keywrap.contents import ContentError, content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import KeyProvider
from keywrap.opening import open_many
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import Seen, SidecarReader
from keywrap.stores import Store, StoreError

KINDS = ("adopter", "adopter-no-sidecar", "wrapped", "wrapped-provider-field", "adopter-empty")
"""The first adopter's blobs with and without sidecar, wrapped data keys, and an empty blob."""

_LARGEST = 10_000
_BATCH = 200

_ENV_KEYS: Mapping[str, Mapping[str, str | int]] = {
    "aes-gcm": {"encoding": "hex", "scheme": "aes-gcm"},
    "aes-gcm-tag-first": {"encoding": "hex", "scheme": "aes-gcm-tag-first"},
    "aes-gcm-iv16": {"encoding": "hex", "scheme": "aes-gcm-iv16"},
    "aes-kw": {"encoding": "hex", "scheme": "aes-kw"},
    "aes-kwp": {"encoding": "hex", "scheme": "aes-kwp"},
    "fernet": {"encoding": "hex", "scheme": "fernet"},
    "bound-to-blob": {"encoding": "hex", "scheme": "aes-gcm", "aad": "dek:{blob_id}"},
    "sha256-of-text": {"encoding": "sha256-of-text", "scheme": "aes-gcm"},
    "pbkdf2": {
        "encoding": "passphrase",
        "scheme": "fernet",
        "kdf": "pbkdf2-sha256",
        "salt_hex": "73616c74",
        "iterations": 10_000,
        "key_bytes": 32,
    },
    "scrypt": {
        "encoding": "passphrase",
        "scheme": "aes-gcm-iv16",
        "kdf": "scrypt",
        "salt_hex": "",
        "n": 1024,
        "r": 8,
        "p": 1,
        "key_bytes": 24,
    },
}


@dataclass(frozen=True, slots=True)
class SchemeKeys:
    """Keys of every scheme, made at run time.

    Attributes:
        configuration: their tables, to be added to a `rewrap.toml`.
        environment: the variables that hold them.
        kinds: the URI of each, by the kind of blob that it wraps.
    """

    configuration: str
    environment: Mapping[str, str] = field(repr=False)
    kinds: Mapping[str, str]

    def providers(self, keys: KeyRing) -> dict[str, KeyProvider]:
        """Return the provider of each, for `LegacyBlobs`."""
        return {kind: keys.provider(uri) for kind, uri in self.kinds.items()}


def keys_of_every_scheme(folder: Path | None = None) -> SchemeKeys:
    """Make a key of each scheme that an environment's key may have.

    Args:
        folder: where to make the file of a local key as well; None: there is no such key.
    """
    lines, environment, kinds = [], {}, {}
    for kind, table in _ENV_KEYS.items():
        name = f"OLD_{kind.upper().replace('-', '_')}"
        # json.dumps writes texts and integers as TOML has them.
        lines += [f"[keys.env.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items()), ""]
        environment[name] = secrets.token_hex(32)
        kinds[kind] = f"env:{name}"
    if folder is not None:
        # Its locks are of Unix, the rest of this module is not.
        from keywrap.providers.local import create_key_file  # noqa: PLC0415

        path = folder / "old-local.key.json"
        kinds["local"] = create_key_file(path, "old-local").key
        lines += ["[keys.local.old-local]", f"file = {json.dumps(str(path))}", ""]
    return SchemeKeys("\n".join(lines), environment, kinds)


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
        more: further kinds of blobs, each with the key that wraps its data keys.
    """

    reader: SidecarReader
    direct: EnvKeyProvider
    wrapping: EnvKeyProvider
    seed: str = "legacy"
    more: Mapping[str, KeyProvider] = field(default_factory=dict)

    def ids(self, count: int, folder: str = "") -> list[str]:
        """Return the ids of the first `count` blobs of a folder, of all kinds in turn."""
        kinds = (*KINDS, *self.more)
        return [f"{folder}{kinds[n % len(kinds)]}-{n:06d}" for n in range(count)]

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
        make = self._adopters if self._wraps(blob_id) is None else self._wrapped
        make(self.reader.store, blob_id, self.original(blob_id))
        return blob_id

    def _wraps(self, blob_id: str) -> KeyProvider | None:
        """Return the key that wraps a blob's data key; None where it is the data key."""
        kind = _kind(blob_id)
        of_kind = self.more.get(kind.rpartition("-")[0])
        return self.wrapping if of_kind is None and kind.startswith("wrapped") else of_kind

    def _adopters(self, store: Store, blob_id: str, plaintext: bytes) -> None:
        key = self.direct.unwrap(WrappedKey(KeyVersion(self.direct.key), b""), {})
        content = content_format("records-v1").seal(key, plaintext)
        store.create(self.reader.layout.content_name(blob_id), content)
        if not _kind(blob_id).startswith("adopter-no-sidecar"):
            self._sidecar(store, blob_id, {"plaintext_size": len(plaintext)})

    def _wrapped(self, store: Store, blob_id: str, plaintext: bytes) -> None:
        key, provider = DataKey.generate(), self._wraps(blob_id) or self.wrapping
        wrapped = provider.wrap(key, {"blob_id": blob_id})
        content = content_format("gcm-v1").seal(key, plaintext)
        store.create(self.reader.layout.content_name(blob_id), content)
        record: dict[str, object] = {
            "key_id": str(wrapped.key_version),
            "wrapped_dek": base64.b64encode(wrapped.ciphertext).decode(),
            "dek_version": 1,
            "content": "gcm-v1",
            "tenant": {"name": "Zoë", "ratio": 1.10},
        }
        if _kind(blob_id).startswith("wrapped-provider-field"):
            record["provider"] = "env"
        if not wrapped.key_version.is_legacy:
            record["context"] = {"blob_id": blob_id}
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
        by_id = "records-v1" if self._wraps(blob_id) is None else "gcm-v1"
        try:
            content = self.reader.store.read(name).data
            form = content_format(seen.sidecar.content or by_id)
            return form.open(key, content) == self.original(blob_id)
        except (ContentError, StoreError):
            return False
