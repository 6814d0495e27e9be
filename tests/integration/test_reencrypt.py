"""Re-encryption as campaigns: ledger, scheduler and worker, with a backup and a canary."""

from collections.abc import Callable

import pytest

from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Outcome
from ledger.connection import Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from tests.integration.test_safety import SafeYard
from tests.worlds import KINDS, crash
from tests.yards import Yard, only

STEPS = ("read", "open", "match", "wrap", "prove", "encrypt", "replace")


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> SafeYard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return SafeYard(ledger)


def assert_anew(yard: Yard) -> None:
    """See that every blob opens, and that each has a live content of its own and no old wrap."""
    yard.assert_moved()
    world = yard.world
    live = set()
    for blob_id in world.originals:
        sidecar = world.reader.read(blob_id).sidecar
        assert sidecar.previous is None
        assert sidecar.content == "stream-v1"
        live.add(world.layout.content_name(blob_id, sidecar.object))
    assert len(live) == len(world.originals)
    assert live <= world.snapshot().keys()


def before_the_fresh_scan(yard: Yard, act: Callable[[], object]) -> None:
    left = [act]

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.STRAGGLERS and left:
            left.pop()()
        yard.work(offer)

    yard.broker = broker


def test_a_campaign_backs_up_tries_a_canary_and_gives_every_blob_a_new_data_key(
    yard: SafeYard,
) -> None:
    yard.plant(20, KINDS)
    campaign = yard.start(Kind.REENCRYPT)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 20)
    order = list(dict.fromkeys(offer.kind for offer in yard.sent))
    assert order == [
        ShardKind.INVENTORY,
        ShardKind.BACKUP,
        ShardKind.MANIFEST,
        ShardKind.VERIFY,
        ShardKind.REWRAP,
        ShardKind.STRAGGLERS,
    ]
    assert_anew(yard)


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_loses_nothing_and_the_next_one_ends_it(
    yard: SafeYard, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    yard.plant(10, KINDS)
    left, take = [True], getattr(Reencrypter, step)

    def dying(engine: Reencrypter, *given: object) -> None:
        take(engine, *given)
        if left.pop() if left and yard.desk.get(campaign).state is State.RUNNING else False:
            assert yard.world.wrong() == []
            crash()

    dying.__name__ = step
    campaign = yard.start(Kind.REENCRYPT)
    yard.run(campaign, State.RUNNING)
    monkeypatch.setattr(Reencrypter, step, dying)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert not left
    counts = yard.counts(campaign)
    assert sum(counts.values()) == 10
    # What was written before the death is known by its mark, and not written again.
    assert counts.keys() <= {Outcome.REWRAPPED, Outcome.CURRENT}
    assert (Outcome.CURRENT in counts) == (step == "replace")
    assert_anew(yard)


def test_an_application_that_goes_on_writing_makes_no_stragglers(yard: SafeYard) -> None:
    ids = yard.plant(8, KINDS)
    campaign = yard.start(Kind.REENCRYPT)

    def write() -> None:
        yard.world.put(ids[0], b"newer")
        yard.world.put("another", b"new")

    before_the_fresh_scan(yard, write)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 8)
    assert yard.world.wrong() == []


def test_a_writer_without_sidecars_is_found_by_the_fresh_scan(yard: SafeYard) -> None:
    yard.plant(8, KINDS)
    campaign = yard.start(Kind.REENCRYPT)
    before_the_fresh_scan(yard, lambda: yard.world.plant("bare", "late"))
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 9)
    assert_anew(yard)


def test_a_swapped_sidecar_is_an_exception_of_the_campaign(ledger: Ledger) -> None:
    yard = Yard(ledger)
    for blob_id in ("a", "b"):
        yard.world.plant("wrapped", blob_id)
    yard.world.plant("direct", "c")
    a, b = yard.world.raw("a"), yard.world.raw("b")
    yard.world.write_sidecar("a", b)
    yard.world.write_sidecar("b", a)
    campaign = yard.start(Kind.REENCRYPT)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(campaign) == {"quarantined": 2, "rewrapped": 1}
    assert (yard.world.raw("a"), yard.world.raw("b")) == (b, a)


def test_a_second_campaign_gives_new_data_keys_again(yard: SafeYard) -> None:
    yard.plant(5, KINDS)
    for _ in range(2):
        campaign = yard.start(Kind.REENCRYPT)
        assert yard.run(campaign).state is State.COMPLETE
        assert yard.counts(campaign) == only(Outcome.REWRAPPED, 5)
    assert_anew(yard)


def test_a_large_content_does_not_let_the_lease_lapse(yard: SafeYard) -> None:
    moved: list[bool] = []
    yard.plant(1, ("managed",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.leases.Work.moved", lambda _work: moved.append(True))
        yard.run(yard.start(Kind.REENCRYPT))
    assert moved
