"""What stands between an operator and a disaster: canary, gates, backup, seal, undo, restore."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keywrap.backups.bundle import BackupError, create_identity
from keywrap.backups.opening import Bundle
from keywrap.backups.restoring import Restorer
from keywrap.backups.vault import Vault
from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.kms import Context
from keywrap.rewrapping import Outcome, Prove
from keywrap.testing.stores import MemoryStore
from ledger import backups, wishes
from ledger.connection import Ledger
from ledger.states import Kind, ShardKind, State
from scheduler import status, waits
from scheduler.commands.unwinding import seal, undo
from tests.rotations import STORE, desk_at
from tests.worlds import KEK, World
from tests.yards import Yard, only
from workers.settings import Gates


class SafeYard(Yard):
    """A yard with backups and a canary, as an operator has it."""

    def __init__(self, ledger: Ledger, world: World | None = None) -> None:
        super().__init__(ledger, world)
        self.gates = Gates(canary=10, after=8, quarantined_percent=20)
        self.identity, recipient = create_identity()
        self.vault = Vault(MemoryStore(), "memory://vault", (recipient,))
        self.runtime = replace(self.runtime, vault=self.vault, store="the yard")

    def start(self, kind: Kind, **asked: object) -> int:
        return super().start(kind, **{"backs_up": True, **asked})

    def follow(self, kind: Kind, campaign: int) -> int:
        return self.start(kind, follows=campaign, target=self.world.target)

    def bundle(self, campaign: int) -> Bundle:
        with self.ledger.begin() as connection:
            known = backups.get(connection, campaign)
        assert known is not None
        return Bundle(self.vault, known.manifest, known.sha256)

    def restore(self, campaign: int) -> dict[str, int]:
        world = self.world
        restorer = Restorer(world.reader, world.keys, world.legacy_content, world.pool)
        found: dict[str, int] = {}
        for kept in self.bundle(campaign).parts(self.identity):
            for result in restorer.restore(kept):
                found[result.outcome.value] = found.get(result.outcome.value, 0) + 1
        return found


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> SafeYard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return SafeYard(ledger)


class Corrupting:
    """A KEK whose service silently makes some of its wraps of another data key."""

    def __init__(self, world: World, every: int) -> None:
        self._provider = world.kek
        self._every = every
        self._made = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._provider, name)

    def _spoil(self, wrapped: WrappedKey, context: Context) -> WrappedKey:
        self._made += 1
        bad = self._made % self._every == 0
        return self._provider.wrap(DataKey.generate(), context) if bad else wrapped

    def wrap_many(self, items: list[tuple[DataKey, Context]]) -> list[WrappedKey]:
        made = self._provider.wrap_many(items)
        return [self._spoil(w, c) for w, (_, c) in zip(made, items, strict=True)]  # type: ignore[arg-type]

    def rewrap_many(self, items: list[tuple[WrappedKey, Context]]) -> list[WrappedKey]:
        made = self._provider.rewrap_many(items)
        return [self._spoil(w, c) for w, (_, c) in zip(made, items, strict=True)]  # type: ignore[arg-type]


def test_a_campaign_backs_up_tries_a_canary_and_then_moves(yard: SafeYard) -> None:
    yard.plant(30)
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 30)
    order = list(dict.fromkeys(offer.kind for offer in yard.sent))
    assert order == [
        ShardKind.INVENTORY,
        ShardKind.BACKUP,
        ShardKind.MANIFEST,
        ShardKind.VERIFY,
        ShardKind.REWRAP,
        ShardKind.STRAGGLERS,
    ]
    yard.assert_moved()


def test_a_backup_holds_every_wrap_as_it_lay_there(yard: SafeYard) -> None:
    ids = yard.plant(9)
    yard.world.write_sidecar(ids[0], b"{ no sidecar")
    lay = {
        b: yard.world.store.read(yard.world.reader.layout.sidecar_name(b)).data
        for b in ids
        if yard.world.reader.layout.sidecar_name(b) in yard.world.snapshot()
    }
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    bundle = yard.bundle(campaign)
    kept = [k for part in bundle.parts(yard.identity) for k in part]
    assert {k.blob_id for k in kept} == set(ids)
    assert {k.blob_id: k.sidecar for k in kept if k.sidecar is not None} == lay
    assert all(k.data_key is None for k in kept)
    found = bundle.open(yard.identity)
    assert (found.is_whole, found.opened) == (True, 9)
    assert bundle.check().is_whole


def test_nothing_is_moved_where_no_backup_can_be_written(yard: SafeYard) -> None:
    yard.plant(6)
    before = yard.world.snapshot()
    vault, yard.runtime = yard.runtime.vault, replace(yard.runtime, vault=None)
    campaign = yard.start(Kind.MIGRATE)
    blocked = yard.run(campaign, State.BLOCKED)
    assert (blocked.reason_code, blocked.stage) == ("backup_not_configured", State.BACKUP)
    moved = {n: d for n, d in yard.world.snapshot().items() if not n.startswith(".rewrap/")}
    assert moved == before
    yard.runtime = replace(yard.runtime, vault=vault)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE


def test_every_edit_of_a_backup_is_found_without_its_identity(yard: SafeYard) -> None:
    yard.plant(9)
    campaign = yard.start(Kind.BACKUP)
    assert yard.run(campaign).state is State.COMPLETE
    bundle, store = yard.bundle(campaign), yard.vault.store
    entry = bundle.manifest.parts[1]
    whole = store.read(entry.name)
    store.replace(entry.name, whole.data[:-1], whole)
    faults = bundle.check().faults
    assert len(faults) == 1
    assert entry.name in faults[0]
    store.delete(entry.name)
    assert "is not in memory://vault" in bundle.check().faults[0]
    with pytest.raises(BackupError, match="no age identity"):
        bundle.open("AGE-SECRET-KEY-1QQQ")
    stranger, _ = create_identity()
    assert len(bundle.open(stranger).faults) == len(bundle.manifest.parts) + 1


def test_a_corrupt_wrap_in_the_canary_stops_the_campaign_before_anything_is_written(
    yard: SafeYard,
) -> None:
    yard.plant(30, ("managed",))
    yard.world.kms.rotate(KEK)
    before = yard.world.snapshot()
    ring = yard.world.keys
    ring._providers[KEK] = Corrupting(yard.world, every=10)  # type: ignore[assignment]
    campaign = yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.01)
    stopped = yard.run(campaign, State.STOPPED)
    assert (stopped.reason_code, stopped.stage) == ("proof_failed", State.CANARY)
    after = {n: d for n, d in yard.world.snapshot().items() if not n.startswith(".rewrap/")}
    assert after == before


def test_a_canary_that_does_not_open_stops_the_campaign_until_a_person_resumes(
    yard: SafeYard,
) -> None:
    ids = yard.plant(12, ("wrapped",))
    for blob_id in ids[:6]:
        yard.world.edit(blob_id, wrapped_dek="AAAA")
    campaign = yard.start(Kind.MIGRATE)
    stopped = yard.run(campaign, State.STOPPED)
    assert (stopped.reason_code, stopped.stage) == ("canary_failed", State.CANARY)
    with yard.ledger.begin() as connection:
        wishes.resume(connection, stopped)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == {"rewrapped": 6, "quarantined": 6}


@pytest.mark.parametrize(("bad", "code"), [(2, None), (8, "too_many_quarantined")])
def test_a_campaign_stops_by_itself_when_too_many_blobs_are_quarantined(
    yard: SafeYard, bad: int, code: str | None
) -> None:
    yard.gates = Gates(canary=0, after=16, quarantined_percent=20)
    ids = yard.plant(20, ("wrapped",))
    for blob_id in ids[:bad]:
        yard.world.edit(blob_id, wrapped_dek="AAAA")
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, State.STOPPED).reason_code == code


def test_a_seal_strips_the_old_wraps_and_every_blob_opens(yard: SafeYard) -> None:
    yard.plant(12)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    assert all("previous" in yard.world.sidecar(b) for b in yard.world.originals)
    sealing = yard.follow(Kind.SEAL, campaign)
    assert yard.run(sealing).state is State.COMPLETE
    assert yard.counts(sealing) == only(Outcome.REWRAPPED, 12)
    assert not any("previous" in yard.world.sidecar(b) for b in yard.world.originals)
    yard.assert_moved()
    again = yard.follow(Kind.SEAL, campaign)
    yard.run(again)
    assert yard.counts(again) == only(Outcome.CURRENT, 12)


def test_a_seal_leaves_a_blob_whose_live_wrap_does_not_open_its_content(yard: SafeYard) -> None:
    ids = yard.plant(4)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    swapped = yard.world.kek.wrap(DataKey.generate(), {"blob_id": ids[0]})
    yard.world.edit(ids[0], wrapped_dek=_text(swapped))
    before = yard.world.raw(ids[0])
    sealing = yard.follow(Kind.SEAL, campaign)
    assert yard.run(sealing).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.world.raw(ids[0]) == before
    assert list(yard.reasons(sealing)) == [ids[0]]


def test_an_undo_puts_the_old_wraps_back_and_a_writer_keeps_what_he_wrote(yard: SafeYard) -> None:
    ids = yard.plant(12)
    old = {b: yard.world.reader.read(b).wrapped for b in ids}
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    yard.world.put(ids[3], b"written since")
    undoing = yard.follow(Kind.UNDO, campaign)
    assert yard.run(undoing).state is State.COMPLETE
    assert yard.counts(undoing) == {"rewrapped": 11, "excluded": 1}
    assert yard.world.wrong() == []
    for blob_id in set(ids) - {ids[3]}:
        assert yard.world.reader.read(blob_id).wrapped == old[blob_id]
        assert yard.world.sidecar(blob_id)["dek_version"] >= 2
        assert "previous" not in yard.world.sidecar(blob_id)
    assert yard.world.reader.read(ids[3]).wrapped.key_version == yard.world.target


def why(yard: SafeYard, campaign_id: int) -> Any:
    return status.read(yard.ledger, campaign_id, keeps_previous=True).wait  # type: ignore[union-attr]


def test_what_a_later_campaign_left_is_not_sealed_or_undone_with_an_earlier_one(
    yard: SafeYard, tmp_path: Path
) -> None:
    yard.plant(4)
    migrated, first = yard.start(Kind.MIGRATE), yard.world.target
    yard.run(migrated)
    yard.world.plant("managed", "never migrated")
    yard.world.kms.rotate(KEK)
    rotated = yard.start(Kind.ROTATE)
    yard.run(rotated)
    before = yard.world.snapshot()
    desk = desk_at(tmp_path, yard.ledger, STORE.format(store=tmp_path.as_uri()))
    sealed: dict[Kind, int] = {}
    for command, kind in ((seal, Kind.SEAL), (undo, Kind.UNDO)):
        told = CliRunner().invoke(command, [str(migrated)], obj=desk).output
        assert f"under {first} or a later version of that key, and `previous` is under an" in told
        assert f"what campaign {rotated} (rotate to {yard.world.target}) has left since" in told
        following = yard.start(kind, follows=migrated, target=first)
        yard.run(following)
        assert yard.counts(following) == only(Outcome.EXCLUDED, 5)
        assert yard.world.snapshot() == before
        sealed[kind] = following
    stayed = why(yard, sealed[Kind.SEAL])
    assert stayed.next_command == f"rewrap seal {rotated}"
    assert "5 of 5 blobs keep their wraps before, which a later campaign" in stayed.reason
    assert f"campaign {rotated} (rotate)" in stayed.reason
    assert why(yard, sealed[Kind.UNDO]).reason_code == "nothing_put_back"
    yard.run(yard.follow(Kind.SEAL, rotated))
    assert why(yard, sealed[Kind.SEAL]).reason_code is None, "by now nothing is left"
    assert not any("previous" in yard.world.sidecar(b) for b in yard.world.originals)
    told = CliRunner().invoke(seal, [str(migrated)], obj=desk).output
    assert "has left since" not in told


def test_an_undo_of_what_is_sealed_is_not_called_done(yard: SafeYard) -> None:
    yard.plant(4)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    yard.run(yard.follow(Kind.SEAL, campaign))
    before = yard.world.snapshot()
    undone = yard.run(yard.follow(Kind.UNDO, campaign))
    assert (undone.state, undone.reason_code) == (
        State.COMPLETE_WITH_EXCEPTIONS,
        "nothing_put_back",
    )
    assert waits.after(undone) == f"rewrap blobs {undone.id} --outcome excluded"
    assert yard.world.snapshot() == before


def test_an_undo_that_is_repeated_changes_nothing_and_is_done(yard: SafeYard) -> None:
    yard.plant(4)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    yard.run(yard.follow(Kind.UNDO, campaign))
    assert yard.run(yard.follow(Kind.UNDO, campaign)).state is State.COMPLETE


def test_an_undo_puts_back_nothing_that_does_not_open_the_content(yard: SafeYard) -> None:
    ids = yard.plant(4, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    record = yard.world.sidecar(ids[0])
    other = yard.world.wrapping.wrap(DataKey.generate(), {})
    yard.world.edit(ids[0], previous=record["previous"] | {"wrapped_dek": _text(other)})
    before = yard.world.raw(ids[0])
    undoing = yard.follow(Kind.UNDO, campaign)
    assert yard.run(undoing).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.world.raw(ids[0]) == before
    assert yard.world.wrong() == []


def test_a_restore_puts_back_what_was_lost_and_leaves_what_opens(yard: SafeYard) -> None:
    ids = yard.plant(9)
    campaign = yard.start(Kind.BACKUP)
    yard.run(campaign)
    for blob_id in ids[:3]:
        yard.world.write_sidecar(blob_id, b"overwritten by a fool")
    yard.world.put(ids[4], b"written since, under a newer data key")
    assert yard.restore(campaign) == {"rewrapped": 3, "current": 6}
    assert yard.world.wrong() == []
    assert yard.restore(campaign) == {"current": 9}


def test_a_restore_never_goes_over_a_newer_data_key(yard: SafeYard) -> None:
    ids = yard.plant(2, ("wrapped",))
    campaign = yard.start(Kind.BACKUP)
    yard.run(campaign)
    yard.world.put(ids[0], b"written since, under a newer data key")
    yard.world.kms.disable_version(yard.world.target)
    before = yard.world.raw(ids[0])
    assert yard.restore(campaign) == {"quarantined": 1, "current": 1}
    assert yard.world.raw(ids[0]) == before


def test_an_escrow_opens_blobs_whose_old_key_is_gone(yard: SafeYard) -> None:
    ids = yard.plant(6, ("managed",))
    campaign = yard.start(Kind.BACKUP, escrow=True)
    yard.run(campaign)
    kept = [k for part in yard.bundle(campaign).parts(yard.identity) for k in part]
    assert all(k.data_key is not None for k in kept)
    old = yard.world.target
    yard.world.kms.rotate(KEK)
    yard.world.kms.disable_version(old)
    assert yard.restore(campaign) == {"rewrapped": 6}
    assert yard.world.wrong() == []
    versions = {yard.world.reader.read(b).wrapped.key_version for b in ids}
    assert versions == {yard.world.kek.current_version()}


def test_proofs_and_verification_go_to_the_workers_with_credentials_of_their_own(
    yard: SafeYard,
) -> None:
    yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    yard.gates = Gates(canary=3, verify_queue="verifiers")
    yard.runtime = replace(yard.runtime, verify_queue="verifiers")
    campaign = yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.5)
    assert yard.run(campaign).state is State.COMPLETE
    canary, proof = [o for o in yard.sent if o.kind is ShardKind.VERIFY]
    assert (canary.queue, proof.queue) == ("rewrap", "verifiers")
    for size in (None, 3):
        yard.sent.clear()
        assert yard.run(yard.start(Kind.VERIFY, sample_size=size)).state is State.COMPLETE
        asked = {o.queue for o in yard.sent if o.kind is ShardKind.VERIFY}
        assert asked == {"verifiers"}


def test_stragglers_are_backed_up_before_they_are_moved(yard: SafeYard) -> None:
    yard.plant(4)
    late: list[str] = []

    def writer(offer: object) -> None:
        if offer.kind is ShardKind.STRAGGLERS and not late:  # type: ignore[attr-defined]
            late.append(yard.world.plant("wrapped", "zz-late"))
        yard.work(offer)  # type: ignore[arg-type]

    yard.broker = writer
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    kept = [k.blob_id for part in yard.bundle(campaign).parts(yard.identity) for k in part]
    assert "zz-late" in kept
    yard.assert_moved()


def _text(wrapped: WrappedKey) -> str:
    return base64.b64encode(wrapped.ciphertext).decode()
