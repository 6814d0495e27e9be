"""A live application that replaces blobs, in a process of its own: `python -m tests.writers`.

It replaces random blobs, one after the other, until its standard input is closed, and writes a
line for each on its standard output when the replacement is done: the blob's id and edition.

`put` is an application that uses `EncryptedBlobs`. `legacy` is one that has never heard of us: it
knows no lock and no KMS, and writes content and sidecar as whole new files, renamed into place.
"""

import json
import os
import random
import select
import sys
import threading
from binascii import unhexlify
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.blobs import EncryptedBlobs
from keywrap.config import open_keys, open_reader
from tests.sites import Site
from workers.settings import load

_PAUSE_S = 0.01


def edition(blob_id: str, number: int) -> bytes:
    """Return the content of a blob's n-th replacement: it says what it is."""
    return f"{number} edition of {blob_id} ".encode() * 300


class Writer:
    """A live application, as a test has it: starts with its `with` block and ends with it.

    Args:
        site: where it writes.
        manner: `put` or `legacy`.
        blob_ids: the blobs that it replaces; nobody else writes them.
    """

    def __init__(self, site: Site, manner: str, blob_ids: Sequence[str]) -> None:
        self._site = site
        self._argv = [sys.executable, "-m", "tests.writers", manner, str(site.store), *blob_ids]
        self.done: dict[str, int] = dict.fromkeys(blob_ids, 0)
        self.writes = 0

    def __enter__(self) -> Self:
        self._process = Popen(
            self._argv, env=self._site.environment, stdin=PIPE, stdout=PIPE, text=True
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        return self

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            blob_id, _, number = line.rstrip("\n").rpartition(" ")
            self.done[blob_id] = int(number)
            self.writes += 1

    def stop(self) -> None:
        """Let it end its last replacement, and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._listener.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def floor(self, blob_id: str) -> int:
        """The edition that is surely there."""
        return self.done[blob_id]

    def is_right(self, blob_id: str, plain: bytes, floor: int) -> bool:
        """Whether a reader that began when `floor` was there may have read this."""
        if floor == 0 and plain == self._site.original(blob_id):
            return True
        number = plain.partition(b" ")[0]
        if not number.isdigit() or not floor <= int(number) <= self.done[blob_id] + 50:
            return False
        return plain == edition(blob_id, int(number))

    def last(self, blob_id: str) -> bytes:
        """What must be there when all is done."""
        number = self.done[blob_id]
        return edition(blob_id, number) if number else self._site.original(blob_id)


def _put(blob_ids: Sequence[str], _folder: Path) -> None:
    settings = load()
    blobs = EncryptedBlobs(
        open_reader(settings.keywrap),
        open_keys(settings.keywrap, os.environ),
        settings.keywrap.store.legacy_content,
    )
    for blob_id, number in _rounds(blob_ids):
        blobs.put(blob_id, edition(blob_id, number))
        _tell(blob_id, number)


def _legacy(blob_ids: Sequence[str], folder: Path) -> None:
    cipher = AESGCM(unhexlify(os.environ["BLOB_KEY"]))
    for blob_id, number in _rounds(blob_ids):
        plain = edition(blob_id, number)
        sealed = b""
        for start in range(0, len(plain), 4096):
            nonce = os.urandom(12)
            record = cipher.encrypt(nonce, plain[start : start + 4096], None)
            sealed += nonce + len(record).to_bytes(4) + record
        _rename_into(folder / f"{blob_id}.blob", sealed)
        sidecar = {"plaintext_size": len(plain), "edition": number}
        _rename_into(folder / f"{blob_id}.blob.meta", json.dumps(sidecar).encode())
        _tell(blob_id, number)


def _rename_into(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_bytes(data)
    fresh.replace(path)


def _rounds(blob_ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    numbers = dict.fromkeys(blob_ids, 0)
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        blob_id = random.choice(blob_ids)
        numbers[blob_id] += 1
        yield blob_id, numbers[blob_id]


def _tell(blob_id: str, number: int) -> None:
    print(blob_id, number, flush=True)  # noqa: T201 - it is asked for it


if __name__ == "__main__":
    {"put": _put, "legacy": _legacy}[sys.argv[1]](sys.argv[3:], Path(sys.argv[2]))
