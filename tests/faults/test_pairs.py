"""Two crashes in a row: one run dies at one named step, the next at another, the third finishes."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keywrap.filestore import FileStore
from keywrap.objectstore import ObjectStore
from keywrap.rewrapping import Goal, Outcome, Prove, Rewrapper, Selection
from keywrap.stores import Store, Stored
from tests.hostiles import WatchedStore, assert_moved
from tests.worlds import KEK, KINDS, STEPS, SimulatedCrash, World, at, crash

WRITTEN = "written"
"""The moment after the write, of which nobody is told any more."""

MOMENTS = (*STEPS, WRITTEN)
BUCKET_KINDS = ("bare", "wrapped", "managed")
"""Those whose writes differ in a bucket: a creation, a replacement, and one within a KEK."""


class Dying(WatchedStore):
    """A store whose writer may die just after its write.

    Attributes:
        written: called after each write.
    """

    def __init__(self, store: Store, written: Callable[[], None]) -> None:
        super().__init__(store)
        self.written = written

    def create(self, name: str, data: bytes) -> None:
        super().create(name, data)
        self.written()

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        super().replace(name, data, expected)
        self.written()


def rewrapper_at(world: World, store: Store, moment: str) -> Rewrapper:
    """Return one whose process dies at a moment; it lives where that is none."""
    act = at(moment, crash)
    dying = Dying(store, lambda: act(WRITTEN))
    return replace(world.rewrapper(act), reader=replace(world.reader, store=dying))


def crash_twice(kind: str, store: Store, folder: str, pair: tuple[str, str]) -> None:
    """Let one blob's rewrap die twice; see after each that it opens, and let it be finished."""
    world = World()
    blob_id = world.plant(kind, f"{folder}/blob")
    selection = Selection.MANAGED if kind == "managed" else Selection.LEGACY
    if kind == "managed":
        world.kms.rotate(KEK)
    for name, data in world.snapshot().items():
        store.create(name, data)
    reader = replace(world.reader, store=store)
    app = replace(world.app, reader=reader)
    goal = world.goal(selection, Prove.ALL)
    moved = False
    for moment in pair:
        assert dies(rewrapper_at(world, store, moment), blob_id, goal) or moved
        moved = moved or moment == WRITTEN
        assert app.get(blob_id) == world.originals[blob_id], f"after a crash at {moment}"
        assert reader.read(blob_id).wrapped.key_version.satisfies(world.target) == moved
    (result,) = rewrapper_at(world, store, "").rewrap([blob_id], goal).results
    assert result.outcome is (Outcome.CURRENT if moved else Outcome.REWRAPPED)
    assert_moved(world, store, [blob_id])


def dies(rewrapper: Rewrapper, blob_id: str, goal: Goal) -> bool:
    try:
        rewrapper.rewrap([blob_id], goal)
    except SimulatedCrash:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_in_a_folder_outlives_every_pair_of_crashes(kind: str, tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for n, pair in enumerate(itertools.product(MOMENTS, repeat=2)):
        crash_twice(kind, store, f"{n}", pair)


@pytest.mark.parametrize("kind", BUCKET_KINDS)
def test_a_blob_in_a_bucket_outlives_every_pair_of_crashes(
    kind: str, s3_store: ObjectStore
) -> None:
    for n, pair in enumerate(itertools.product(MOMENTS, repeat=2)):
        crash_twice(kind, s3_store, f"{n}", pair)
