"""Sweeps as campaigns: ledger, scheduler and worker; and what the desk refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from keywrap.rewrapping import Outcome
from keywrap.sweeping import Bearings, Sweeper
from ledger import wishes
from ledger.campaigns import RequestRefusedError
from ledger.connection import Ledger
from ledger.states import Kind, ShardKind, State
from scheduler import showing, status
from scheduler.commands.sweeping import sweep
from scheduler.commands.unwinding import seal, undo
from scheduler.desk import REFUSED, USAGE, Desk, DeskError
from tests.integration.test_safety import SafeYard
from tests.rotations import STORE, desk_at
from tests.worlds import KINDS, crash
from tests.yards import GRACE_S, Yard, only

STEPS = ("read", "age", "open", "match", "remove")
BLOBS = 12


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Yard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return Yard(ledger, audit=tmp_path / "audit")


def reencrypted(yard: Yard) -> int:
    """Plant blobs and re-encrypt them, a grace time ago."""
    yard.plant(BLOBS, KINDS)
    campaign = yard.start(Kind.REENCRYPT)
    assert yard.run(campaign).state is State.COMPLETE
    yard.world.store.let_time_pass(GRACE_S + 60)
    return campaign


def begin(yard: Yard, follows: int, **asked: object) -> int:
    return yard.start(Kind.SWEEP, target=yard.world.target, follows=follows, **asked)


def stored(yard: Yard) -> set[str]:
    return {n for n in yard.world.snapshot() if not n.endswith(".sidecar.json")}


def assert_swept(yard: Yard) -> None:
    """See that every blob opens and that no other content is left."""
    world = yard.world
    assert world.wrong() == []
    live = {
        world.layout.content_name(b, world.reader.read(b).sidecar.object) for b in world.originals
    }
    assert stored(yard) == live


def test_a_sweep_removes_every_old_content_and_counts_its_bytes(yard: Yard, tmp_path: Path) -> None:
    followed = reencrypted(yard)
    before = yard.world.snapshot()
    campaign = begin(yard, followed)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, BLOBS)
    gone = before.keys() - yard.world.snapshot().keys()
    assert len(gone) == BLOBS
    assert yard.progress(campaign).content_bytes == sum(len(before[name]) for name in gone)
    assert {o.kind for o in yard.sent if o.campaign_id == campaign} == {
        ShardKind.INVENTORY,
        ShardKind.REWRAP,
    }
    assert_swept(yard)
    lines = [
        json.loads(line)
        for path in (tmp_path / "audit").rglob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    removed = {line["object"]: line["bytes"] for line in lines if line["event"] == "remove"}
    assert removed == {name: len(before[name]) for name in gone}
    assert {line["campaign"] for line in lines if line["event"] == "remove"} == {campaign}


def test_a_second_sweep_finds_nothing_to_remove(yard: Yard) -> None:
    followed = reencrypted(yard)
    yard.run(begin(yard, followed))
    before = yard.world.snapshot()
    again = begin(yard, followed)
    assert yard.run(again).state is State.COMPLETE
    assert yard.counts(again) == only(Outcome.CURRENT, BLOBS)
    assert yard.progress(again).content_bytes == 0
    assert yard.world.snapshot() == before


def test_a_sweep_backs_the_new_wraps_up_first(ledger: Ledger) -> None:
    yard = SafeYard(ledger)
    followed = reencrypted(yard)
    campaign = begin(yard, followed)
    assert yard.run(campaign).state is State.COMPLETE
    order = [o.kind for o in yard.sent if o.campaign_id == campaign]
    assert order.index(ShardKind.MANIFEST) < order.index(ShardKind.REWRAP)
    assert_swept(yard)


def test_sidecars_lost_after_a_sweep_come_back_from_its_own_backup(ledger: Ledger) -> None:
    yard = SafeYard(ledger)
    followed = reencrypted(yard)
    campaign = begin(yard, followed)
    yard.run(campaign)
    lost, gone = sorted(yard.world.originals)[:5], sorted(yard.world.originals)[5]
    for blob_id in (*lost, gone):
        del yard.world.store._objects[yard.world.layout.sidecar_name(blob_id)]
    for name in [n for n in stored(yard) if n.startswith(gone)]:
        del yard.world.store._objects[name]
    del yard.world.originals[gone]
    found = yard.restore(campaign)
    assert found == {"rewrapped": len(lost), "current": BLOBS - len(lost) - 1, "gone": 1}
    assert yard.world.wrong() == []


def test_the_backup_of_before_puts_no_old_pair_back_after_a_sweep(ledger: Ledger) -> None:
    yard = SafeYard(ledger)
    followed = reencrypted(yard)
    yard.run(begin(yard, followed))
    before = yard.world.snapshot()
    assert yard.restore(followed) == {"current": BLOBS}
    assert yard.world.snapshot() == before


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_loses_nothing_and_the_next_one_ends_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    followed = reencrypted(yard)
    left, take = [True], getattr(Sweeper, step)

    def dying(engine: Sweeper, *given: object) -> None:
        take(engine, *given)
        if left:
            left.pop()
            assert yard.world.wrong() == []
            crash()

    dying.__name__ = step
    monkeypatch.setattr(Sweeper, step, dying)
    campaign = begin(yard, followed)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert not left
    assert yard.counts(campaign).keys() <= {Outcome.REWRAPPED, Outcome.CURRENT}
    assert_swept(yard)


def during_the_sweep(yard: Yard, act: Callable[[], object]) -> None:
    """Act between the scan and the removal."""
    left = [act]

    def broker(offer: object) -> None:
        if left and getattr(offer, "kind", None) is ShardKind.REWRAP:
            left.pop()()
        yard.work(offer)  # type: ignore[arg-type]

    yard.broker = broker


def test_writers_during_the_sweep_keep_their_blobs(yard: Yard) -> None:
    followed = reencrypted(yard)
    first, second, third = sorted(yard.world.originals)[:3]
    rolled = yard.world.raw(second)

    def write() -> None:
        yard.world.put(first, b"newer")
        yard.world.put(second, b"newer")
        yard.world.delete(third)

    during_the_sweep(yard, write)
    campaign = begin(yard, followed)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign)["excluded"] == 2
    assert yard.world.wrong() == []
    assert rolled != yard.world.raw(second)


def test_a_blob_that_does_not_open_is_an_exception_and_keeps_all(yard: Yard) -> None:
    followed = reencrypted(yard)
    blob_id = min(yard.world.originals)
    live = f"{blob_id}.~{yard.world.sidecar(blob_id)['object']}"
    whole = yard.world.store._objects[live]
    yard.world.store._objects[live] = whole[:-1]
    campaign = begin(yard, followed)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == {"rewrapped": BLOBS - 1, "quarantined": 1}
    assert blob_id in stored(yard)
    yard.world.store._objects[live] = whole
    assert yard.world.wrong() == []


def test_a_store_whose_clock_runs_ahead_ends_no_grace_time(yard: Yard) -> None:
    yard.plant(BLOBS, KINDS)
    followed = yard.start(Kind.REENCRYPT)
    yard.run(followed)
    before = yard.world.snapshot()
    store = yard.world.store
    with pytest.MonkeyPatch.context() as patch:
        ahead = Bearings(store.look(min(before)).written_at + timedelta(days=30), heeds=True)
        patch.setattr("tasks.sweep.take_bearings", lambda _store: ahead)
        campaign = begin(yard, followed)
        assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.EXCLUDED, BLOBS)
    assert yard.world.snapshot() == before


def test_a_worker_that_may_remove_nothing_removes_nothing_and_says_so(yard: Yard) -> None:
    followed = reencrypted(yard)
    yard.runtime = replace(yard.runtime, grace_s=None)
    before = yard.world.snapshot()
    campaign = begin(yard, followed)
    blocked = yard.run(campaign, State.BLOCKED)
    assert blocked.reason_code == "sweep_not_allowed"
    assert yard.world.snapshot() == before


def test_no_other_campaign_moves_the_same_blobs_meanwhile_nor_a_second_sweep(yard: Yard) -> None:
    followed = reencrypted(yard)
    begin(yard, followed)
    for kind in (Kind.REENCRYPT, Kind.ROTATE):
        with pytest.raises(RequestRefusedError):
            yard.start(kind)
    with pytest.raises(RequestRefusedError, match="nothing was changed"):
        begin(yard, followed)


def test_no_message_makes_another_campaign_remove_contents(yard: Yard) -> None:
    reencrypted(yard)
    before = stored(yard)
    campaign = yard.start(Kind.REENCRYPT)
    assert yard.run(campaign).state is State.COMPLETE
    assert before <= stored(yard)


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    allowed = "\n[reencrypt]\nsweep = true\n"
    return desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()) + allowed)


def refused(desk: Desk, command: object, *words: str) -> DeskError:
    error = CliRunner().invoke(command, [*words, "--yes"], obj=desk).exception  # type: ignore[arg-type]
    assert isinstance(error, DeskError), error
    return error


def test_a_sweep_is_refused_before_the_grace_time_and_begun_after_it(
    desk: Desk, yard: Yard
) -> None:
    followed = reencrypted(yard)
    error = refused(desk, sweep, str(followed))
    assert (error.exit_code, error.reason_code) == (REFUSED, "grace_not_over")
    assert "7.0 days" in str(error)
    yard.desk.run(
        "UPDATE campaign SET finished_at = finished_at - interval '8 days' WHERE id = :id",
        id=followed,
    )
    ran = CliRunner().invoke(sweep, [str(followed), "--yes"], obj=desk)
    assert ran.exception is None, ran
    assert "REMOVE old contents" in ran.output
    assert "is gone" in ran.output


def test_a_sweep_is_refused_where_the_configuration_does_not_allow_it(
    ledger: Ledger, tmp_path: Path, yard: Yard
) -> None:
    desk = desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()))
    error = refused(desk, sweep, str(reencrypted(yard)))
    assert (error.exit_code, error.reason_code) == (REFUSED, "sweep_not_allowed")


def test_only_a_finished_reencryption_is_swept(desk: Desk, yard: Yard) -> None:
    yard.plant(2)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    error = refused(desk, sweep, str(campaign))
    assert (error.exit_code, error.reason_code) == (USAGE, "nothing_to_sweep")
    error = refused(desk, sweep, str(yard.start(Kind.REENCRYPT)))
    assert (error.exit_code, error.reason_code) == (REFUSED, "campaign_open")


def test_nothing_is_undone_or_sealed_after_a_sweep(desk: Desk, yard: Yard) -> None:
    followed = reencrypted(yard)
    swept = begin(yard, followed)
    yard.run(swept)
    before = yard.world.snapshot()
    for command in (undo, seal):
        for campaign in (followed, swept):
            assert refused(desk, command, str(campaign)).reason_code == "nothing_to_unwind"
    assert yard.world.snapshot() == before


def test_an_undo_of_the_migration_before_it_puts_nothing_back(yard: Yard) -> None:
    yard.plant(BLOBS, KINDS)
    migrated = yard.start(Kind.MIGRATE)
    yard.run(migrated)
    campaign = yard.start(Kind.REENCRYPT)
    yard.run(campaign)
    yard.world.store.let_time_pass(GRACE_S + 60)
    yard.run(begin(yard, campaign))
    undone = yard.start(Kind.UNDO, target=yard.world.target, follows=migrated)
    yard.run(undone)
    assert Outcome.REWRAPPED not in yard.counts(undone)
    assert_swept(yard)


def test_status_and_its_document_tell_what_was_freed(
    ledger: Ledger, yard: Yard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    followed = reencrypted(yard)
    before = status.read(ledger, followed, keeps_previous=True)
    assert before is not None
    showing.status(before)
    assert f"rewrap sweep {followed}" in capsys.readouterr().out
    campaign = begin(yard, followed)
    yard.run(campaign)
    found = status.read(ledger, campaign, keeps_previous=True)
    assert found is not None
    freed = found.document()["freed_bytes"]
    assert freed > 0
    showing.status(found)
    assert f"{freed:,} bytes of old contents" in capsys.readouterr().out
    after = status.read(ledger, followed, keeps_previous=True)
    assert after is not None
    assert after.document()["freed_bytes"] is None
    showing.status(after)
    assert "rewrap sweep" not in capsys.readouterr().out


def test_what_is_said_before_the_question_is_true_of_this_store_and_of_its_backup(
    desk: Desk, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = reencrypted(yard)
    change = "UPDATE campaign SET finished_at = now() - interval '8 days', store = :place"
    yard.desk.run(change, place=desk.settings.keywrap.store.place)
    words = [str(followed), "--break-glass", "it is late"]
    monkeypatch.setattr("sys.argv", ["rewrap", "sweep", *words])
    asked = CliRunner().invoke(sweep, words, obj=desk)
    assert isinstance(asked.exception, DeskError)
    assert asked.exception.next_command == (
        f"rewrap sweep {followed} --break-glass 'it is late' --yes"
    )
    assert "another store" not in asked.output
    assert "backup NONE: [backup] names no recipients" in asked.output
    yard.desk.run(change, place="s3://elsewhere (no suffix, .sidecar.json)")
    asked = CliRunner().invoke(sweep, words, obj=desk)
    assert "was of another store: s3://elsewhere" in asked.output


def test_a_quarantined_blob_that_is_mended_is_swept_when_it_is_taken_up_again(yard: Yard) -> None:
    followed = reencrypted(yard)
    world, first, second = yard.world, *sorted(yard.world.originals)[:2]
    names = {b: world.layout.sidecar_name(b) for b in (first, second)}
    whole = {name: world.store._objects[name] for name in names.values()}
    world.store._objects[names[first]] = b"{nonsense"
    world.store._objects[names[second]] = whole[names[first]]
    before = stored(yard)
    campaign = begin(yard, followed)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert {n for n in before if n.startswith((first, second))} <= stored(yard)
    world.store._objects.update(whole)
    with yard.ledger.begin() as connection:
        assert wishes.retry(connection, yard.desk.get(campaign), quarantined=True) == 2
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, BLOBS)
    assert_swept(yard)
