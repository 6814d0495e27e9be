import pytest
from sqlalchemy import text

from keywrap.rewrapping import Outcome
from ledger import dropping, progress
from ledger.campaigns import RequestRefusedError
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests.yards import Yard


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def drop(yard: Yard, campaign_id: int, *, leaves_previous: bool = False) -> None:
    campaign = yard.desk.get(campaign_id)
    with yard.ledger.begin() as connection:
        dropping.drop_lists(connection, campaign, leaves_previous=leaves_previous)


def refused(yard: Yard, campaign_id: int, *, leaves_previous: bool = False) -> str:
    with pytest.raises(RequestRefusedError) as caught:
        drop(yard, campaign_id, leaves_previous=leaves_previous)
    assert str(campaign_id) in str(caught.value)
    assert caught.value.next_command.startswith("rewrap ")
    assert tables(yard, campaign_id) == 2, "the lists stay"
    return caught.value.reason_code


def tables(yard: Yard, campaign_id: int) -> int:
    names = [f"{table}_{campaign_id}" for table in ("inventory", "outcome")]
    (row,) = yard.desk.rows("SELECT count(*) FROM pg_class WHERE relname = ANY(:n)", n=names)
    return int(row[0])


def test_the_lists_of_a_campaign_go_and_its_counts_stay(yard: Yard) -> None:
    yard.plant(12)
    campaign, other = yard.start(Kind.MIGRATE), 0
    assert yard.run(campaign).state is State.COMPLETE
    other = yard.start(Kind.VERIFY)
    assert yard.run(other).state is State.COMPLETE
    before = yard.progress(campaign)
    drop(yard, campaign)
    assert (tables(yard, campaign), tables(yard, other)) == (0, 2)
    assert yard.desk.get(campaign).lists_dropped_at is not None
    after = yard.progress(campaign)
    assert after == before
    assert after.counts[Outcome.REWRAPPED] == 12
    with yard.ledger.begin() as connection:
        assert list(progress.blobs(connection, campaign)) == []
    with pytest.raises(RequestRefusedError, match="dropped before"):
        drop(yard, campaign)
    third = yard.start(Kind.MIGRATE)
    assert yard.run(third).state is State.COMPLETE, "the next campaign goes on as ever"


def test_lists_that_somebody_needs_stay(yard: Yard) -> None:
    yard.plant(6)
    campaign = yard.start(Kind.MIGRATE)
    yard.tick()
    assert refused(yard, campaign) == "not_finished"
    assert yard.run(campaign).state is State.COMPLETE
    assert refused(yard, campaign, leaves_previous=True) == "not_sealed"
    first, second = yard.start(Kind.INVENTORY), 0
    assert yard.run(first).state is State.COMPLETE
    assert refused(yard, first) == "newest_inventory"
    second = yard.start(Kind.INVENTORY)
    assert yard.run(second).state is State.COMPLETE
    drop(yard, first)
    yard.desk.run(
        "INSERT INTO backup (campaign_id, serial, place, manifest, sha256, blobs, recipients)"
        " VALUES (:id, 1, 'here', 'm', 's', 6, 'r')",
        id=campaign,
    )
    assert refused(yard, campaign) == "backup_on_record"


def test_a_campaign_with_exceptions_keeps_its_lists(yard: Yard) -> None:
    ids = yard.plant(4, ("wrapped",))
    yard.world.write_sidecar(ids[0], b"{")
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert refused(yard, campaign) == "has_exceptions"


def test_a_sealed_campaigns_lists_may_go(yard: Yard) -> None:
    yard.plant(4, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    sealing = yard.start(Kind.SEAL, follows=campaign, target=yard.world.target)
    assert yard.run(sealing).state is State.COMPLETE
    drop(yard, campaign, leaves_previous=True)
    assert tables(yard, campaign) == 0


def test_a_table_that_others_hold_is_not_waited_for(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "_LOCK_TIMEOUT", "50ms")
    yard.plant(4, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    with yard.ledger.begin() as busy:
        busy.execute(text("SELECT count(*) FROM inventory"))
        assert refused(yard, campaign) == "ledger_busy"
    drop(yard, campaign)
