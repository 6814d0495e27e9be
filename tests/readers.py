"""An independent reader: opens blobs from the description of the formats, with no code of ours."""

import base64
import binascii
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.plaincontents import open_content

_BATCH = 200
_PAUSE_S = 0.02
"""Between two reads: 40 in a second, and the processor is for who is watched."""

_DIRECT = "env:BLOB_KEY"
_WRAPPING = "env:BLOB_WRAP_KEY"


class OutageError(Exception):
    """OpenBao did not open a wrap; what it said."""


class PlainReader:
    """Opens blobs of a folder as another application would.

    Args:
        folder: where the blobs lie.
        environment: has the legacy keys.
        address: OpenBao's own address.
        token: a token that may decrypt.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], address: str, token: str
    ) -> None:
        self._folder = folder
        self._direct = binascii.unhexlify(environment["BLOB_KEY"])
        self._wrapping = AESGCM(base64.b64decode(environment["BLOB_WRAP_KEY"]))
        self._address = address
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["X-Vault-Token"] = token
        self.fallbacks = 0

    def close(self) -> None:
        self._session.close()

    def sidecar(self, blob_id: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(
                (self._folder / f"{blob_id}.blob.meta").read_bytes()
            )
        except FileNotFoundError:
            return {}
        return record

    def open(self, blob_id: str) -> bytes:
        """Return a blob's plaintext; by its `previous` wrap where OpenBao is away."""
        record = self.sidecar(blob_id)
        try:
            (key,) = self._keys([(blob_id, record)])
        except (OutageError, requests.RequestException):
            if "previous" not in record:
                raise
            (key,) = self._keys([(blob_id, record["previous"])])
            self.fallbacks += 1
        return self._content(blob_id, record, key)

    def data_key(self, blob_id: str) -> bytes:
        """Return a blob's data key."""
        (key,) = self._keys([(blob_id, self.sidecar(blob_id))])
        return key

    def wrong(self, blob_ids: Sequence[str], expected: Callable[[str], bytes]) -> list[str]:
        """Open many blobs; return the ids of those that are not what they should be."""
        wrong = []
        for start in range(0, len(blob_ids), _BATCH):
            records = [(b, self.sidecar(b)) for b in blob_ids[start : start + _BATCH]]
            for (blob_id, record), key in zip(records, self._keys(records), strict=True):
                if self._content(blob_id, record, key) != expected(blob_id):
                    wrong.append(blob_id)
        return wrong

    def _keys(self, wraps: Sequence[tuple[str, Mapping[str, Any]]]) -> list[bytes]:
        keys: list[bytes] = []
        asked: dict[str, list[tuple[int, str, str]]] = {}
        for place, (blob_id, record) in enumerate(wraps):
            key_id = record.get("key_id", _DIRECT)
            keys.append(b"")
            if key_id == _DIRECT:
                keys[place] = self._direct
            elif key_id == _WRAPPING:
                wrap = base64.b64decode(record["wrapped_dek"])
                keys[place] = self._wrapping.decrypt(wrap[:12], wrap[12:], None)
            else:
                name, _, version = key_id.removeprefix("hcvault://transit/").partition("?version=")
                ciphertext = f"vault:v{version}:{record['wrapped_dek']}"
                asked.setdefault(name, []).append((place, blob_id, ciphertext))
        for name, items in asked.items():
            for (place, _, _), key in zip(items, self._decrypt(name, items), strict=True):
                keys[place] = key
        return keys

    def _decrypt(self, name: str, items: Sequence[tuple[int, str, str]]) -> list[bytes]:
        batch = [{"ciphertext": text, "context": _context(b)} for _, b, text in items]
        answer = self._session.post(
            f"{self._address}/v1/transit/decrypt/{name}", json={"batch_input": batch}, timeout=2
        )
        results = (answer.json().get("data") or {}).get("batch_results") or []
        plain = [item.get("plaintext") for item in results]
        if answer.status_code != requests.codes.ok or None in plain or len(plain) != len(batch):
            raise OutageError(f"{answer.status_code}: {answer.text[:300]}")
        return [base64.b64decode(text) for text in plain]

    def _content(self, blob_id: str, record: Mapping[str, Any], key: bytes) -> bytes:
        generation = f".~{record['object']}" if "object" in record else ""
        sealed = (self._folder / f"{blob_id}.blob{generation}").read_bytes()
        return open_content(record.get("content", "records-v1"), key, sealed)


def _context(blob_id: str) -> str:
    bound = json.dumps({"blob_id": blob_id}, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(bound.encode()).decode()


class OldApplication:
    """The first adopter's application as it is today: one key, and no look at any sidecar.

    Args:
        folder: where the blobs lie.
        environment: has `BLOB_KEY`.
    """

    fallbacks = 0

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._key = binascii.unhexlify(environment["BLOB_KEY"])

    def open(self, blob_id: str) -> bytes:
        """Return a blob's plaintext."""
        return open_content(
            "records-v1", self._key, (self._folder / f"{blob_id}.blob").read_bytes()
        )

    def close(self) -> None:
        pass


class Watch:
    """A thread that keeps opening random blobs until its `with` block ends.

    Args:
        reader: how it opens them; used by this thread only.
        blob_ids: which.
        is_right: told a blob's id and the time before it was read and its plaintext.
        floor: called before each read; what it returns is told to `is_right`.
    """

    def __init__(
        self,
        reader: PlainReader | OldApplication,
        blob_ids: Sequence[str],
        is_right: Callable[[str, bytes, int], bool],
        floor: Callable[[str], int] = lambda _blob_id: 0,
    ) -> None:
        self._reader = reader
        self._blob_ids = blob_ids
        self._is_right = is_right
        self._floor = floor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="independent-reader", daemon=True)
        self.reads = 0
        self.failures: list[str] = []

    @property
    def fallbacks(self) -> int:
        return self._reader.fallbacks

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            blob_id = random.choice(self._blob_ids)
            floor = self._floor(blob_id)
            try:
                if not self._is_right(blob_id, self._reader.open(blob_id), floor):
                    self.failures.append(f"{blob_id}: another content")
            except Exception as error:  # noqa: BLE001 - whatever it is, the blob did not open
                self.failures.append(f"{blob_id}: {error!r}")
            self.reads += 1
            time.sleep(_PAUSE_S)
