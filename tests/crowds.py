"""Live applications in processes of their own: `python -m tests.crowds reader|writer …`.

Each opens the site's blobs as an application does, goes on until its standard input is closed, and
then writes one JSON object: how often it read or wrote, and what failed. A writer first looks
whether the last edition of each of its blobs is there still.
"""

import hashlib
import json
import random
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Any, Self

from keywrap.auditing import JsonLines
from keywrap.blobs import BusyBlobError, EncryptedBlobs, open_blobs
from tests.sites import Site
from tests.writers import edition

PAUSE_S = 0.005


class Crowd:
    """Readers and writers that hammer a site's store, from the `with` block's start to its end.

    Args:
        site: where.
        blob_ids: what is read.
        live: which of them are replaced all along, each by one writer.
        readers: how many processes read.
        writers: how many write.

    Attributes:
        told: what each process said at its end.
    """

    def __init__(
        self,
        site: Site,
        blob_ids: Sequence[str],
        live: Sequence[str],
        *,
        readers: int,
        writers: int,
    ) -> None:
        self._site = site
        digests = {b: hashlib.sha256(site.original(b)).hexdigest() for b in blob_ids}
        (site.directory / "digests.json").write_text(json.dumps(digests))
        self._commands = [("reader", str(n), *blob_ids) for n in range(readers)]
        self._commands += [("writer", str(n), *live[n::writers]) for n in range(writers)]
        self._stack = ExitStack()
        self.told: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._processes = [
            Popen(
                [sys.executable, "-m", "tests.crowds", *command],
                env=self._site.environment,
                cwd=self._site.directory,
                stdin=PIPE,
                stdout=PIPE,
                text=True,
            )
            for command in self._commands
        ]
        for process in self._processes:
            self._stack.callback(process.kill)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            for process in self._processes:
                out, _ = process.communicate(timeout=60)
                self.told.append(json.loads(out))

    def wraps(self) -> list[dict[str, Any]]:
        """Return the events of the wraps that the writers made, so far."""
        lines = [
            line
            for file in self._site.directory.glob("writer-*.jsonl")
            for line in file.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        events = [json.loads(line) for line in lines]
        return [e for e in events if e["event"] == "wrap" and e["outcome"] == "ok"]


def _is_sound(blob_id: str, plain: bytes, digest: str) -> bool:
    number, _, _ = plain[:20].partition(b" ")
    if number.isdigit() and plain == edition(blob_id, int(number)):
        return True
    return hashlib.sha256(plain).hexdigest() == digest


def _reader(blobs: EncryptedBlobs, ids: Sequence[str]) -> Callable[[], str]:
    digests: Mapping[str, str] = json.loads(Path("digests.json").read_text())

    def read() -> str:
        blob_id = random.choice(ids)
        plain = random.choice((blobs.get, lambda b: b"".join(blobs.stream(b))))(blob_id)
        return "" if _is_sound(blob_id, plain, digests[blob_id]) else f"{blob_id}: another content"

    return read


def _writer(blobs: EncryptedBlobs, ids: Sequence[str], done: dict[str, int]) -> Callable[[], str]:
    def write() -> str:
        blob_id = random.choice(ids)
        number = done.get(blob_id, 0) + 1
        try:
            blobs.put(blob_id, edition(blob_id, number))
        except BusyBlobError:
            return ""  # the campaign was quicker each time; nothing of it is visible
        done[blob_id] = number
        return _lost(blobs, blob_id, number)

    return write


def _lost(blobs: EncryptedBlobs, blob_id: str, number: int) -> str:
    is_there = blobs.get(blob_id) == edition(blob_id, number)
    return "" if is_there else f"{blob_id}: not what was written"


def main(manner: str, number: str, ids: Sequence[str]) -> None:
    audit = JsonLines(Path(f"{manner}-{number}.jsonl"))
    blobs = open_blobs("rewrap.toml", audit=audit)
    done: dict[str, int] = {}
    step = _writer(blobs, ids, done) if manner == "writer" else _reader(blobs, ids)
    times, failures = 0, []
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        try:
            failure = step()
        except Exception as error:  # noqa: BLE001 - whatever it is, an application met it
            failure = repr(error)
        failures += [failure] if failure else []
        times += 1
    failures += filter(None, (_lost(blobs, *last) for last in done.items()))
    json.dump({"manner": manner, "times": times, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
