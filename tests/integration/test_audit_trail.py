"""What campaigns leave in the audit trail: the real tasks, ledger and files."""

import base64
import errno
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keywrap.auditchain import Entry
from keywrap.backups.bundle import create_identity
from keywrap.backups.vault import Vault
from keywrap.kms import DeniedError
from keywrap.rewrapping import Outcome, Prove
from keywrap.segments import Segment, names
from keywrap.testing.stores import MemoryStore
from keywrap.trailcheck import check_trail
from ledger import audit
from ledger.connection import Connection, Ledger, LedgerUnavailableError
from ledger.states import Kind, State
from tests.worlds import SimulatedCrash
from tests.yards import Yard, only
from workers.settings import Gates


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def yard(ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return Yard(ledger, audit=folder)


def chain(yard: Yard) -> list[Entry]:
    with yard.ledger.begin() as connection:
        audit.chain_new(connection)
    return list(audit.entries(yard.ledger))


def events(yard: Yard, folder: Path) -> list[dict[str, Any]]:
    """Return the events of the trail in order, and see that nothing is wrong with it."""
    entries = chain(yard)
    assert list(check_trail(entries, [folder], None)) == []
    return [
        json.loads(line)
        for entry in entries
        for line in (folder / entry.segment.name).read_text().splitlines()
    ]


def counted(found: list[dict[str, Any]], *fields: str) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(event[field] for field in fields) for event in found)


def orphans(yard: Yard, folder: Path) -> set[str]:
    return names(folder) - {entry.segment.name for entry in chain(yard)}


def test_a_migration_leaves_an_event_for_each_use_of_a_key(yard: Yard, folder: Path) -> None:
    blob_ids = yard.plant(10)
    before = Counter(yard.world.kms.operations)
    campaign = yard.start(Kind.MIGRATE, prove=Prove.ALL)
    assert yard.run(campaign).state is State.COMPLETE
    used = yard.world.kms.operations - before
    found = events(yard, folder)
    for event in ("unwrap", "wrap", "prove", "decided"):
        of_it = [e["blob_id"] for e in found if e["event"] == event]
        assert sorted(of_it) == sorted(blob_ids), event
    # And the key service has seen no use of a key that is not in the trail.
    at_kms = [e for e in found if e.get("key_id", "").startswith("hcvault")]
    assert Counter(e["event"] for e in at_kms) == {"wrap": used["wrap"], "prove": used["unwrap"]}
    assert {e["campaign"] for e in found} == {campaign}
    assert {e["by"] for e in found} == {"yard"}
    assert orphans(yard, folder) == set()


def test_a_rotation_inside_the_service_leaves_a_rewrap_for_each_blob_and_the_sample(
    yard: Yard, folder: Path
) -> None:
    yard.plant(9, kinds=("managed",))
    yard.world.kms.rotate(yard.world.kek.key)
    before = Counter(yard.world.kms.operations)
    campaign = yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.5)
    assert yard.run(campaign).state is State.COMPLETE
    used = yard.world.kms.operations - before
    found = events(yard, folder)
    assert counted(found, "event")["rewrap",] == used["rewrap"] == 9
    assert counted(found, "event")["unwrap",] == used["unwrap"]
    assert {e["key_id"] for e in found if e["event"] == "rewrap"} == {str(yard.world.target)}


@pytest.mark.parametrize("kind", [Kind.VERIFY, Kind.PLAN])
def test_who_only_looks_leaves_a_trace_too(yard: Yard, folder: Path, kind: Kind) -> None:
    blob_ids = yard.plant(8)
    asked = {"plan_of": Kind.MIGRATE, "target": yard.world.target} if kind is Kind.PLAN else {}
    assert yard.run(yard.start(kind, sample_size=8, **asked)).state is State.COMPLETE
    found = events(yard, folder)
    assert sorted(e["blob_id"] for e in found if e["event"] == "unwrap") == sorted(blob_ids)


def test_a_scan_uses_no_key_and_leaves_no_segment(yard: Yard, folder: Path) -> None:
    yard.plant(5)
    yard.run(yard.start(Kind.INVENTORY))
    assert not folder.exists()


