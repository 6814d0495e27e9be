"""Blobs of every kind and their keys, all in memory, for the tests of what moves and reads them."""

import base64
import json
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from keywrap.blobs import EncryptedBlobs
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider
from keywrap.layout import Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.rewrapping import Goal, Prove, Report, Result, Rewrapper, Selection
from keywrap.stores import Stored, StoreUnavailableError
from keywrap.testing.kms import MemoryKeyProvider, MemoryKms, SimpleMemoryKeyProvider
from keywrap.testing.stores import MemoryStore
from keywrap.verifying import Verifier

KEK = "hcvault://memory/blob-kek"
OTHER_KEK = "hcvault://memory/other-kek"
LEGACY_KINDS = ("direct", "bare", "wrapped", "provider", "empty")
"""The legacy key is the data key, with and without sidecar; it wraps the data key, with and
without a `provider` field; a blob of no bytes."""
KINDS = (*LEGACY_KINDS, "managed")
STEPS = ("read", "open", "match", "wrap", "prove", "replace")


class SimulatedCrash(BaseException):
    """What a SIGKILL looks like from inside: nothing catches it."""


class InlineExecutor(Executor):
    """Runs each call at once, so that a test says what happens when."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


class FaultyStore(MemoryStore):
    """A store of which single objects, or all, can be away, and that loses replies to creates."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[str] = set()
        self.is_down = False
        self.lose_creates = 0

    def _reach(self, name: str) -> None:
        if self.is_down or name in self.away:
            raise StoreUnavailableError("the store does not answer", name=name)

    def check(self) -> None:
        super().check()
        self._reach("")

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        stored = super().read(name, limit=limit)
        self._reach(name)
        return stored

    def read_range(self, name: str, start: int, length: int) -> bytes:
        part = super().read_range(name, start, length)
        self._reach(name)
        return part

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        self._reach(name)
        super().replace(name, data, expected)

    def create(self, name: str, data: bytes) -> None:
        self._reach(name)
        super().create(name, data)
        if self.lose_creates:
            self.lose_creates -= 1
            raise StoreUnavailableError("the reply was lost", name=name)


