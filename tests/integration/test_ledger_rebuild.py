"""PostgreSQL is lost, and the store tells an empty ledger what it can."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql

from embedded import Postgres
from keywrap.rewrapping import Outcome, Prove
from ledger import rebuilding
from ledger.campaigns import RequestRefusedError
from ledger.connection import Ledger
from ledger.rebuilding import MAX_ID
from ledger.states import Kind, State
from scheduler import certifying, showing, store_scan
from scheduler.commands.reading import status_of
from scheduler.commands.rebuild import rebuild as command
from scheduler.desk import REFUSED, Desk, DeskError
from scheduler.oldversions import OldWraps
from scheduler.retiring import Retiring
from tasks.marks import MARK
from tests.ledgers import clone
from tests.rotations import STORE, desk_at
from tests.worlds import KEK, KINDS
from tests.yards import Yard, only
from workers.settings import Retire

BLOBS = 24
KEYS = """
[keys]
primary = "{kek}"

[keys.vault."memory/blob-kek"]
address = "http://127.0.0.1:1"
token_env = "NONE"
"""


@dataclass
class Loss:
    """A yard whose ledger can be lost, and its operator."""

    yard: Yard
    desk: Desk
    folder: Path
    drop: Callable[[], None]

    @property
    def world(self) -> Any:
        return self.yard.world

    def types(self, *words: str) -> Any:
        """Rebuild as an operator does; return the JSON document."""
        ran = CliRunner().invoke(command, [*words, "--json"], obj=self.desk)
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return json.loads(ran.output)

    def move(self, kind: Kind, **asked: object) -> int:
        campaign = self.yard.start(kind, store=self.yard.runtime.store, **asked)
        assert self.yard.run(campaign).state is State.COMPLETE
        return campaign


@pytest.fixture
def loss(
    postgres: Postgres,
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Loss:
    yard = Yard(ledger, audit=tmp_path / "audit")
    ((database,),) = yard.desk.rows("SELECT current_database()")

    def drop() -> None:
        ledger.close()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            statement = sql.SQL("DROP DATABASE {} (FORCE)")
            connection.execute(statement.format(sql.Identifier(database)))
        clone(postgres, database)

    config = STORE.format(store=(tmp_path / "blobs").as_uri()) + KEYS.format(kek=KEK)
    desk = desk_at(tmp_path, ledger, f'state_dir = "{tmp_path}/state"\n{config}')
    yard.runtime = replace(yard.runtime, store=desk.settings.keywrap.store.place)
    monkeypatch.setattr("scheduler.rebuilding.open_store", lambda _config: yard.world.store)
    monkeypatch.setattr(showing, "silently", lambda read: (yard.run(read().campaign.id), read())[1])
    return Loss(yard, desk, tmp_path, drop)


def test_a_lost_ledger_has_inventory_and_outcomes_again_and_undo_goes_on(loss: Loss) -> None:
    ids = loss.yard.plant(BLOBS)
    before = {b: loss.world.reader.read(b).wrapped.key_version for b in ids}
    campaign = loss.move(Kind.MIGRATE, prove=Prove.ALL)
    told = loss.yard.desk.rows("SELECT blob_id, outcome FROM outcome ORDER BY 1")
    store = loss.world.snapshot()
    loss.drop()
    found = loss.types("--directory", str(loss.folder / "audit"))
    assert found["scanned"] == BLOBS
    assert {(line["key"], line["blobs"]) for line in found["by_key"] if line["blobs"]} == {
        (KEK, BLOBS)
    }
    (made,) = found["campaigns"]
    assert (made["kind"], made["target"], made["rewrapped"]) == (
        "migrate",
        str(loss.world.target),
        BLOBS,
    )
    again = made["campaign"]
    assert again > found["last_lost_campaign"] >= campaign, "no number is given out twice"
    assert loss.yard.counts(again) == only(Outcome.REWRAPPED, BLOBS)
    assert told == loss.yard.desk.rows(
        "SELECT blob_id, outcome FROM outcome WHERE campaign_id = :c ORDER BY 1", c=again
    )
    was = loss.yard.desk.rows(
        "SELECT i.blob_id, k.key FROM inventory i JOIN key_version k ON k.id = i.key_version_id"
        " WHERE campaign_id = :c",
        c=again,
    )
    assert dict(was) == {b: version.key for b, version in before.items()}
    assert loss.world.snapshot() == store, "a rebuild changes no blob"
    undoing = loss.move(Kind.UNDO, follows=again, target=loss.world.target)
    assert loss.yard.counts(undoing) == only(Outcome.REWRAPPED, BLOBS)
    assert {b: loss.world.reader.read(b).wrapped.key_version for b in ids} == before
    assert loss.world.wrong() == []


def test_rotations_and_migrations_are_told_apart_and_can_be_sealed(loss: Loss) -> None:
    loss.yard.plant(BLOBS, KINDS)
    loss.world.kms.rotate(KEK)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.move(Kind.ROTATE, prove=Prove.ALL)
    loss.drop()
    found = loss.types()
    managed = sum(KINDS[n % len(KINDS)] == "managed" for n in range(BLOBS))
    made = {one["kind"]: one for one in found["campaigns"]}
    assert {kind: one["rewrapped"] for kind, one in made.items()} == {
        "migrate": BLOBS - managed,
        "rotate": managed,
    }
    sealing = loss.move(Kind.SEAL, follows=made["rotate"]["campaign"], target=loss.world.target)
    # One seal takes all that is under the version, as with the ledger that was lost.
    assert loss.yard.counts(sealing) == only(Outcome.REWRAPPED, BLOBS)
    assert loss.world.wrong() == []


def test_a_campaign_that_was_cut_off_by_the_loss_is_begun_again_and_ends(loss: Loss) -> None:
    loss.yard.plant(BLOBS)
    campaign = loss.yard.start(Kind.MIGRATE, prove=Prove.ALL, store=loss.yard.runtime.store)
    loss.yard.set(window=1)
    monkey = loss.yard.broker
    left = [2]

    def some(offer: Any) -> None:
        if offer.kind == "rewrap" and not left[0]:
            return
        left[0] -= offer.kind == "rewrap"
        monkey(offer)

    loss.yard.broker = some
    loss.yard.plant(3, ("managed",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.scans.SHARD_BLOBS", 4)
        loss.yard.tick(12)
    done = loss.yard.counts(campaign)["rewrapped"]
    assert 0 < done < BLOBS
    loss.yard.broker = monkey
    loss.drop()
    (made,) = loss.types()["campaigns"]
    assert made["rewrapped"] == done
    end = loss.move(Kind.MIGRATE, prove=Prove.ALL)
    counts = loss.yard.counts(end)
    assert counts["rewrapped"] == BLOBS - done
    loss.yard.assert_moved()


def test_what_was_rebuilt_gets_no_certificate(loss: Loss) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.drop()
    (made,) = loss.types()["campaigns"]
    with pytest.raises(DeskError) as refused:
        certifying.record_of(loss.desk, made["campaign"])
    assert refused.value.reason_code == "campaign_not_complete"
    campaign = loss.yard.desk.get(made["campaign"])
    assert (campaign.state, campaign.reason_code) == (State.CANCELLED, "ledger_rebuilt")
    assert campaign.requested_by.startswith("rebuilt by ")


def test_a_ledger_that_is_not_lost_is_left_as_it_is(loss: Loss) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    rows = "SELECT id, kind, state FROM campaign ORDER BY id"
    before = loss.yard.desk.rows(rows)
    with pytest.raises(RequestRefusedError) as refused:
        loss.types()
    assert refused.value.reason_code == "ledger_not_empty"
    assert "is not a lost one" in str(refused.value)
    assert loss.yard.desk.rows(rows) == before


def test_a_second_rebuild_is_told_that_there_was_one(loss: Loss) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.drop()
    loss.types()
    with pytest.raises(RequestRefusedError, match="was rebuilt already"):
        loss.types()


def test_one_begun_while_the_store_is_scanned_stops_the_rebuild(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.drop()
    scan = store_scan.scan

    def scan_and_start(*arguments: Any) -> int:
        found = scan(*arguments)
        loss.yard.start(Kind.MIGRATE, prove=Prove.ALL)
        return found

    monkeypatch.setattr(store_scan, "scan", scan_and_start)
    with pytest.raises(RequestRefusedError, match="is not a lost one"):
        loss.types()
    kinds = loss.yard.desk.rows("SELECT kind FROM campaign ORDER BY id")
    assert kinds == [("inventory",), ("migrate",)]


def test_one_that_was_cut_off_is_run_again(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.drop()
    with monkeypatch.context() as patch:
        patch.setattr(rebuilding, "_fill", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loss.types()
    assert loss.yard.desk.rows("SELECT kind, reason_code FROM campaign") == [("inventory", None)]
    (made,) = loss.types()["campaigns"]
    assert loss.yard.counts(made["campaign"]) == only(Outcome.REWRAPPED, 6)


def test_a_store_without_its_mark_is_not_taken_for_the_store(loss: Loss) -> None:
    loss.yard.plant(6)
    with pytest.raises(DeskError) as refused:
        loss.types()
    assert (refused.value.exit_code, refused.value.reason_code) == (REFUSED, "store_not_marked")
    assert loss.yard.desk.rows("SELECT id FROM campaign") == []


def test_an_empty_mount_point_is_noticed_after_the_rebuild(loss: Loss) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.drop()
    loss.types()
    del loss.world.store._objects[MARK]
    campaign = loss.yard.start(Kind.ROTATE, prove=Prove.ALL, store=loss.yard.runtime.store)
    assert loss.yard.run(campaign, State.BLOCKED).reason_code == "wrong_store"


def test_a_sidecar_names_no_target_that_is_not_listed(loss: Loss) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.world.edit("000-direct", key_id="hcvault://evil/kek?version=1")
    loss.drop()
    found = loss.types()
    assert [one["target"] for one in found["campaigns"]] == [str(loss.world.target)]
    assert found["campaigns"][0]["rewrapped"] == 5
    assert found["previous_elsewhere"] == 1


def test_however_many_versions_sidecars_name_campaigns_are_few(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "MOST", 2)
    ids = loss.yard.plant(8)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    for n, blob_id in enumerate(ids[:4]):
        loss.world.edit(blob_id, key_id=f"{KEK}?version={900 + n}")
    loss.drop()
    found = loss.types()
    assert [one["rewrapped"] for one in found["campaigns"]] == [4, 1]
    assert found["previous_elsewhere"] == 3


def test_numbers_of_lost_campaigns_are_not_used_again(loss: Loss) -> None:
    loss.yard.plant(6)
    loss.move(Kind.MIGRATE, prove=Prove.ALL)
    loss.drop()
    backups = loss.folder / "state" / "backups"
    for name in ("campaign-000041", f"campaign-{MAX_ID + 1}", "campaign-x", "campaign-٣"):
        (backups / name).mkdir(parents=True)
        (backups / name / "manifest-000000001-1.json").write_text("{}")
    found = loss.types("--directory", str(loss.folder / "audit"))
    assert found["last_lost_campaign"] == 41
    assert found["scan"] == 42


def test_retire_says_that_it_cannot_see_the_backups_of_a_lost_ledger(loss: Loss) -> None:
    loss.yard.plant(6, ("managed",))
    old = loss.world.target
    loss.world.kms.rotate(KEK)
    campaign = loss.move(Kind.ROTATE, prove=Prove.ALL)
    loss.move(Kind.SEAL, follows=campaign, target=loss.world.target)
    loss.drop()
    assert loss.types()["campaigns"] == []
    retiring = Retiring(
        loss.desk,
        loss.world.kek,
        old,
        Retire(drain_s=0, soak_s=0),
        False,  # noqa: FBT003 - nothing is accepted
        lambda number: showing.silently(lambda: status_of(loss.desk, number)),
        lambda _line: None,
        look_back=lambda _desk, _needs: OldWraps(unseen="a memory keeps none"),
    )
    with pytest.raises(DeskError) as refused:
        retiring.run()
    assert refused.value.reason_code == "backups_need_it"
    assert "a lost ledger knew" in str(refused.value)