def test_a_blob_that_does_not_open_leaves_its_reason(yard: Yard, folder: Path) -> None:
    yard.plant(2, kinds=("managed",))
    yard.world.write_sidecar("000-managed", b"{")
    wrapped = base64.b64encode(os.urandom(60)).decode()
    yard.world.edit("001-managed", wrapped_dek=wrapped)
    yard.world.kms.rotate(yard.world.kek.key)
    campaign = yard.start(Kind.ROTATE, prove=Prove.ALL)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    found = events(yard, folder)
    said = {(e["event"], e["blob_id"]): (e["outcome"], e.get("reason_code")) for e in found}
    assert said["unwrap", "001-managed"] == ("failed", yard.reasons(campaign)["001-managed"])
    assert said["decided", "001-managed"][0] == "quarantined"
    assert said["decided", "000-managed"] == ("quarantined", "sidecar_not_json")


def test_a_key_that_refuses_leaves_each_blob_it_refused(yard: Yard, folder: Path) -> None:
    blob_ids = yard.plant(3)
    campaign = yard.start(Kind.MIGRATE)
    yard.world.kms.fail_next(DeniedError("no", reason_code="permission_denied"), times=40)
    yard.run(campaign, State.BLOCKED)
    refused = [e for e in events(yard, folder) if e["outcome"] == "failed"]
    assert {e["reason_code"] for e in refused} == {"permission_denied"}
    assert {e["blob_id"] for e in refused} <= set(blob_ids)


def test_an_old_key_that_refuses_leaves_each_blob_it_refused(yard: Yard, folder: Path) -> None:
    blob_ids = yard.plant(3, kinds=("managed",))
    old = yard.world.target
    yard.world.kms.rotate(yard.world.kek.key)
    campaign = yard.start(Kind.ROTATE, prove=Prove.ALL)
    yard.world.kms.disable_version(old)
    yard.run(campaign, State.BLOCKED)
    found = [e for e in events(yard, folder) if e["event"] == "unwrap"]
    assert {e["blob_id"] for e in found} == set(blob_ids)
    assert {(e["outcome"], e["key_id"]) for e in found} == {("failed", str(old))}


def test_no_key_and_no_wrap_is_in_the_trail(yard: Yard, folder: Path) -> None:
    blob_ids = yard.plant(10)
    yard.run(yard.start(Kind.MIGRATE, prove=Prove.ALL))
    yard.world.kms.rotate(yard.world.kek.key)
    yard.run(yard.start(Kind.ROTATE, prove=Prove.ALL))
    yard.run(yard.start(Kind.VERIFY))
    trail = b"".join((folder / name).read_bytes() for name in names(folder))
    assert trail.count(b'"prove"') == 20
    secrets = [yard.world.direct_key.reveal()]
    for blob_id in blob_ids:
        wrapped = yard.world.reader.read(blob_id).wrapped
        secrets.append(wrapped.ciphertext)
        secrets.append(yard.world.kek.unwrap(wrapped, {"blob_id": blob_id}).reveal())
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert form not in trail
            assert form.upper() not in trail


