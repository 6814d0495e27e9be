import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.faulting import (
    BLOBS,
    Campaign,
    flush_redis,
    kill_a_worker,
    kill_only_the_pool_process_of_a_worker,
    kill_redis_and_wipe_it,
    kill_the_postmaster,
    kill_the_scheduler,
)
from tests.nodes import Node, decided, until
from tests.roads import Road


def shards(node: Node, campaign_id: int, where: str) -> list[Any]:
    """Return number, state, owner and attempt of a campaign's shards."""
    with node.ledger.begin() as connection:
        query = "SELECT shard_no, state, owner, attempt FROM shard WHERE campaign_id = %(id)s AND "
        return list(connection.exec_driver_sql(query + where, {"id": campaign_id}))


def owner_of(node: Node, worker: str) -> str:
    """Name the pool process of a worker as leases name it."""
    (child,) = node.process(worker).children()
    return f":{child.pid}"


@pytest.mark.parametrize(
    "faults",
    [
        (kill_only_the_pool_process_of_a_worker, kill_a_worker),
        (kill_the_scheduler, kill_the_postmaster),
        (flush_redis, kill_redis_and_wipe_it),
    ],
    ids=lambda faults: " and ".join(fault.__name__ for fault in faults).replace("_", " "),
)
def test_a_campaign_completes_by_itself_after_each_kill(
    faulty: Node, road: Road, faults: tuple[Callable[[Node], None], ...]
) -> None:
    campaign = Campaign(faulty, road, faults[0].__name__)
    with campaign.watch as watch:
        campaign.begin()
        for fault in faults:
            campaign.hit_by(fault)
        campaign.ends_well()
    assert watch.failures == []
    assert watch.reads > 100
    assert watch.fallbacks == 0


def test_a_reencryption_completes_by_itself_after_its_workers_are_killed(
    faulty: Node, road: Road
) -> None:
    campaign = Campaign(faulty, road, "anew", "reencrypt")
    with campaign.watch as watch:
        campaign.begin()
        campaign.hit_by(kill_a_worker)
        campaign.hit_by(kill_only_the_pool_process_of_a_worker)
        campaign.ends_well()
    assert watch.failures == []
    assert watch.reads > 100
    assert watch.fallbacks == 0
    reader = faulty.site.reader()
    keys = [reader.data_key(blob_id) for blob_id in campaign.blob_ids]
    reader.close()
    assert len(set(keys)) == BLOBS
    assert bytes.fromhex(faulty.site.environment["BLOB_KEY"]) not in keys


def test_after_killing_everything_the_next_up_completes_the_campaign_by_itself(
    faulty: Node, road: Road
) -> None:
    campaign = Campaign(faulty, road, "everything")
    with campaign.watch as watch:
        campaign.begin()
        faulty.kill_everything()
        faulty.start()
        document = until(lambda: faulty.document(campaign.id), "the ledger answers")
        assert 0 < decided(document) < BLOBS
        campaign.ends_well()
    assert watch.failures == []
    assert watch.reads > 100
    assert watch.fallbacks == 0


def test_a_worker_that_was_frozen_beyond_its_lease_does_no_harm_when_it_thaws(
    faulty: Node, road: Road
) -> None:
    campaign = Campaign(faulty, road, "frozen")
    with campaign.watch as watch:
        campaign.begin()
        family = faulty.family("worker-1")
        owner = owner_of(faulty, "worker-1")
        mine = until(lambda: having(faulty, campaign.id, owner), "worker-1 has a shard")
        for process in family:
            process.suspend()
        try:
            until(lambda: not having(faulty, campaign.id, owner), "its lease is taken back", 15)
            others = until(
                lambda: [n for n in mine if n in taken_again(faulty, campaign.id, owner)],
                "another worker has its shard",
                20,
            )
            assert others
        finally:
            for process in family:
                process.resume()
        campaign.ends_well()
    assert faulty.process("worker-1").pid == family[0].pid  # it lived through it
    assert "lost; its new owner goes on" in faulty.log("worker-1")
    assert watch.failures == []
    assert watch.fallbacks == 0


def having(node: Node, campaign_id: int, owner: str) -> list[int]:
    """Return the numbers of the shards that a worker has."""
    found = shards(node, campaign_id, "state = 'leased'")
    return [shard.shard_no for shard in found if shard.owner.endswith(owner)]


def taken_again(node: Node, campaign_id: int, owner: str) -> list[int]:
    """Return the shards that some other worker has, or has finished."""
    found = shards(node, campaign_id, "fence > 1 AND state IN ('leased', 'done')")
    return [s.shard_no for s in found if not (s.owner or "").endswith(owner)]


def test_a_worker_that_is_asked_to_end_hands_its_shard_back_at_once(
    faulty: Node, road: Road
) -> None:
    campaign = Campaign(faulty, road, "handed-back")
    with campaign.watch as watch:
        campaign.begin()
        owner = owner_of(faulty, "worker-1")
        mine = until(lambda: having(faulty, campaign.id, owner), "worker-1 has a shard")
        scheduler = faulty.process("scheduler")
        scheduler.suspend()  # nobody takes a lease back: whoever has it must give it back
        try:
            faulty.process("worker-1").send_signal(signal.SIGTERM)
            until(lambda: not having(faulty, campaign.id, owner), "handed back", 10)
            back = [s for s in shards(faulty, campaign.id, "true") if s.shard_no in mine]
            assert {(s.state, s.attempt, s.owner) for s in back} == {("waiting", 0, None)}
            assert 0 < decided(faulty.document(campaign.id)) < BLOBS
        finally:
            scheduler.resume()
        campaign.ends_well()
    assert watch.failures == []
    assert watch.fallbacks == 0
