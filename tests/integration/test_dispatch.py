"""Whole campaigns: the real scheduler and ledger, the real tasks, blobs and keys in memory."""

import re

import pytest

from keywrap.kms import DeniedError
from keywrap.rewrapping import Outcome, Prove
from keywrap.scan import part_of
from ledger import findings, wishes
from ledger.connection import Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from scheduler import status
from tasks.scans import MAX_PASSES
from tests.worlds import KEK
from tests.yards import Yard, only


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return Yard(ledger)


def test_an_inventory_tells_which_key_wraps_each_blob_and_changes_nothing(yard: Yard) -> None:
    yard.plant(10)
    yard.world.write_sidecar("000-direct", b"{")
    before = yard.world.snapshot()
    campaign = yard.start(Kind.INVENTORY)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.world.snapshot() == before
    with yard.ledger.begin() as connection:
        census = {(c.key, c.problem): c.blobs for c in findings.census(connection, campaign)}
    assert census == {
        ("env:BLOB_KEY", ""): 5,
        ("env:OLD_KEK", ""): 4,
        ("", "sidecar_not_json"): 1,
    }
    yard.assert_idle()


def test_a_migration_moves_every_legacy_blob(yard: Yard) -> None:
    yard.plant(20)
    campaign = yard.start(Kind.MIGRATE)
    done = yard.run(campaign)
    assert done.state is State.COMPLETE
    assert done.passes == 1
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 20)
    yard.assert_moved()
    yard.assert_idle()


def test_a_migration_of_nothing_is_complete(yard: Yard) -> None:
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == {}


def test_a_second_migration_finds_everything_current(yard: Yard) -> None:
    yard.plant(12)
    yard.run(yard.start(Kind.MIGRATE))
    before = yard.world.snapshot()
    again = yard.start(Kind.MIGRATE)
    assert yard.run(again).state is State.COMPLETE
    assert yard.counts(again) == only(Outcome.CURRENT, 12)
    assert yard.world.snapshot() == before


def test_only_blobs_of_the_prefix_are_moved(yard: Yard) -> None:
    for blob_id in ("a/1", "a/2", "ab", "b/1"):
        yard.world.plant("wrapped", blob_id)
    campaign = yard.start(Kind.MIGRATE, prefix="a/")
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 2)
    assert yard.world.reader.read("ab").wrapped.key_version.is_legacy


@pytest.mark.parametrize("prove", Prove)
def test_a_rotation_moves_every_managed_blob_and_no_legacy_one(yard: Yard, prove: Prove) -> None:
    yard.plant(10, kinds=("managed",))
    yard.world.plant("direct", "legacy")
    yard.world.kms.rotate(KEK)
    campaign = yard.start(Kind.ROTATE, prove=prove, sample=0.01)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == {"rewrapped": 10, "excluded": 1}
    assert yard.world.reader.read("legacy").wrapped.key_version.is_legacy
    del yard.world.originals["legacy"]
    yard.assert_moved()
    assert yard.progress(campaign).verified == (10 if prove is Prove.SAMPLE else 0)


@pytest.mark.parametrize(("sample_size", "opened"), [(None, 9), (4, 4), (100, 9)])
def test_a_verify_campaign_opens_blobs_and_changes_nothing(
    yard: Yard, sample_size: int | None, opened: int
) -> None:
    yard.plant(9, kinds=("managed", "direct", "wrapped"))
    before = yard.world.snapshot()
    campaign = yard.start(Kind.VERIFY, sample_size=sample_size)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.CURRENT, opened)
    assert yard.world.snapshot() == before
    told = status.read(yard.ledger, campaign, keeps_previous=True)
    assert told is not None
    said = "all were read: every one of 9 blobs" if opened == 9 else "none of 4 random blobs fails"
    assert str(told.proves).startswith(said)


@pytest.mark.parametrize("sample_size", [None, 9])
def test_a_verify_campaign_names_what_does_not_open(yard: Yard, sample_size: int | None) -> None:
    yard.plant(9, kinds=("managed",))
    yard.world.edit("003-managed", wrapped_dek="A" * 80)
    campaign = yard.start(Kind.VERIFY, sample_size=sample_size)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == {"current": 8, "quarantined": 1}
    assert yard.reasons(campaign) == {"003-managed": "wrap_does_not_open"}


