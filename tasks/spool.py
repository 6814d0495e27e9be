"""What a scan has found, kept in a file until it is recorded, so that memory does not grow."""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Self

import msgspec

from ledger.findings import Finding

Lane = tuple[str, str]
"""A queue and a KEK, as `ledger.queues.by_lane` groups by."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Finding]).decode


class Spool:
    """Findings in the order in which they came, by lane, in groups of a size.

    The file has no name, and goes with the process. It holds no more than the ledger is about to:
    ids of blobs and of keys.

    Args:
        group_size: how many findings each group has; the last one of a lane may have fewer.
    """

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self._written: list[tuple[Lane, int]] = []
        self._open: dict[Lane, list[Finding]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, lane: Lane, found: Sequence[Finding]) -> None:
        """Keep findings of a lane."""
        group = self._open.setdefault(lane, [])
        group += found
        while len(group) >= self._group_size:
            data = _encode(group[: self._group_size])
            self._file.write(data)
            self._written.append((lane, len(data)))
            del group[: self._group_size]

    def groups(self) -> Iterator[tuple[Lane, list[Finding]]]:
        """Yield each group with its lane."""
        self._file.seek(0)
        for lane, size in self._written:
            yield lane, _decode(self._file.read(size))
        yield from ((lane, group) for lane, group in self._open.items() if group)
