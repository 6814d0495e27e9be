"""What the scheduler's thread reads of the ledger, and what tasks tell their meter."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from embedded.places import free_port
from keywrap.config import KeywrapConfig
from keywrap.keys import KeyVersion
from keywrap.tables.store import StoreConfig
from ledger import audit
from ledger.connection import Ledger, LedgerUnavailableError
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from scheduler.chainwatch import ChainWatch
from scheduler.headkeeper import HeadKeeper
from scheduler.measuring import Watcher
from tasks.metering import Meter
from tests.nodes import until
from tests.yards import Yard
from workers.metrics_table import Metrics
from workers.settings import Settings

Values = dict[str, dict[frozenset[tuple[str, str]], float]]


class Heard(Meter):
    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.shards: Counter[str] = Counter()
        self.lost = 0

    def stragglers(self, versions: Mapping[KeyVersion | None, int]) -> None:
        self.found.update({str(version): count for version, count in versions.items()})

    def decided(self, kind: Kind, outcomes: Mapping[str, int]) -> None:
        self.outcomes.update({f"{kind} {name}": count for name, count in outcomes.items()})

    def worked(self, kind: ShardKind, seconds: float) -> None:
        assert seconds >= 0
        self.shards[kind] += 1

    def lease_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def yard(ledger: Ledger, heard: Heard, tmp_path: Path) -> Yard:
    yard = Yard(ledger, audit=tmp_path)
    yard.runtime = replace(yard.runtime, meter=heard)
    yard.try_store()
    return yard


@pytest.fixture
def watcher(ledger: Ledger) -> Watcher:
    settings = Settings(KeywrapConfig(StoreConfig(url="file:///nowhere")))
    return Watcher(settings, ledger, HeadKeeper(settings, ledger))


def test_a_table_that_somebody_holds_is_not_waited_for_without_end(
    ledger: Ledger, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(KeywrapConfig(StoreConfig(url="file:///nowhere")))
    impatient = Ledger(ledger_url, statement_s=0.2)
    watcher = Watcher(settings, impatient, HeadKeeper(settings, ledger))
    watcher.look()
    with ledger.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE campaign IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        watcher.look()
        watcher.look()
        assert time.monotonic() - began < 5
    assert not watcher._ledger_is_up
    assert caplog.messages == ["metrics: canceling statement due to statement timeout"]
    watcher.look()
    assert watcher._ledger_is_up
    impatient.close()


def test_it_reads_in_a_thread_of_its_own_once_it_is_started(ledger: Ledger) -> None:
    store = KeywrapConfig(StoreConfig(url="file:///nowhere"))
    served = Settings(store, metrics=Metrics(port=free_port()))
    started = Watcher(served, ledger, HeadKeeper(served, ledger))
    started.start()
    try:
        until(lambda: started._ledger_is_up, "the first reading")
    finally:
        started.stop()
    assert not started._thread.is_alive()


def read(watcher: Watcher) -> Values:
    watcher.look()
    found: Values = {}
    for family in text_string_to_metric_families(generate_latest(watcher.registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def of(values: Values, name: str, **labels: Any) -> float:
    """Add up what has these labels."""
    wanted = {(label, str(value)) for label, value in labels.items()}
    return sum(value for has, value in values.get(name, {}).items() if wanted <= has)


def test_tasks_tell_outcomes_once_and_the_versions_that_stragglers_are_written_under(
    yard: Yard, heard: Heard
) -> None:
    yard.plant(10)
    writes = [True]

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.STRAGGLERS and writes and writes.pop():
            yard.world.plant("wrapped", "new")
            yard.world.plant("wrapped", "000-direct", b"written anew")
        yard.work(offer)

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    assert heard.found == {str(KeyVersion(yard.world.wrapping.key)): 2}
    assert heard.outcomes["migrate rewrapped"] == 12, "one of the eleven was written anew"
    assert heard.shards[ShardKind.REWRAP] >= 3
    assert heard.lost == 0


def test_what_an_exception_holds_back_is_no_straggler(yard: Yard, heard: Heard) -> None:
    yard.plant(6)
    yard.world.edit(yard.world.plant("wrapped", "swapped"), wrapped_dek="AAAA")
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert heard.outcomes["migrate quarantined"] == 1
    assert not heard.found


def test_a_lost_lease_is_told(yard: Yard, heard: Heard) -> None:
    yard.plant(6)
    campaign = yard.start(Kind.MIGRATE)

    def take_away(step: str) -> None:
        if step == "rewrap":
            yard.desk.run("UPDATE shard SET fence = fence + 1 WHERE state = 'leased'")

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.REWRAP and not heard.lost:
            original = yard.world.kek.wrap_many  # type: ignore[attr-defined]

            def wrap_many(items: Any) -> Any:
                take_away("rewrap")
                return original(items)

            yard.world.kek.wrap_many = wrap_many  # type: ignore[attr-defined]
            yard.work(offer)
            yard.world.kek.wrap_many = original  # type: ignore[attr-defined]
        else:
            yard.work(offer)

    yard.broker = broker
    for _ in range(20):
        yard.let_time_pass()
        yard.tick()
    assert heard.lost >= 1
    assert yard.desk.get(campaign).state is State.COMPLETE


def test_an_open_campaign_is_shown_and_a_finished_one_is_not(yard: Yard, watcher: Watcher) -> None:
    yard.plant(12)
    yard.world.edit(yard.world.plant("wrapped", "swapped"), wrapped_dek="AAAA")
    campaign = yard.start(Kind.MIGRATE, finish_by=datetime.now(UTC) - timedelta(hours=1))
    yard.run(campaign, State.RUNNING)
    values = read(watcher)
    assert of(values, "rewrap_ledger_up") == of(values, "rewrap_open_campaigns") == 1
    assert of(values, "rewrap_campaign_state", campaign=campaign, state="running") == 1
    assert of(values, "rewrap_campaign_blobs", campaign=campaign) == 13
    assert of(values, "rewrap_campaign_late", campaign=campaign, kind="migrate") == 1
    shards = yard.desk.rows("SELECT count(*) FROM shard WHERE campaign_id = :c", c=campaign)
    assert of(values, "rewrap_campaign_shards", campaign=campaign) == shards[0][0]
    yard.run(campaign, State.VERIFYING)
    values = read(watcher)
    reason = {"outcome": "quarantined", "campaign": campaign}
    assert of(values, "rewrap_campaign_exceptions", **reason) == 1
    assert of(values, "rewrap_campaign_blobs", campaign=campaign, outcome="rewrapped") == 12
    yard.run(campaign)
    values = read(watcher)
    assert of(values, "rewrap_open_campaigns") == 0
    assert "rewrap_campaign_state" not in values
    assert of(values, "rewrap_audit_chain_entries") > 0
    assert of(values, "rewrap_audit_unchained_segments") == 0


def test_a_campaign_that_moves_is_told_from_one_that_does_not(yard: Yard, watcher: Watcher) -> None:
    yard.plant(12)
    name = "rewrap_campaign_last_progress_timestamp_seconds"
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign, State.RUNNING)
    hour = "interval '1 hour'"
    yard.desk.run(f"UPDATE shard SET started_at = started_at - {hour}, "  # noqa: S608
                  f"finished_at = finished_at - {hour}")  # fmt: skip
    since = datetime.now(UTC).timestamp() - of(read(watcher), name, campaign=campaign)
    assert 3500 < since < 3700, "as the ledger has it, for a scheduler that has just started"
    assert of(read(watcher), name, campaign=campaign) < datetime.now(UTC).timestamp() - 3500
    yard.tick()
    since = datetime.now(UTC).timestamp() - of(read(watcher), name, campaign=campaign)
    assert since < 60


def test_a_blocked_campaign_says_why(yard: Yard, watcher: Watcher) -> None:
    yard.plant(4)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign, State.RUNNING)
    yard.desk.run(
        "UPDATE campaign SET state = 'blocked', resume_state = 'running',"
        " reason_code = 'permission_denied', reason = 'no' WHERE id = :c",
        c=campaign,
    )
    values = read(watcher)
    assert of(values, "rewrap_campaign_state", campaign=campaign, state="blocked") == 1
    assert of(values, "rewrap_campaign_waiting", campaign=campaign) == 1
    assert of(values, "rewrap_campaign_waiting", reason="permission_denied") == 1


def test_the_census_is_counted_once_for_each_inventory(
    yard: Yard, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(8)
    place = Settings(KeywrapConfig(StoreConfig(url="file:///nowhere"))).keywrap.store.place
    yard.runtime = replace(yard.runtime, store=place)
    yard.run(yard.start(Kind.INVENTORY, store=place))
    values = read(watcher)
    assert of(values, "rewrap_key_version_blobs") == 8
    assert of(values, "rewrap_key_version_blobs", key=yard.world.wrapping.key, provider="env") > 0
    assert of(values, "rewrap_inventory_timestamp_seconds") > 1e9
    monkeypatch.setattr("ledger.findings.census", _unwanted)
    values = read(watcher)
    assert of(values, "rewrap_ledger_up") == 1
    assert of(values, "rewrap_key_version_blobs") == 8
    monkeypatch.undo()
    yard.world.plant("wrapped", "another")
    yard.world.write_sidecar("broken", b"{")
    yard.run(yard.start(Kind.INVENTORY, store=place))
    values = read(watcher)
    assert of(values, "rewrap_key_version_blobs") == 9
    assert of(values, "rewrap_unreadable_blobs", reason="sidecar_not_json") == 1


def _unwanted(*_: object) -> None:
    raise AssertionError("it reads all of an inventory")


def test_a_changed_entry_of_the_audit_chain_is_found_wherever_it_stands(
    yard: Yard, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)
    for name in ("a", "b", "c"):
        yard.world.plant("wrapped", name)
        yard.run(yard.start(Kind.MIGRATE))
    ((entries,),) = yard.desk.rows("SELECT count(*) FROM audit_segment")
    assert entries >= 3
    watch = ChainWatch(ledger)
    rounds = entries // 2 + 2
    assert watch.look() is None, "it was not gone through yet"
    for _ in range(rounds):
        seen = watch.look()
    assert seen == 0
    yard.desk.run("UPDATE audit_segment SET events = events + 1 WHERE place = 2")
    assert max(watch.look() or 0 for _ in range(rounds)) == 1
    assert min(watch.look() or 0 for _ in range(2 * rounds)) == 1, (
        "and it stays so, round after round"
    )


def test_what_was_read_last_is_shown_while_the_ledger_is_away(
    yard: Yard, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(4)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign, State.RUNNING)
    read(watcher)

    def away() -> None:
        raise LedgerUnavailableError("away")

    monkeypatch.setattr(watcher._ledger, "begin", away)
    values = read(watcher)
    assert of(values, "rewrap_ledger_up") == 0
    assert of(values, "rewrap_campaign_state", campaign=campaign) == 1
    monkeypatch.undo()
    assert of(read(watcher), "rewrap_ledger_up") == 1


def test_a_scrape_reads_nothing(yard: Yard, watcher: Watcher, ledger: Ledger) -> None:
    yard.plant(4)
    yard.run(yard.start(Kind.MIGRATE), State.RUNNING)
    read(watcher)
    ledger.close()
    watcher._ledger = None  # type: ignore[assignment]
    assert b"rewrap_campaign_state{" in generate_latest(watcher.registry)


def test_only_a_tick_that_comes_to_its_end_counts(watcher: Watcher) -> None:
    with pytest.raises(LedgerUnavailableError), watcher.tick():
        raise LedgerUnavailableError("away")
    assert of(read(watcher), "rewrap_scheduler_last_tick_timestamp_seconds") == 0
    with watcher.tick():
        pass
    assert of(read(watcher), "rewrap_scheduler_tick_seconds_count") == 1
    assert of(read(watcher), "rewrap_scheduler_last_tick_timestamp_seconds") > 1e9
