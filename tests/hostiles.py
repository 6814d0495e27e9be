"""Blobs whose sidecars or keys were tampered with, among healthy ones that must move anyway."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from keywrap.blobs import EncryptedBlobs
from keywrap.reading import SidecarReader
from keywrap.rewrapping import Outcome, Prove, Selection
from keywrap.stores import Store, Stored
from keywrap.testing.stores import MemoryStore
from tests.shapes import Shape
from tests.worlds import KEK, LEGACY_KINDS, World, by_id

Fill = Callable[[Mapping[str, bytes]], Store]
"""Makes a store of these objects."""

_HEALTHY = 24
_BOUND_LEGACY = ("wrapped", "provider")
"""The legacy kinds that name their key, and so need no default."""


class WatchedStore:
    """Passes everything on to a store, and remembers the name of each write that is tried."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tried: list[str] = []

    def check(self) -> None:
        self.store.check()

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        return self.store.read(name, limit=limit)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self.store.read_range(name, start, length)

    def create(self, name: str, data: bytes) -> None:
        self.tried.append(name)
        self.store.create(name, data)

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        self.tried.append(name)
        self.store.replace(name, data, expected)

    def delete(self, name: str) -> None:
        self.tried.append(name)
        self.store.delete(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        return self.store.names(prefix)


def in_memory(objects: Mapping[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    store._objects.update(objects)
    return store


def plant_shapes(world: World, shapes: Iterable[Shape], kind: str) -> dict[str, Shape]:
    """Plant each shape beside a blob of its own, and return them by blob id."""
    planted = {f"bad/{n:03d}": shape for n, shape in enumerate(shapes)}
    for blob_id, shape in planted.items():
        world.plant(kind, blob_id)
        world.write_sidecar(blob_id, shape.data)
        del world.originals[blob_id]
    return planted


def plant_healthy(world: World, selection: Selection) -> list[str]:
    """Plant blobs that a campaign is to move."""
    legacy = LEGACY_KINDS if world.reader.legacy_default else _BOUND_LEGACY
    kinds = legacy if selection is Selection.LEGACY else ("managed",)
    return [world.plant(kinds[n % len(kinds)], f"good/{n:03d}") for n in range(_HEALTHY)]


def besiege(
    world: World, shapes: tuple[Shape, ...], selection: Selection, prove: Prove, fill: Fill
) -> None:
    """Move bad sidecars and healthy blobs in one batch; see that each gets what it deserves."""
    bad = plant_shapes(world, shapes, "wrapped" if selection is Selection.LEGACY else "managed")
    good = plant_healthy(world, selection)
    if selection is Selection.MANAGED:
        world.kms.rotate(KEK)
    before = world.snapshot()
    store = fill(before)
    watched = WatchedStore(store)
    rewrapper = replace(world.rewrapper(), reader=replace(world.reader, store=watched))
    report = rewrapper.rewrap(interleaved([*bad], good), world.goal(selection, prove))
    results = by_id(report)
    assert report.interruption is None
    refused = {b: (r.outcome, r.reason_code) for b, r in results.items() if b in bad}
    assert refused == {b: (Outcome.QUARANTINED, s.reason_code) for b, s in bad.items()}
    assert {results[b].outcome for b in good} == {Outcome.REWRAPPED}
    assert_moved(world, store, good)
    assert sorted(watched.tried) == sorted(map(world.layout.sidecar_name, good))
    assert set(store.names()) == before.keys() | set(watched.tried)
    untouched = [name for name in before if name.startswith("bad/")]
    assert {n: store.read(n).data for n in untouched} == {n: before[n] for n in untouched}


def assert_moved(world: World, store: Store, blob_ids: Iterable[str]) -> None:
    """See that blobs open to their originals, under the target."""
    reader = SidecarReader(store, world.layout, world.reader.legacy_default)
    app = EncryptedBlobs(reader, world.keys, world.legacy_content)
    for blob_id in blob_ids:
        assert reader.read(blob_id).wrapped.key_version == world.target
        assert app.get(blob_id) == world.originals[blob_id]


def interleaved(some: list[str], others: list[str]) -> list[str]:
    """Mix two lists evenly, so that neither comes first as a whole."""
    ranked = [(n / len(each), blob_id) for each in (some, others) for n, blob_id in enumerate(each)]
    return [blob_id for _, blob_id in sorted(ranked)]
