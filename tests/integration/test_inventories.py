"""Inventories that need not read everything: given a list, or knowing sidecars by their tags."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from keywrap.keys import KeyVersion
from keywrap.layout import Layout, Part
from keywrap.stores import Stored, TaggedStore
from ledger import findings, listed
from ledger.connection import Ledger
from ledger.listed import BlobList
from ledger.states import Kind, ShardKind, State
from tests.worlds import FaultyStore, SimulatedCrash, World
from tests.yards import Yard

WITH_SIDECAR = ("direct", "wrapped")


class TaggedFaultyStore(FaultyStore):
    """A store whose listing says version tags, and which notes what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.sidecars_read: list[str] = []

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        parsed = Layout().parse(name)
        if parsed is not None and parsed[1] is Part.SIDECAR:
            self.sidecars_read.append(name)
        return super().read(name, limit=limit)

    def tagged(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        for name in self.names(prefix):
            yield name, super().read(name).tag


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several groups of few blobs
    yard = Yard(ledger, World(TaggedFaultyStore()))
    yard.runtime = replace(yard.runtime, store="here")
    return yard


def scanned(yard: Yard, **asked: object) -> tuple[dict[str, KeyVersion | None], int]:
    """Run an inventory; return what wraps each blob, and how many sidecars were read for it."""
    store = yard.world.store
    assert isinstance(store, TaggedFaultyStore)
    assert isinstance(store, TaggedStore)
    store.sidecars_read.clear()
    campaign = yard.start(Kind.INVENTORY, store="here", **asked)
    assert yard.run(campaign).state is State.COMPLETE
    read = len(store.sidecars_read)
    with yard.ledger.begin() as connection:
        found = {f.blob_id: f.key_version for f in findings.listing(connection, campaign)}
    assert yard.desk.progress(campaign).scanned == len(found)
    return found, read


def test_a_second_inventory_reads_only_what_was_written_since(yard: Yard) -> None:
    ids = yard.plant(20, WITH_SIDECAR)
    first, read = scanned(yard, is_incremental=True)
    assert (set(first), read) == (set(ids), 20)
    assert scanned(yard, is_incremental=True) == (first, 0)
    yard.world.plant("managed", ids[0])
    new = yard.world.plant("managed", "new")
    yard.world.delete(ids[1])
    again, read = scanned(yard, is_incremental=True)
    assert read == 2
    assert again == {b: v for b, v in first.items() if b != ids[1]} | {
        ids[0]: yard.world.target,
        new: yard.world.target,
    }
    assert scanned(yard) == (again, 20), "one that is not incremental reads them all"
    assert scanned(yard, is_incremental=True) == (again, 0)


def test_what_was_wrong_with_a_sidecar_is_looked_into_each_time(yard: Yard) -> None:
    ids = yard.plant(6, WITH_SIDECAR)
    yard.world.write_sidecar(ids[0], b"{")
    first, _ = scanned(yard, is_incremental=True)
    assert first[ids[0]] is None
    assert scanned(yard, is_incremental=True) == (first, 1)


def test_a_sidecar_that_names_no_key_is_read_again_under_another_configuration(yard: Yard) -> None:
    ids = yard.plant(4, ("direct",))
    scanned(yard, is_incremental=True)
    other = KeyVersion("env:OTHER")
    reader = replace(yard.world.reader, legacy_default=other)
    yard.runtime = replace(yard.runtime, reader=reader)
    assert scanned(yard, is_incremental=True) == (dict.fromkeys(ids, other), 4)


def test_an_inventory_of_a_part_or_of_another_store_is_no_earlier_one(yard: Yard) -> None:
    yard.plant(12, WITH_SIDECAR)
    scanned(yard, is_incremental=True, prefix="00")
    _, read = scanned(yard, is_incremental=True)
    assert read == 12
    assert scanned(yard, is_incremental=True, prefix="000")[1] == 0
    yard.desk.run("UPDATE campaign SET store = 'there'")
    assert scanned(yard, is_incremental=True)[1] == 12


def given(yard: Yard, blob_ids: list[str]) -> tuple[UUID, int]:
    with yard.ledger.begin() as connection:
        blob_list = BlobList(connection)
        named = blob_list.add(blob_ids)
        blob_list.close()
    return blob_list.id, named


def lists(yard: Yard) -> int:
    with yard.ledger.begin() as connection:
        count: int = connection.execute(
            text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'listed'::regclass")
        ).scalar_one()
    return count


def test_an_inventory_looks_at_the_blobs_of_its_list_and_at_no_others(yard: Yard) -> None:
    ids = yard.plant(30)
    asked = [*ids[:10], ids[3], "gone", "../unsafe"]
    list_id, named = given(yard, asked)
    assert named == 12
    yard.set(scan_parts=3)
    found, read = scanned(yard, list_id=list_id)
    assert set(found) == {*ids[:10], "../unsafe"}
    assert found["../unsafe"] is None
    assert read <= 11
    yard.tick()
    assert lists(yard) == 0, "a list goes with its inventory"


def test_a_tick_waits_for_nobody_who_reads_the_list_as_a_dump_does(yard: Yard) -> None:
    ids = yard.plant(4)
    list_id, _ = given(yard, ids)
    campaign = yard.start(Kind.INVENTORY, store="here", list_id=list_id)
    assert yard.run(campaign).state is State.COMPLETE
    with yard.ledger.begin() as dump:
        dump.execute(text(f"LOCK TABLE listed, listed_{list_id.hex} IN ACCESS SHARE MODE"))
        dump.execute(text("SET LOCAL statement_timeout = '20s'"))
        other = yard.start(Kind.MIGRATE, store="here")
        started = time.monotonic()
        assert yard.run(other).state is State.COMPLETE
        assert time.monotonic() - started < 30
        assert lists(yard) == 1, "it goes later"
    yard.tick()
    assert lists(yard) == 0


def test_a_list_is_taken_whole_after_a_crash(yard: Yard) -> None:
    ids = yard.plant(30)
    list_id, _ = given(yard, ids)
    crashes = Counter[ShardKind]()

    def crash_once(offer: object) -> None:
        crashes[ShardKind.INVENTORY] += 1
        if crashes[ShardKind.INVENTORY] == 1:
            yard.world.store.before("read", crash)
        yard.work(offer)  # type: ignore[arg-type]

    def crash() -> None:
        raise SimulatedCrash

    yard.broker = crash_once
    campaign = yard.start(Kind.INVENTORY, store="here", list_id=list_id)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    with yard.ledger.begin() as connection:
        assert {f.blob_id for f in findings.listing(connection, campaign)} == set(ids)


def test_the_parts_of_a_list_are_all_of_it_and_none_twice(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "_AT_ONCE", 2)  # many pages
    ids = [f"blob-{n}" for n in range(500)]
    with ledger.begin() as connection:
        blob_list = BlobList(connection)
        assert blob_list.add(ids[:300]) == 300
        assert blob_list.add(ids[200:]) == 200
        blob_list.close()
    for parts in (1, 3):
        taken = [
            b for part in range(parts) for b in listed.blobs(ledger, blob_list.id, part, parts)
        ]
        assert sorted(taken) == sorted(ids)


def test_a_list_that_is_not_committed_was_never_there(ledger: Ledger) -> None:
    with ledger.begin() as connection:
        blob_list = BlobList(connection)
        blob_list.add(["a"])
        blob_list.close()
        connection.rollback()
    assert list(listed.blobs(ledger, blob_list.id, 0, 1)) == []
