"""The chain of segments: each entry's hash holds the one before it, and so all before it.

    hash n = SHA-256(domain, 0, hash n-1, the segment as JSON with sorted names)

Whoever changes, removes or reorders entries has to compute all later hashes anew, and then the
last one is not the one that was signed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import Self

from keywrap.segments import Segment
from keywrap.trailfaults import Fault, FaultKind

GENESIS = bytes(32)
"""The hash before the first entry."""

_HEAD = re.compile(r"([1-9][0-9]{0,15}):([0-9a-f]{64})")
_DOMAIN = b"rewrap audit chain v1\0"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends.

    Attributes:
        entries: how many entries it has.
        hash: the hash of the last one; `GENESIS` where there is none.
    """

    entries: int = 0
    hash: bytes = GENESIS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a head as it is printed: entries, a colon, the hash in hexadecimal digits.

        Raises:
            ValueError: it is something else.
        """
        match = _HEAD.fullmatch(text)
        if match is None:
            raise ValueError("a head is the number of entries, a colon and 64 hexadecimal digits")
        return cls(int(match[1]), bytes.fromhex(match[2]))

    def __str__(self) -> str:
        return f"{self.entries}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A segment in its place of the chain.

    Attributes:
        place: its place, counted from 1.
        segment: the segment.
        previous: the hash of the entry before it.
        hash: its own.
    """

    place: int
    segment: Segment
    previous: bytes
    hash: bytes


def link(previous: bytes, segment: Segment) -> bytes:
    """Return the hash of the entry that a segment makes behind another."""
    return hashlib.sha256(_DOMAIN + previous + _canonical(segment)).digest()


def chained(head: Head, segments: Iterable[Segment]) -> Iterator[Entry]:
    """Yield the entries that segments make behind a head."""
    place, previous = head.entries, head.hash
    for segment in segments:
        place += 1
        entry = Entry(place, segment, previous, link(previous, segment))
        previous = entry.hash
        yield entry


class ChainCheck:
    """Looks at the entries of a chain, one after the other in order of their places.

    Args:
        signed: the head that was signed; None: there is none, so a chain that was computed anew
            or cut at its end is not found.

    Attributes:
        head: the last entry seen so far.
    """

    def __init__(self, signed: Head | None) -> None:
        self._signed = signed
        self._before: bytes | None = GENESIS  # None: unknown, since something is wrong there
        self.head = Head()

    def take(self, entry: Entry) -> Iterator[Fault]:
        """Look at the next entry."""
        gap = entry.place - self.head.entries - 1
        name = entry.segment.name
        if gap:
            yield Fault(FaultKind.ROW_MISSING, name, f"{gap} entries before it are gone")
        if link(entry.previous, entry.segment) != entry.hash:
            said = f"entry {entry.place} is not what was chained"
            yield Fault(FaultKind.ROW_CHANGED, name, said)
            before = None
        else:
            before = entry.hash
            if not gap and self._before is not None and entry.previous != self._before:
                said = f"entry {entry.place} was chained behind another than stands before it"
                yield Fault(FaultKind.REORDERED, name, said)
        self._before = before
        self.head = Head(entry.place, entry.hash)
        if self._signed and entry.place == self._signed.entries:
            yield from self._compare(entry)

    def _compare(self, entry: Entry) -> Iterator[Fault]:
        if self._signed and entry.hash != self._signed.hash:
            yield Fault(
                FaultKind.HEAD_MISMATCH,
                entry.segment.name,
                f"entry {entry.place} is not the one whose hash was signed: entries up to it were "
                "changed and the chain was computed anew",
            )

    def end(self) -> Iterator[Fault]:
        """Say that there are no more entries."""
        if self._signed and self.head.entries < self._signed.entries:
            yield Fault(
                FaultKind.CHAIN_CUT,
                "",
                f"the chain has {self.head.entries} entries, and its head was signed at "
                f"{self._signed.entries}",
            )


def _canonical(segment: Segment) -> bytes:
    """Encode a segment as it is chained: JSON, names sorted, compact, ASCII. Never to change."""
    source = segment.source
    record = {
        "name": segment.name,
        "campaign": source.campaign_id,
        "shard": source.shard_no,
        "fence": source.fence,
        "owner": source.owner,
        "events": segment.events,
        "size": segment.size,
        "sha256": segment.sha256.hex(),
        "closed_at": segment.closed_at.astimezone(UTC).isoformat(timespec="microseconds"),
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
