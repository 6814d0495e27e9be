"""Plans in the ledger: what they open, and what they count."""

import pytest
from sqlalchemy.exc import IntegrityError

from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome
from ledger import exhaustion, findings, progress, samples, shards
from ledger.connection import Ledger
from ledger.findings import UNCUT, Finding
from ledger.states import FOLLOWING, Kind, ShardKind, State
from tests.desks import LEGACY, TARGET, Desk, desk_of


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return desk_of(ledger)


@pytest.fixture
def campaign(desk: Desk) -> int:
    campaign = desk.campaign()
    desk.force(campaign, State.RUNNING)
    return campaign


def _add(desk: Desk, campaign: int, *found: Finding) -> None:
    with desk.ledger.begin() as connection:
        findings.add(connection, campaign, UNCUT, found)


def _draw(desk: Desk, campaign: int) -> tuple[int, list[str]]:
    with desk.ledger.begin() as connection:
        drawn = samples.cut(connection, desk.get(campaign))
    return drawn, [b for (b,) in desk.rows("SELECT blob_id FROM sample")]


def test_an_open_plan_keeps_no_campaign_from_its_blobs(desk: Desk) -> None:
    desk.campaign(Kind.PLAN, plan_of=Kind.MIGRATE, target=TARGET, sample_size=1)
    desk.campaign(Kind.MIGRATE)


@pytest.mark.parametrize("kind", sorted(set(Kind) - set(FOLLOWING)))
def test_only_a_plan_says_what_it_plans_for(desk: Desk, kind: Kind) -> None:
    asked = {"plan_of": Kind.ROTATE if kind is not Kind.PLAN else None}
    with pytest.raises(IntegrityError, match="campaign_plan_check"):
        desk.campaign(kind, **asked)


@pytest.mark.parametrize("kind", Kind)
def test_only_a_seal_or_an_undo_follows_another_campaign(desk: Desk, kind: Kind) -> None:
    before = desk.campaign(Kind.MIGRATE)
    desk.force(before, State.COMPLETE)
    follows = None if kind in FOLLOWING else before
    with pytest.raises(IntegrityError, match=r"campaign_(follows|plan)_check"):
        desk.campaign(kind, follows=follows)


@pytest.mark.parametrize(
    ("plan_of", "moving"),
    [(Kind.MIGRATE, {"l0", "l1", "l2"}), (Kind.ROTATE, {"o0", "o1", "x0"})],
)
def test_a_plan_opens_only_what_the_campaign_would_move(
    desk: Desk, plan_of: Kind, moving: set[str]
) -> None:
    target = KeyVersion(TARGET.key, "2")
    plan = desk.campaign(Kind.PLAN, plan_of=plan_of, target=target, sample_size=100)
    _add(
        desk,
        plan,
        *(Finding(f"l{n}", LEGACY) for n in range(3)),
        *(Finding(f"o{n}", TARGET) for n in range(2)),
        Finding("x0", KeyVersion("hcvault://memory/other", "7")),
        Finding("at", target),
        Finding("beyond", KeyVersion(TARGET.key, "3")),
        Finding("broken", None, problem="sidecar_not_json"),
    )
    another = desk.campaign(Kind.INVENTORY)
    _add(desk, another, Finding("elsewhere", LEGACY), Finding("elsewhere-too", TARGET))
    count, blob_ids = _draw(desk, plan)
    assert (count, set(blob_ids)) == (3, moving)
    desk.force(plan, State.VERIFYING)
    assert desk.remaining(desk.claim(plan)) == sorted(moving)


@pytest.mark.parametrize(("asked", "drawn"), [(1, 1), (7, 7), (100, 20)])
def test_a_plan_opens_as_many_as_asked_at_random(desk: Desk, asked: int, drawn: int) -> None:
    plan = desk.campaign(Kind.PLAN, plan_of=Kind.MIGRATE, target=TARGET, sample_size=asked)
    _add(desk, plan, *(Finding(f"b{n}", LEGACY) for n in range(20)))
    assert _draw(desk, plan)[0] == drawn


def test_a_plans_outcomes_are_its_counts(desk: Desk) -> None:
    plan = desk.campaign(Kind.PLAN, plan_of=Kind.MIGRATE, target=TARGET, sample_size=3)
    desk.force(plan, State.VERIFYING)
    _add(desk, plan, *(Finding(f"b{n}", LEGACY) for n in range(5)))
    _, drawn = _draw(desk, plan)
    lease = desk.claim(plan)
    desk.run("UPDATE shard SET state = 'waiting'")
    desk.record(lease.shard_no, **{drawn[0]: Outcome.QUARANTINED, drawn[1]: Outcome.REWRAPPED})
    after = desk.progress(plan)
    assert (after.scanned, after.decided, after.pending, after.exceptions) == (3, 2, 1, 1)


def test_blobs_of_a_plan_whose_workers_die_again_and_again_are_failed(desk: Desk) -> None:
    plan = desk.campaign(Kind.PLAN, plan_of=Kind.MIGRATE, target=TARGET, sample_size=2)
    desk.force(plan, State.VERIFYING)
    _add(desk, plan, Finding("a", LEGACY), Finding("b", LEGACY))
    _draw(desk, plan)
    desk.run("UPDATE shard SET attempt = 3 WHERE kind = 'verify'")
    with desk.ledger.begin() as connection:
        assert exhaustion.give_up(connection, max_attempts=3) == []
    assert desk.progress(plan).counts[Outcome.FAILED] == 2


def test_the_time_of_a_scan_is_from_its_first_claim_to_its_last_end(
    desk: Desk, campaign: int
) -> None:
    with desk.ledger.begin() as connection:
        assert progress.scan_seconds(connection, campaign) == 0
        for _ in range(2):
            shards.add(connection, campaign, ShardKind.INVENTORY)
        shards.add(connection, campaign, ShardKind.REWRAP)
    desk.run("UPDATE shard SET started_at = now() - make_interval(secs => shard_no % 2)")
    desk.run("UPDATE shard SET started_at = now() - interval '1 hour' WHERE kind = 'rewrap'")
    desk.run("UPDATE shard SET finished_at = now() + interval '9 s'")
    with desk.ledger.begin() as connection:
        assert 9.5 < progress.scan_seconds(connection, campaign) < 10.5