def test_a_worker_killed_between_segment_and_commit_leaves_an_orphan_only(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(4)
    closed: list[Segment] = []
    noted = audit.note

    def killed(connection: Connection, segment: Segment) -> None:
        closed.append(segment)
        if len(closed) == 1:
            raise SimulatedCrash
        noted(connection, segment)

    monkeypatch.setattr(audit, "note", killed)
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert orphans(yard, folder) == {closed[0].name}
    # What was moved before the crash was looked at again, and was there already.
    moved = (folder / closed[0].name).read_text().count('"rewrapped"')
    assert moved >= 1
    assert yard.counts(campaign)["current"] == moved
    assert counted(events(yard, folder), "event")["decided",] == 4


def test_a_ledger_that_goes_away_at_the_commit_leaves_an_orphan_only(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(4)
    noted = audit.note

    def away(_connection: Connection, _segment: Segment) -> None:
        monkeypatch.setattr(audit, "note", noted)
        raise LedgerUnavailableError("the server closed the connection")

    monkeypatch.setattr(audit, "note", away)
    campaign = yard.start(Kind.MIGRATE)
    with pytest.raises(LedgerUnavailableError):
        yard.run(campaign)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert len(orphans(yard, folder)) == 1
    assert events(yard, folder)


def full(_file: int, _data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_blocks_the_campaign_before_anything_is_moved(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(6)
    yard.try_store()
    before = yard.world.snapshot()
    campaign = yard.start(Kind.MIGRATE)
    with monkeypatch.context() as disk:
        disk.setattr("keywrap.segments.os.write", full)
        blocked = yard.run(campaign, State.BLOCKED)
        assert blocked.reason_code == "audit_unavailable"
        assert "No space left on device" in (blocked.reason or "")
        assert yard.counts(campaign) == {"pending": 6}
        assert yard.world.snapshot() == before
        yard.tick(3)
        yard.assert_idle()
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 6)
    yard.assert_moved()
    assert [e["event"] for e in events(yard, folder)].count("unwrap") == 6


def test_a_disk_that_fills_up_at_the_end_of_a_segment_records_nothing_without_its_trace(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(4)
    campaign = yard.start(Kind.MIGRATE)

    def failing(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr("keywrap.segments.os.fsync", failing)
        blocked = yard.run(campaign, State.BLOCKED)
        assert blocked.reason_code == "audit_unavailable"
        assert yard.counts(campaign) == {"pending": 4}
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert events(yard, folder)


def test_a_full_disk_stops_a_verification_too_and_quarantines_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(5)
    campaign = yard.start(Kind.VERIFY)
    with monkeypatch.context() as disk:
        disk.setattr("keywrap.segments.os.write", full)
        assert yard.run(campaign, State.BLOCKED).reason_code == "audit_unavailable"
    assert yard.counts(campaign) == {"pending": 5}
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE


def test_no_file_stays_open_behind_a_shard_that_failed(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(8)
    proving = yard.world.kek.unwrap_many

    def failing(*_: object) -> None:
        monkeypatch.setattr(yard.world.kek, "unwrap_many", proving)
        raise RuntimeError("a bug")

    monkeypatch.setattr(yard.world.kek, "unwrap_many", failing)
    yard.run(yard.start(Kind.MIGRATE, prove=Prove.ALL), time_passes=True)
    assert len(orphans(yard, folder)) == 1
    open_files = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    assert not [path for path in open_files if path.startswith(str(folder))]


def test_without_a_folder_there_is_no_trail_and_everything_else_goes_on(ledger: Ledger) -> None:
    yard = Yard(ledger)
    yard.plant(3)
    assert yard.run(yard.start(Kind.MIGRATE)).state is State.COMPLETE
    assert chain(yard) == []


def test_the_key_service_sees_no_use_that_is_not_in_the_trail_whatever_the_campaign(
    yard: Yard, folder: Path
) -> None:
    _identity, recipient = create_identity()
    vault = Vault(MemoryStore(), "memory://vault", (recipient,))
    yard.runtime = replace(yard.runtime, vault=vault, store="the yard")
    yard.gates = Gates(canary=5, after=3, quarantined_percent=50)
    yard.plant(12)
    target = yard.world.target
    before = Counter(yard.world.kms.operations)

    def done(kind: Kind, **asked: object) -> int:
        campaign = yard.start(kind, **asked)
        assert yard.run(campaign, time_passes=True).state is State.COMPLETE, kind
        return campaign

    first = done(Kind.MIGRATE, backs_up=True)
    done(Kind.UNDO, follows=first, target=target)
    second = done(Kind.MIGRATE, backs_up=True)
    done(Kind.BACKUP, escrow=True, backs_up=True)
    done(Kind.SEAL, follows=second, target=target)
    yard.world.kms.rotate(yard.world.kek.key)
    done(Kind.PLAN, plan_of=Kind.ROTATE, target=yard.world.target, sample_size=6)
    done(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.5, backs_up=True)
    done(Kind.VERIFY)
    used = yard.world.kms.operations - before
    found = [e for e in events(yard, folder) if e.get("key_id", "").startswith("hcvault")]
    noted = Counter({"prove": "unwrap"}.get(e["event"], e["event"]) for e in found)
    assert noted == used
    assert min(noted.values()) >= 12
