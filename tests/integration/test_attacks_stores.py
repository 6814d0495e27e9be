"""What a wrong store, a wrong key, foreign names and dying workers may do to whole campaigns."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keywrap.datakey import DataKey
from keywrap.filestore import FileStore
from keywrap.keyring import KeyRing
from keywrap.keys import WrappedKey
from keywrap.kms import Context, RefusedError
from keywrap.providers.env import EnvKeyProvider
from keywrap.rewrapping import Outcome, Prove
from ledger import blocking, shards, wishes
from ledger.connection import Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from tasks.marks import MARK
from tests.worlds import KEK, World
from tests.yards import Yard, only
from workers.settings import Gates

MANY = 100
"""So many quarantined blobs and none that opens stop a campaign."""


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def _unmount(world: World) -> Callable[[], None]:
    """Let the mount point be empty; return what mounts the store again."""
    objects = dict(world.store._objects)
    world.store._objects.clear()

    def mount() -> None:
        world.store._objects.clear()
        world.store._objects.update(objects)

    return mount


def _run_until(yard: Yard, campaign: int, kind: ShardKind, state: State) -> None:
    """Run to a state, with no shard of a kind worked on; then a worker is there for all."""
    yard.broker = lambda offer: None if offer.kind is kind else yard.work(offer)
    yard.run(campaign, state)
    yard.tick()
    yard.broker = yard.work
    yard.let_time_pass()


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (ShardKind.INVENTORY, State.INVENTORY),
        (ShardKind.REWRAP, State.RUNNING),
        (ShardKind.STRAGGLERS, State.VERIFYING),
    ],
)
def test_an_empty_mount_point_is_not_taken_for_a_store_whose_blobs_are_gone(
    yard: Yard, kind: ShardKind, state: State
) -> None:
    yard.plant(4, ("wrapped",))
    yard.run(yard.start(Kind.MIGRATE))  # from now on the store bears its mark
    yard.world.kms.rotate(KEK)
    campaign = yard.start(Kind.ROTATE)
    _run_until(yard, campaign, kind, state)
    before = yard.counts(campaign)
    mount = _unmount(yard.world)
    blocked = yard.run(campaign, State.BLOCKED)
    assert (blocked.state, blocked.reason_code) == (State.BLOCKED, "wrong_store")
    assert MARK in (blocked.reason or "")
    assert yard.counts(campaign) == before, "nothing is `gone`"
    assert yard.world.store._objects == {}, "no new mark is made"
    mount()
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 4)
    yard.assert_moved()


def test_a_store_that_goes_away_after_the_first_scan_of_all_is_missed(yard: Yard) -> None:
    yard.plant(8, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)
    _run_until(yard, campaign, ShardKind.REWRAP, State.RUNNING)
    mount = _unmount(yard.world)
    assert yard.run(campaign, State.BLOCKED).reason_code == "wrong_store"
    assert yard.counts(campaign) == {"pending": 8}
    mount()
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


@pytest.mark.parametrize("kind", [Kind.INVENTORY, Kind.VERIFY])
def test_a_campaign_that_only_reads_misses_a_store_that_was_marked(yard: Yard, kind: Kind) -> None:
    yard.plant(4)
    yard.run(yard.start(Kind.MIGRATE))
    mount = _unmount(yard.world)
    campaign = yard.start(kind)
    assert yard.run(campaign, State.BLOCKED).reason_code == "wrong_store"
    mount()
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.progress(campaign).scanned == 4


@pytest.mark.parametrize("kind", [Kind.INVENTORY, Kind.VERIFY])
def test_a_campaign_that_only_reads_puts_no_mark(yard: Yard, kind: Kind) -> None:
    yard.plant(4, ("managed",))
    before = dict(yard.world.store._objects)
    assert yard.run(yard.start(kind)).state is State.COMPLETE
    assert yard.world.store._objects == before


def test_another_store_in_its_place_is_told_by_its_mark(yard: Yard) -> None:
    yard.plant(4, ("wrapped",))
    yard.run(yard.start(Kind.MIGRATE))
    own = yard.world.store._objects[MARK]
    yard.world.plant("wrapped", "another's")
    yard.world.store._objects[MARK] = b"f" * len(own)
    untouched = dict(yard.world.store._objects)
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, State.BLOCKED).reason_code == "wrong_store"
    assert yard.world.store._objects == untouched
    yard.world.store._objects[MARK] = own + b"\n"  # as a person writes it with an editor
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


def test_a_new_ledger_takes_over_the_mark_that_a_store_bears(yard: Yard) -> None:
    yard.plant(4, ("wrapped",))
    yard.world.store._objects[MARK] = b"from-an-older-ledger"
    assert yard.run(yard.start(Kind.MIGRATE)).state is State.COMPLETE
    assert yard.world.store._objects[MARK] == b"from-an-older-ledger"
    assert yard.desk.rows("SELECT mark FROM store_mark") == [("from-an-older-ledger",)]


def test_no_mark_is_noted_for_a_store_that_ignores_conditions(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There each of two workers puts its own: the one noted would not be the one that is found.
    yard.plant(4, ("wrapped",))
    store = yard.world.store
    with monkeypatch.context() as careless:
        careless.setattr(store, "create", store._objects.__setitem__)
        campaign = yard.start(Kind.MIGRATE)
        blocked = yard.run(campaign, State.BLOCKED)
        assert blocked.reason_code == "store_ignores_conditions"
        assert yard.desk.rows("SELECT * FROM store_mark") == []
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


@pytest.mark.parametrize("kind", [Kind.INVENTORY, Kind.MIGRATE, Kind.VERIFY])
def test_a_worker_of_another_configuration_leaves_a_campaign_alone(yard: Yard, kind: Kind) -> None:
    yard.plant(4, ("wrapped",))
    right = replace(yard.runtime, store="file:///srv/blobs")
    yard.runtime = replace(yard.runtime, store="file:///srv/copy")
    before = dict(yard.world.store._objects)
    campaign = yard.start(kind, store="file:///srv/blobs")
    blocked = yard.run(campaign, State.BLOCKED)
    assert (blocked.state, blocked.reason_code) == (State.BLOCKED, "wrong_store")
    assert yard.world.store._objects == before
    yard.runtime = right
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.progress(campaign).scanned == 4


@pytest.mark.parametrize("size", [1025, 1100, 1101, 4000, 9000])
def test_an_id_too_long_for_the_index_is_shortened_and_quarantined(yard: Yard, size: int) -> None:
    # Random text: PostgreSQL compresses what repeats itself before it says that it is too long.
    text = os.urandom(size).hex()[: size - 1]
    for last in "ab":
        yard.world.store._objects[text + last] = b""
    yard.world.plant("wrapped", "good")
    campaign = yard.run(yard.start(Kind.MIGRATE), time_passes=True)
    assert campaign.state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign.id) == {"rewrapped": 1, "quarantined": 2}
    assert set(yard.reasons(campaign.id).values()) == {"blob_id_too_long"}
    assert all(b.startswith(text[:1000]) for b in yard.reasons(campaign.id)), "it can be found"
    yard.assert_moved()


def test_long_names_that_are_no_text_do_not_fail_a_scan(yard: Yard, tmp_path: Path) -> None:
    folder = bytes(tmp_path)
    for _ in range(5):
        folder += b"/" + bytes(0x80 + (b % 0x78) for b in os.urandom(250))
    Path(folder.decode("utf-8", "surrogateescape")).mkdir(parents=True)
    Path((folder + b"/x").decode("utf-8", "surrogateescape")).write_bytes(b"")
    (tmp_path / "good").write_bytes(b"")
    reader = replace(yard.world.reader, store=FileStore(tmp_path))
    yard.runtime = replace(yard.runtime, reader=reader)
    campaign = yard.run(yard.start(Kind.INVENTORY), State.STOPPED, time_passes=True)
    assert campaign.state is State.COMPLETE
    assert yard.progress(campaign.id).scanned == 2


def _ask(yard: Yard, campaign: int) -> None:
    with yard.ledger.begin() as connection:
        wishes.resume(connection, yard.desk.get(campaign))


def _with_a_wrong_legacy_key(yard: Yard) -> KeyRing:
    """Give workers a wrong legacy key; return the right ones."""
    world, right = yard.world, yard.runtime.keys
    wrong = EnvKeyProvider("OLD_KEK", DataKey.generate(), "aes-gcm")
    keys = KeyRing([world.kek, world.direct, wrong], primary=KEK)
    yard.runtime = replace(yard.runtime, keys=keys, batch=50)
    return right


def test_a_wrong_legacy_key_stops_a_campaign_before_it_quarantines_the_store(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 20)
    ids = yard.plant(4 * MANY, ("wrapped",))
    before = yard.world.snapshot()
    right = _with_a_wrong_legacy_key(yard)
    campaign = yard.start(Kind.MIGRATE)
    stopped = yard.run(campaign, State.STOPPED)
    assert (stopped.state, stopped.reason_code) == (State.STOPPED, "nothing_opens")
    assert MANY <= yard.counts(campaign)["quarantined"] < len(ids)
    assert yard.world.snapshot() == before
    yard.runtime = replace(yard.runtime, keys=right)
    _ask(yard, campaign)
    ended = yard.run(campaign, State.STOPPED, time_passes=True)
    assert ended.state is State.COMPLETE_WITH_EXCEPTIONS
    with yard.ledger.begin() as connection:
        wishes.retry(connection, yard.desk.get(campaign), quarantined=True)
    assert yard.run(campaign, State.STOPPED, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


def test_who_resumes_a_campaign_in_which_nothing_opens_is_not_asked_again(yard: Yard) -> None:
    yard.plant(MANY, ("wrapped",))
    _with_a_wrong_legacy_key(yard)
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, State.STOPPED).reason_code == "nothing_opens"
    _ask(yard, campaign)
    end = yard.run(campaign, State.STOPPED, time_passes=True)
    assert end.state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == only(Outcome.QUARANTINED, MANY)


@pytest.mark.parametrize(("bad", "good"), [(MANY - 1, 0), (MANY, 1)])
def test_few_bad_blobs_or_one_good_one_do_not_stop_a_campaign(
    yard: Yard, bad: int, good: int
) -> None:
    yard.plant(bad, ("wrapped",))
    for n in range(good):
        yard.world.plant("direct", f"good-{n}")
    _with_a_wrong_legacy_key(yard)
    yard.runtime = replace(yard.runtime, batch=1000)
    yard.set(scan_parts=1)
    yard.gates = Gates(canary=0, quarantined_percent=100)
    campaign = yard.run(yard.start(Kind.MIGRATE), State.STOPPED)
    assert campaign.state is State.COMPLETE_WITH_EXCEPTIONS


def test_workers_that_die_while_a_campaign_is_blocked_do_not_wear_it_out(yard: Yard) -> None:
    yard.plant(4, ("wrapped",))
    yard.set(scan_parts=4)  # a shard for each part that has blobs
    campaign = yard.start(Kind.MIGRATE)
    _run_until(yard, campaign, ShardKind.REWRAP, State.RUNNING)
    with yard.ledger.begin() as connection:
        blocking.block(connection, campaign, "kms_unavailable", "no answer")

    def die(offer: Offer) -> None:
        with yard.ledger.begin() as connection:
            shards.claim(connection, offer.shard_id, offer.kind, "dies", 0.0)

    yard.broker = die
    for _ in range(4 * yard.settings.max_attempts + 1):  # one more than four shards can share
        yard.let_time_pass()
        yard.tick()
    assert yard.desk.rows("SELECT max(attempt) FROM shard")[0][0] > yard.settings.max_attempts
    assert yard.desk.get(campaign).state is State.BLOCKED
    assert yard.counts(campaign) == {"pending": 4}
    yard.broker = yard.work
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


def test_one_wrap_under_a_barred_version_holds_up_no_other(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 2)
    ids = yard.plant(12, ("managed",))
    barred = yard.world.target
    yard.world.kms.rotate(KEK)
    yard.world.rotate(*ids[1:])
    yard.world.kms.rotate(KEK)
    yard.world.kms.disable_version(barred)
    yard.set(window=1, scan_parts=1)
    campaign = yard.start(Kind.ROTATE, prove=Prove.ALL)
    for _ in range(200):
        yard.let_time_pass()
        yard.tick()
        if yard.counts(campaign).get("pending") == 1 and yard.progress(campaign).decided:
            break
    assert yard.counts(campaign) == {"rewrapped": 11, "pending": 1}
    yard.world.kms.enable_version(barred)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


def test_offers_that_nobody_takes_are_made_ever_less_often(yard: Yard) -> None:
    yard.set(scan_parts=1)
    yard.broker = lambda _offer: None
    yard.start(Kind.INVENTORY)
    waits = []
    for _ in range(15):
        yard.tick()
        yard.desk.run("UPDATE shard SET until = clock_timestamp() - interval '1 second'")
        with yard.ledger.begin() as connection:
            shards.take_back(connection)
        ((wait,),) = yard.desk.rows(
            "SELECT extract(epoch FROM coalesce(not_before, clock_timestamp())"
            " - clock_timestamp())::float FROM shard"
        )
        waits.append(math.ceil(wait))
        yard.let_time_pass()
    assert waits == sorted(waits)
    assert waits[0] <= 1
    assert waits[-1] == 10, "and never less often than that"


def test_a_failed_proof_stops_a_campaign_that_is_about_to_pause(yard: Yard) -> None:
    yard.plant(3, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)

    yard.world.kms.corrupt_next_wrap()
    _run_until(yard, campaign, ShardKind.REWRAP, State.RUNNING)
    unwrap_many = yard.world.kek.unwrap_many

    def prove(items: Sequence[tuple[WrappedKey, Context]]) -> list[DataKey | RefusedError]:
        with yard.ledger.begin() as connection:
            wishes.pause(connection, yard.desk.get(campaign))
        return unwrap_many(items)

    yard.world.kek.unwrap_many = prove
    end = yard.run(campaign, State.STOPPED, State.PAUSED)
    assert (end.state, end.reason_code) == (State.STOPPED, "proof_failed")