class World:
    """A store, a key service, legacy keys, and blobs whose plaintext is known."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        provider: type[SimpleMemoryKeyProvider] = MemoryKeyProvider,
        *,
        legacy_default: bool = True,
    ) -> None:
        self.store = store or FaultyStore()
        self.kms = MemoryKms()
        self.kek = provider(self.kms, KEK)
        self.other_kek = provider(self.kms, OTHER_KEK)
        self.direct_key = DataKey.generate()
        self.direct = EnvKeyProvider("BLOB_KEY", self.direct_key, "direct")
        self.wrapping = EnvKeyProvider("OLD_KEK", DataKey.generate(), "aes-gcm")
        providers: list[KeyProvider] = [self.kek, self.other_kek, self.direct, self.wrapping]
        self.keys = KeyRing(providers, primary=KEK)
        self.layout = Layout()
        self.legacy_content = "records-v1"
        self.pool = InlineExecutor()
        self.originals: dict[str, bytes] = {}
        default = KeyVersion(self.direct.key) if legacy_default else None
        self.reader = SidecarReader(self.store, self.layout, default)
        # The same objects without the faults, hooks and counters: other writers, and our eyes.
        aside = MemoryStore()
        aside.share(self.store)
        self.aside = aside
        self.app = EncryptedBlobs(
            SidecarReader(aside, self.layout, default), self.keys, self.legacy_content
        )

    @property
    def target(self) -> KeyVersion:
        return self.kms.current_version(KEK)

    def plant(self, kind: str, blob_id: str, plaintext: bytes | None = None) -> str:
        """Write a blob as whoever wrote it before us."""
        text = os.urandom(100) if plaintext is None else plaintext
        if kind == "empty":
            text = b""
        self.originals[blob_id] = text
        if kind in {"direct", "bare", "empty"}:
            self.write_content(blob_id, text, self.direct_key, "records-v1")
            if kind != "bare":
                self.write_sidecar(blob_id, {"plaintext_size": len(text)})
            return blob_id
        data_key = DataKey.generate()
        self.write_content(blob_id, text, data_key, "gcm-v1")
        provider = self.kek if kind in {"managed", "unbound"} else self.wrapping
        wrapped = provider.wrap(data_key, {"blob_id": blob_id})
        record: dict[str, Any] = {
            "key_id": str(wrapped.key_version),
            "wrapped_dek": base64.b64encode(wrapped.ciphertext).decode(),
            "dek_version": 1,
            "content": "gcm-v1",
        }
        if kind == "managed":
            record["context"] = {"blob_id": blob_id}
        if kind == "provider":
            record["provider"] = "env"
        self.write_sidecar(blob_id, record)
        return blob_id

    def write_content(self, blob_id: str, text: bytes, data_key: DataKey, form: str) -> None:
        sealed = content_format(form).seal(data_key, text)
        name = self.layout.content_name(blob_id)
        self.store._objects[name] = sealed
        self.store.stamp(name)

    def write_sidecar(self, blob_id: str, record: dict[str, Any] | bytes) -> None:
        """Write a sidecar past every hook, as a foreign writer does."""
        data = record if isinstance(record, bytes) else json.dumps(record).encode()
        name = self.layout.sidecar_name(blob_id)
        self.store._objects[name] = data
        self.store.stamp(name)

    def raw(self, blob_id: str) -> bytes:
        return self.store._objects[self.layout.sidecar_name(blob_id)]

    def sidecar(self, blob_id: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.raw(blob_id))
        return record

    def edit(self, blob_id: str, **fields: Any) -> None:
        """Change fields of a sidecar; None removes one."""
        record = self.sidecar(blob_id) | fields
        self.write_sidecar(blob_id, {k: v for k, v in record.items() if v is not None})

    def put(self, blob_id: str, plaintext: bytes) -> None:
        """Write as an application that uses `keywrap`."""
        self.app.put(blob_id, plaintext)
        self.originals[blob_id] = plaintext

    def delete(self, blob_id: str) -> None:
        for name in (self.layout.content_name(blob_id), self.layout.sidecar_name(blob_id)):
            self.store._objects.pop(name, None)
        self.originals.pop(blob_id, None)

    def snapshot(self) -> dict[str, bytes]:
        objects = self.store._objects.items()
        return {name: data for name, data in objects if not name.startswith(".rewrap/")}

    def wrong(self) -> list[str]:
        """Return the blobs that a reader does not get their own content of."""
        return [b for b, text in self.originals.items() if self.app.get(b) != text]

    def goal(self, selection: Selection, prove: Prove, *, keep_previous: bool = True) -> Goal:
        return Goal(self.target, selection, prove, keep_previous)

    def rewrapper(self, before: Callable[[str], None] = lambda _step: None) -> Rewrapper:
        return Rewrapper(self.reader, self.keys, self.legacy_content, self.pool, before)

    def verifier(self) -> Verifier:
        return Verifier(self.reader, self.keys, self.legacy_content, self.pool)

    def migrate(
        self,
        *blob_ids: str,
        prove: Prove = Prove.ALL,
        keep_previous: bool = True,
        before: Callable[[str], None] = lambda _step: None,
    ) -> Report:
        goal = self.goal(Selection.LEGACY, prove, keep_previous=keep_previous)
        return self.rewrapper(before).rewrap(blob_ids, goal)

    def rotate(
        self,
        *blob_ids: str,
        prove: Prove = Prove.ALL,
        keep_previous: bool = True,
        before: Callable[[str], None] = lambda _step: None,
    ) -> Report:
        goal = self.goal(Selection.MANAGED, prove, keep_previous=keep_previous)
        return self.rewrapper(before).rewrap(blob_ids, goal)


def spoilt(data: bytes) -> bytes:
    """Return data of which the last byte is another one."""
    return data[:-1] + bytes([data[-1] ^ 1])


def at(step: str, act: Callable[[], None]) -> Callable[[str], None]:
    """Make a `before` hook that acts once, at the first step of that name."""
    left = [act]

    def before(name: str) -> None:
        if name == step and left:
            left.pop()()

    return before


def crash() -> None:
    raise SimulatedCrash


def by_id(report: Report) -> dict[str, Result]:
    """Return the results by blob, and see that no blob has two."""
    results = {result.blob_id: result for result in report.results}
    assert len(results) == len(report.results)
    return results
