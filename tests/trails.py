"""Audit trails for tests: segments in a folder, their chain, and its signed head in a store."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keywrap.auditchain import Entry, Head, chained
from keywrap.audithead import NAME, HeadFile
from keywrap.journal import SegmentJournal
from keywrap.keys import KeyVersion
from keywrap.segments import Segment, Source
from keywrap.signing import SigningKey
from keywrap.testing.stores import MemoryStore
from keywrap.trailcheck import check_trail, read_head
from keywrap.trailfaults import Fault

KEY = KeyVersion("hcvault://transit/blob-kek", "3")


def signing_key(rng: random.Random) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)))


def segment_of(folder: Path, source: Source, blob_ids: Sequence[str]) -> Segment:
    journal = SegmentJournal(folder, source)
    journal.used("unwrap", [(blob_id, KEY, None, "") for blob_id in blob_ids])
    segment = journal.close()
    assert segment is not None
    return segment


@dataclass
class Trail:
    """A trail on disk and in memory, whose every part a test may change."""

    folder: Path
    rng: random.Random
    segments: int
    store: MemoryStore = field(default_factory=MemoryStore)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = signing_key(self.rng)
        self.file = HeadFile(self.store, self.key.public)
        self.write(self.segments)

    def write(self, segments: int) -> None:
        """Add segments, and sign where the chain ends then."""
        new = []
        for _ in range(segments):
            number = len(self.entries) + len(new)
            source = Source(7, number, self.rng.randint(1, 9), "host-4:1207")
            ids = [f"tenants/{number}/{n}" for n in range(self.rng.randint(1, 6))]
            new.append(segment_of(self.folder, source, ids))
        self.entries += chained(self.head, new)
        self.file.publish(self.key, self.head, lambda _known: True)

    @property
    def head(self) -> Head:
        return Head(self.entries[-1].place, self.entries[-1].hash) if self.entries else Head()

    def path(self, entry: Entry) -> Path:
        return self.folder / entry.segment.name

    def chain_anew(self, segments: Sequence[Segment]) -> None:
        """Do what somebody does who may write to the ledger, and knows how it is computed."""
        self.entries = list(chained(Head(), segments))

    def faults(self) -> list[Fault]:
        return list(check_trail(self.entries, [self.folder], read_head(self.file)))

    def kinds(self) -> set[str]:
        return {fault.kind.value for fault in self.faults()}

    def head_bytes(self) -> bytes:
        return self.store.read(NAME).data

    def put_head(self, data: bytes | None) -> None:
        if data is None:
            self.store._objects.pop(NAME, None)
        else:
            self.store._objects[NAME] = data