def test_what_is_quarantined_ends_as_an_exception_and_can_be_retried_when_mended(
    yard: Yard,
) -> None:
    yard.plant(10)
    sound = yard.world.raw("002-wrapped")
    yard.world.write_sidecar("002-wrapped", b"{")
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == {"rewrapped": 9, "quarantined": 1}
    assert yard.reasons(campaign) == {"002-wrapped": "sidecar_not_json"}
    assert yard.world.raw("002-wrapped") == b"{"
    yard.world.write_sidecar("002-wrapped", sound)
    with yard.ledger.begin() as connection:
        assert wishes.retry(connection, yard.desk.get(campaign), quarantined=True) == 1
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 10)
    yard.assert_moved()


def test_a_retry_that_mends_nothing_ends_the_same(yard: Yard) -> None:
    yard.plant(5)
    yard.world.write_sidecar("002-wrapped", b"{")
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    with yard.ledger.begin() as connection:
        wishes.retry(connection, yard.desk.get(campaign), quarantined=True)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == {"rewrapped": 4, "quarantined": 1}


def _at_first(yard: Yard, kind: ShardKind, act: object) -> None:
    """Do something once, when the first message of a kind is about to be worked on."""
    acts = [act]

    def broker(offer: Offer) -> None:
        if offer.kind is kind and acts:
            acts.pop()()
        yard.work(offer)

    yard.broker = broker


def test_stragglers_that_appear_while_it_runs_are_found_and_moved(yard: Yard) -> None:
    yard.plant(10)

    def legacy_application_writes() -> None:
        yard.world.plant("wrapped", "new")
        yard.world.plant("wrapped", "000-direct", b"written anew")

    _at_first(yard, ShardKind.STRAGGLERS, legacy_application_writes)
    campaign = yard.start(Kind.MIGRATE)
    done = yard.run(campaign)
    assert (done.state, done.passes) == (State.COMPLETE, 2)
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 11)
    yard.assert_moved()


def test_a_campaign_is_complete_only_after_a_fresh_scan_that_finds_no_straggler(
    yard: Yard,
) -> None:
    # One scan is slow: meanwhile the straggler that the other found must not be moved and called
    # done, since nobody would look again.
    yard.plant(8)
    events: list[str] = []
    parts = {n: f"late{n}" for n in range(50)}

    def broker(offer: Offer) -> None:
        scans = offer.kind is ShardKind.STRAGGLERS
        if scans and not events:
            ((part,),) = yard.desk.rows("SELECT part FROM shard WHERE id = :i", i=offer.shard_id)
            events.append(next(b for b in parts.values() if part_of(b, 2) == part))
            yard.world.plant("wrapped", events[0])
        elif scans and len(events) == 1:
            events.append("lost")
            return
        yard.work(offer)
        if offer.kind is ShardKind.REWRAP and len(events) == 2:
            events.append("written again")
            yard.world.plant("wrapped", events[0], b"by the legacy application")

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign, State.VERIFYING)
    yard.tick(3)  # the second scan's message is lost: it is still out
    done = yard.run(campaign, time_passes=True)
    assert done.state is State.COMPLETE
    assert len(events) == 3
    yard.assert_moved()


def test_a_writer_that_always_brings_a_blob_back_is_a_conflict_and_the_campaign_ends(
    yard: Yard,
) -> None:
    yard.plant(6)

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.STRAGGLERS:
            yard.world.plant("wrapped", "000-direct")
        yard.work(offer)

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    done = yard.run(campaign)
    assert (done.state, done.passes) == (State.COMPLETE_WITH_EXCEPTIONS, MAX_PASSES)
    assert yard.counts(campaign) == {"rewrapped": 5, "conflict": 1}
    assert yard.reasons(campaign) == {"000-direct": "writer_brings_it_back"}
    assert yard.world.wrong() == []
    yard.broker = yard.work
    with yard.ledger.begin() as connection:
        wishes.retry(connection, yard.desk.get(campaign), quarantined=False)
    assert yard.run(campaign).state is State.COMPLETE
    yard.assert_moved()


