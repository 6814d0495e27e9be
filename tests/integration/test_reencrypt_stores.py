"""Re-encryption killed at every step, and around every single write, on files and in a bucket."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keywrap.blobs import EncryptedBlobs
from keywrap.contents import content_format
from keywrap.filestore import FileStore
from keywrap.objectstore import ObjectStore
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Goal, Outcome, Prove, Report, Selection
from keywrap.scan import contents
from keywrap.stores import Store, Stored, StoreUnavailableError
from keywrap.sweeping import Sweeper, take_bearings
from keywrap.testing.aws_server import AwsServer
from tests.worlds import SimulatedCrash, World, at, crash

STEPS = ("read", "open", "match", "wrap", "prove", "encrypt", "replace")
LARGE = 5 * 1024 * 1024
"""A content that is written as a stream, and in a bucket in several parts."""


class Doomed:
    """A store that kills whoever makes a certain write, just before it or just after it.

    Args:
        store: what takes the writes.
        nth: which write, counted from 0.
        after: whether the write is made.
    """

    def __init__(self, store: Any, nth: int, *, after: bool) -> None:
        self._store, self._left, self._after = store, nth, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, name: str, data: bytes) -> None:
        self._around(lambda: self._store.create(name, data))

    def create_from(self, name: str, chunks: Iterable[bytes]) -> None:
        self._around(lambda: self._store.create_from(name, chunks))

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        self._around(lambda: self._store.replace(name, data, expected))

    def delete(self, name: str) -> None:
        self._around(lambda: self._store.delete(name))

    def _around(self, write: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == -1 and not self._after:
            raise SimulatedCrash
        write()
        if self._left == -1:
            raise SimulatedCrash


class Place:
    """Blobs in a real store: under data keys of their own, a shared one, small and large."""

    def __init__(self, store: Store) -> None:
        self.world = World()
        self.store = store
        self.reader = replace(self.world.reader, store=store)
        self.app = EncryptedBlobs(self.reader, self.world.keys, self.world.legacy_content)
        self.texts = {"put/a": b"a" * 1000, "put/large": b"large" * (LARGE // 5), "d/0": b"zero"}
        self.texts |= {"d/1": b"one" * 5000, "put/empty": b""}
        for blob_id, text in self.texts.items():
            if blob_id.startswith("put/"):
                self.app.put(blob_id, text)
            else:
                sealed = content_format("records-v1").seal(self.world.direct_key, text)
                store.create(self.world.layout.content_name(blob_id), sealed)

    def reencrypt(
        self, mark: bytes, store: Any = None, before: Callable[[str], None] = lambda _step: None
    ) -> Report:
        world = self.world
        reader = replace(self.reader, store=store or self.store)
        means = reader, world.keys, world.legacy_content, world.pool
        goal = Goal(world.target, Selection.ALL, Prove.ALL, mark=mark)
        return Reencrypter(*means, before).rewrap(self.texts, goal)

    def assert_whole(self) -> None:
        assert {blob_id: self.app.get(blob_id) for blob_id in self.texts} == self.texts

    def end(self, mark: bytes) -> None:
        """See that every blob opens, that a second run ends it, and that they open still."""
        self.assert_whole()
        done = self.reencrypt(mark)
        assert done.interruption is None
        assert {r.outcome for r in done.results} <= {Outcome.REWRAPPED, Outcome.CURRENT}
        assert len(done.results) == len(self.texts)
        self.assert_whole()
        assert {r.outcome for r in self.reencrypt(mark).results} == {Outcome.CURRENT}


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "files":
        yield Place(FileStore(tmp_path))
        return
    store: ObjectStore = request.getfixturevalue("s3_store")
    yield Place(store)


@pytest.mark.parametrize("step", STEPS)
def test_killed_before_any_step_every_blob_opens_and_the_next_run_ends_it(
    place: Place, step: str
) -> None:
    with pytest.raises(SimulatedCrash):
        place.reencrypt(b"mark", before=at(step, crash))
    place.end(b"mark")


@pytest.mark.parametrize("after", [False, True], ids=["unmade", "made"])
def test_killed_around_any_write_every_blob_opens_and_the_next_run_ends_it(
    place: Place, *, after: bool
) -> None:
    writes = 2 * len(place.texts)
    for nth in range(writes + 1):
        mark = b"campaign %d" % nth
        try:
            place.reencrypt(mark, Doomed(place.store, nth, after=after))
        except SimulatedCrash:
            assert nth < writes
        else:
            assert nth == writes, "it ran to its end before that write"
        place.end(mark)


@pytest.mark.parametrize("kind", ["files", "s3_store", "azure_blobs", "gcs_blobs"])
def test_old_contents_are_swept_from_every_kind_of_store(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    place = Place(FileStore(tmp_path) if kind == "files" else request.getfixturevalue(kind))
    place.reencrypt(b"mark")
    world, store = place.world, place.store
    bearings = take_bearings(store)
    assert bearings.heeds
    old = contents(store, world.layout)
    assert {len(found) for found in old.values()} == {2}
    means = place.reader, world.keys, world.legacy_content, world.pool
    engine = Sweeper(*means, leftovers=old, heeds=True)
    goal = Goal(world.target, Selection.ALL, Prove.ALL)
    young = replace(engine, horizon=bearings.now - timedelta(days=1))
    assert {r.outcome for r in young.rewrap(place.texts, goal).results} == {Outcome.EXCLUDED}
    assert contents(store, world.layout) == old
    later = replace(engine, horizon=bearings.now + timedelta(seconds=2))
    results = later.rewrap(place.texts, goal).results
    assert {r.outcome for r in results} == {Outcome.REWRAPPED}
    live = {b: [place.reader.read(b).sidecar.object] for b in place.texts}
    assert contents(store, world.layout) == live
    place.assert_whole()
    assert list(store.names(".rewrap/clock")) == []


def test_a_store_that_lets_nothing_be_deleted_says_what_is_needed(
    aws_server: AwsServer, s3_store: ObjectStore
) -> None:
    aws_server.control(deny=["DeleteObject"])
    try:
        with pytest.raises(StoreUnavailableError, match="needed is s3:DeleteObject"):
            take_bearings(s3_store)
    finally:
        aws_server.control(deny=[])