def test_a_wrap_that_fails_its_proof_stops_the_campaign_until_a_person_resumes(
    yard: Yard,
) -> None:
    yard.plant(6)
    before = yard.world.snapshot()
    yard.set(window=1, scan_parts=1)
    yard.world.kms.corrupt_next_wrap()
    campaign = yard.start(Kind.MIGRATE)
    stopped = yard.run(campaign, State.STOPPED)
    assert (stopped.state, stopped.reason_code) == (State.STOPPED, "proof_failed")
    assert yard.world.snapshot() == before
    assert yard.counts(campaign) == {"pending": 6}
    sent = len(yard.sent)
    yard.tick(3)
    assert len(yard.sent) == sent, "a stopped campaign hands nothing out"
    with yard.ledger.begin() as connection:
        wishes.resume(connection, yard.desk.get(campaign))
    assert yard.run(campaign).state is State.COMPLETE
    yard.assert_moved()


def test_a_bad_wrap_that_the_service_made_is_found_by_the_sample(yard: Yard) -> None:
    yard.plant(6, kinds=("managed",))
    yard.world.kms.rotate(KEK)
    yard.world.kms.corrupt_next_wrap()
    campaign = yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.0)
    stopped = yard.run(campaign, State.STOPPED)
    assert (stopped.state, stopped.reason_code) == (State.STOPPED, "proof_failed")
    (named,) = re.findall(r"\d+-managed", stopped.reason or "")
    assert "previous" in yard.world.sidecar(named), "the way back is there"


def test_a_key_that_refuses_blocks_the_campaign_and_it_goes_on_by_itself(yard: Yard) -> None:
    yard.plant(10)
    before = yard.world.snapshot()
    yard.world.kms.disable_version(yard.world.target)
    campaign = yard.start(Kind.MIGRATE)
    blocked = yard.run(campaign, State.BLOCKED)
    assert (blocked.state, blocked.reason_code) == (State.BLOCKED, "version_disabled")
    assert yard.world.snapshot() == before
    yard.sent.clear()
    yard.tick(5)
    assert len(yard.sent) <= 1, "it is not hammered"
    delays = []
    for _ in range(4):
        yard.let_time_pass()
        yard.sent.clear()
        yard.tick(3)
        assert len(yard.sent) == 1, "one shard at a time probes"
        delays += yard.desk.rows("SELECT probe_delay_s FROM campaign")
    assert delays == sorted(delays)
    assert delays[0] < delays[-1]
    assert yard.counts(campaign) == {"pending": 10}, "nothing is quarantined"
    yard.world.kms.enable_version(yard.world.target)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


def test_a_key_that_refuses_the_proof_blocks_and_does_not_stop(yard: Yard) -> None:
    yard.plant(4, kinds=("managed",))
    yard.world.kms.rotate(KEK)
    denied = DeniedError("no permission", key=KEK, reason_code="permission_denied")

    _at_first(yard, ShardKind.VERIFY, lambda: yard.world.kms.fail_next(denied))
    campaign = yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.0)
    blocked = yard.run(campaign, State.BLOCKED)
    assert (blocked.reason_code, blocked.resume_state) == ("permission_denied", State.VERIFYING)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.progress(campaign).verified == 4


@pytest.mark.parametrize("when", [ShardKind.INVENTORY, ShardKind.REWRAP, ShardKind.STRAGGLERS])
def test_a_store_that_is_away_blocks_the_campaign_and_fails_nothing(
    yard: Yard, when: ShardKind
) -> None:
    yard.plant(8)
    _at_first(yard, when, lambda: setattr(yard.world.store, "is_down", True))
    campaign = yard.start(Kind.MIGRATE)
    blocked = yard.run(campaign, State.BLOCKED)
    assert blocked.reason_code == "store_unavailable"
    assert "failed" not in yard.counts(campaign)
    yard.world.store.is_down = False
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 8)
    yard.assert_moved()
