"""The inventory, stragglers, samples and progress on a real PostgreSQL."""

from collections import Counter

import pytest

from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome, Prove
from ledger import findings, progress, samples, shards
from ledger.connection import Ledger
from ledger.findings import UNCUT, CensusLine, Finding
from ledger.progress import Decided
from ledger.states import Kind, ShardKind, ShardState, State
from tests.desks import LEGACY, TARGET, Desk, desk_of

NEWER = KeyVersion(TARGET.key, "2")


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


def _stragglers(desk: Desk, campaign: int, *blob_ids: str, last_pass: bool = False) -> int:
    with desk.ledger.begin() as connection:
        found = [Finding(b, LEGACY) for b in blob_ids]
        return len(findings.note_stragglers(connection, campaign, found, last_pass=last_pass))


def _outcomes(desk: Desk) -> dict[str, tuple[str, str | None]]:
    rows = desk.rows("SELECT blob_id, outcome, reason_code FROM outcome")
    return {b: (o, code) for b, o, code in rows}


def _balanced(desk: Desk, campaign: int) -> None:
    """See that each shard's counters are what its rows say."""
    rows = desk.rows(
        "SELECT shard_no, outcome, count(*) FROM outcome WHERE campaign_id = :c GROUP BY 1, 2",
        c=campaign,
    )
    counted = {(no, o): n for no, o, n in rows}
    for row in desk.rows(
        f"SELECT shard_no, total, {', '.join(Outcome)} FROM shard"  # noqa: S608 - constants
        " WHERE kind = 'rewrap'"
    ):
        by_outcome = dict(zip(Outcome, row[2:], strict=True))
        assert by_outcome == {o: counted.get((row[0], o), 0) for o in Outcome}
        listed = desk.rows("SELECT count(*) FROM inventory WHERE shard_no = :no", no=row[0])
        assert listed == [(row[1],)]


def test_the_census_counts_keys_problems_and_what_previous_needs(desk: Desk, campaign: int) -> None:
    _add(
        desk,
        campaign,
        Finding("a", LEGACY),
        Finding("b", LEGACY),
        Finding("c", TARGET, previous=LEGACY),
        Finding("d", NEWER, previous=TARGET),
        Finding("e", None, problem="sidecar_not_json"),
    )
    with desk.ledger.begin() as connection:
        census = findings.census(connection, campaign)
        assert findings.census(connection, campaign + 1) == []
    assert census == [
        CensusLine("env", "env:BLOB_KEY", "", "", 2, 1),
        CensusLine("", "", "", "sidecar_not_json", 1, 0),
        CensusLine("vault", TARGET.key, "1", "", 1, 1),
        CensusLine("vault", TARGET.key, "2", "", 1, 0),
    ]


def test_the_census_counts_the_lengths_of_wraps_that_were_recorded(
    desk: Desk, campaign: int
) -> None:
    other = KeyVersion("env:OTHER")
    _add(
        desk,
        campaign,
        *(Finding(f"a{n}", LEGACY, wrap_bytes=60) for n in range(3)),
        Finding("b", LEGACY, wrap_bytes=40, previous=other),
        Finding("c", TARGET, previous=LEGACY),
        Finding("d", other, wrap_bytes=0),
    )
    with desk.ledger.begin() as connection:
        census = {line.key: line for line in findings.census(connection, campaign)}
    assert len(census) == 3, "one line for a key, however many lengths it has"
    assert census[LEGACY.key].wrap_bytes == {40: 1, 60: 3}
    assert (census[LEGACY.key].blobs, census[LEGACY.key].previous) == (4, 1)
    assert census[TARGET.key].wrap_bytes == {}
    assert census["env:OTHER"].wrap_bytes == {0: 1}


def test_the_listing_is_what_was_found_in_the_order_of_bytes(desk: Desk, campaign: int) -> None:
    found = [
        Finding("B", TARGET, previous=LEGACY),
        Finding("a'%s", LEGACY, wrap_bytes=6144),
        Finding("b", None, problem="sidecar_empty"),
        Finding("é", NEWER),
    ]
    _add(desk, campaign, *reversed(found))
    with desk.ledger.begin() as connection:
        assert list(findings.listing(connection, campaign)) == found


def test_nothing_found_is_nothing_added(desk: Desk, campaign: int) -> None:
    _add(desk, campaign)
    with desk.ledger.begin() as connection:
        assert list(findings.listing(connection, campaign)) == []


def test_each_key_version_is_one_row(desk: Desk, campaign: int) -> None:
    _add(desk, campaign, Finding("a", TARGET, LEGACY), Finding("b", TARGET))
    _add(desk, campaign, Finding("c", NEWER, TARGET))
    rows = desk.rows("SELECT provider, key, version FROM key_version")
    assert sorted(rows) == [
        ("env", "env:BLOB_KEY", ""),
        ("vault", TARGET.key, "1"),
        ("vault", TARGET.key, "2"),
    ]


def test_scans_that_meet_new_keys_at_once_do_not_wait_for_each_other(
    desk: Desk, campaign: int
) -> None:
    # Each transaction lasts as long as its scan. Waiting would make the scans go one by one and,
    # as here, where each meets what the other has, never end.
    with desk.ledger.begin() as one, desk.ledger.begin() as other:
        for connection in (one, other):
            connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        findings.add(one, campaign, UNCUT, [Finding("a", TARGET)])
        findings.add(other, campaign, UNCUT, [Finding("b", NEWER)])
        findings.add(other, campaign, UNCUT, [Finding("c", TARGET)])
        findings.add(one, campaign, UNCUT, [Finding("d", NEWER)])
    assert desk.rows("SELECT count(*), count(key_version_id) FROM inventory") == [(4, 4)]


def test_a_straggler_that_was_never_seen_gets_a_shard(desk: Desk, campaign: int) -> None:
    desk.record(desk.shard(campaign, blob_ids=["old"]), old=Outcome.REWRAPPED)
    assert _stragglers(desk, campaign, "new", "newer") == 2
    _balanced(desk, campaign)
    assert desk.progress(campaign).pending == 2
    assert desk.remaining(desk.claim(campaign)) == ["new", "newer"]


@pytest.mark.parametrize(
    "outcome", [Outcome.REWRAPPED, Outcome.CURRENT, Outcome.EXCLUDED, Outcome.GONE]
)
def test_a_straggler_that_had_its_outcome_is_pending_again_in_its_shard(
    desk: Desk, campaign: int, outcome: Outcome
) -> None:
    number = desk.shard(campaign, blob_ids=["a", "b"])
    desk.record(number, a=outcome, b=Outcome.REWRAPPED)
    assert _stragglers(desk, campaign, "a") == 1
    _balanced(desk, campaign)
    assert _outcomes(desk) == {"b": ("rewrapped", "rewrapped")}
    lease = desk.claim(campaign)
    assert (lease.shard_no, desk.remaining(lease)) == (number, ["a"])


@pytest.mark.parametrize("last_pass", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT])
def test_an_exception_stays_one(
    desk: Desk, campaign: int, outcome: Outcome, *, last_pass: bool
) -> None:
    number = desk.shard(campaign, blob_ids=["a"])
    desk.record(number, a=outcome)
    assert _stragglers(desk, campaign, "a", last_pass=last_pass) == 0
    _balanced(desk, campaign)
    assert _outcomes(desk) == {"a": (outcome, outcome)}
    assert desk.progress(campaign).count(ShardKind.REWRAP, ShardState.DONE) == 1


def test_a_straggler_that_is_pending_anyway_is_not_taken_twice(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=["a"])
    assert _stragglers(desk, campaign, "a") == 0
    assert _stragglers(desk, campaign, "new") == 1
    assert _stragglers(desk, campaign, "new") == 0
    _balanced(desk, campaign)


def test_on_the_last_pass_stragglers_are_conflicts(desk: Desk, campaign: int) -> None:
    desk.record(desk.shard(campaign, blob_ids=["a", "b"]), a=Outcome.REWRAPPED, b=Outcome.CURRENT)
    assert _stragglers(desk, campaign, "a", "new", last_pass=True) == 2
    _balanced(desk, campaign)
    conflict = ("conflict", "writer_brings_it_back")
    assert _outcomes(desk) == {"a": conflict, "b": ("current", "current"), "new": conflict}
    after = desk.progress(campaign)
    assert (after.pending, after.exceptions) == (0, 2)
    assert after.count(ShardKind.REWRAP) == after.count(ShardKind.REWRAP, ShardState.DONE) == 2


def test_no_stragglers_on_the_last_pass_change_nothing(desk: Desk, campaign: int) -> None:
    desk.record(desk.shard(campaign, blob_ids=["a"]), a=Outcome.REWRAPPED)
    before = desk.rows("SELECT * FROM shard")
    assert _stragglers(desk, campaign, last_pass=True) == 0
    assert desk.rows("SELECT * FROM shard") == before


def test_the_counts_balance_through_many_passes(desk: Desk, campaign: int) -> None:
    ids = [f"b{n}" for n in range(6)]
    number = desk.shard(campaign, blob_ids=ids)
    desk.record(number, **dict(zip(ids, [*Outcome], strict=False)))
    for turn in range(4):
        _stragglers(desk, campaign, "b0", "b1", "b2", f"new{turn}", last_pass=turn == 3)
        _balanced(desk, campaign)
        while desk.rows("SELECT 1 FROM shard WHERE state = 'waiting'"):
            lease = desk.claim(campaign)
            left = desk.remaining(lease)
            desk.run("UPDATE shard SET state = 'waiting' WHERE state <> 'done'")
            desk.record(lease.shard_no, **dict.fromkeys(left, Outcome.REWRAPPED))
            _balanced(desk, campaign)
    after = desk.progress(campaign)
    assert after.pending == 0
    assert after.counts[Outcome.CONFLICT] == 5  # b0, b1, b2 and new3, and b3 from before


def _draw(desk: Desk, campaign: int) -> tuple[int, list[str]]:
    with desk.ledger.begin() as connection:
        drawn = samples.cut(connection, desk.get(campaign))
    return drawn, [b for (b,) in desk.rows("SELECT blob_id FROM sample")]


def _many(desk: Desk, campaign: int, count: int, outcome: str = "rewrapped") -> None:
    number = desk.shard(campaign)
    desk.run(
        "INSERT INTO inventory (campaign_id, blob_id, shard_no)"
        " SELECT :c, 'b' || n, :no FROM generate_series(1, :n) n",
        c=campaign,
        no=number,
        n=count,
    )
    desk.run(
        "INSERT INTO outcome (campaign_id, blob_id, shard_no, outcome)"
        " SELECT campaign_id, blob_id, shard_no, :o FROM inventory",
        o=outcome,
    )
    counted = f"UPDATE shard SET total = :n, {outcome} = :n WHERE shard_no = :no"  # noqa: S608
    desk.run(counted, n=count, no=number)


@pytest.mark.parametrize(
    ("rewrapped", "fraction", "drawn"),
    [(0, 0.5, 0), (10, 0.01, 10), (600, 0.01, 500), (2000, 0.5, 1000), (1100, 1.0, 1100)],
)
def test_a_sample_is_the_fraction_asked_for_and_never_under_500_if_there_are_as_many(
    desk: Desk, rewrapped: int, fraction: float, drawn: int
) -> None:
    campaign = desk.campaign(prove=Prove.SAMPLE, sample=fraction)
    _many(desk, campaign, rewrapped)
    count, blob_ids = _draw(desk, campaign)
    assert count == drawn == len(blob_ids) == len(set(blob_ids))
    totals = desk.rows("SELECT total FROM shard WHERE kind = 'verify'")
    assert sum(t for (t,) in totals) == drawn
    assert all(0 < t <= samples.SHARD_BLOBS for (t,) in totals)


def test_a_sample_is_drawn_from_what_was_rewrapped_alone(desk: Desk) -> None:
    campaign = desk.campaign(prove=Prove.SAMPLE, sample=1.0)
    _many(desk, campaign, 20, outcome="quarantined")
    assert _draw(desk, campaign) == (0, [])


def test_two_samples_are_not_the_same(desk: Desk) -> None:
    campaign = desk.campaign(prove=Prove.SAMPLE, sample=0.0)
    _many(desk, campaign, 2000)
    _, first = _draw(desk, campaign)
    desk.run("DELETE FROM sample")
    _, second = _draw(desk, campaign)
    assert len(first) == len(second) == 500
    assert set(first) != set(second)


@pytest.mark.parametrize(("asked", "drawn"), [(1, 1), (15, 15), (100, 20)])
def test_a_verify_campaign_opens_as_many_as_asked(desk: Desk, asked: int, drawn: int) -> None:
    campaign = desk.campaign(Kind.VERIFY, sample_size=asked)
    _add(desk, campaign, *(Finding(f"b{n}", TARGET) for n in range(20)))
    count, blob_ids = _draw(desk, campaign)
    assert count == drawn == len(set(blob_ids))
    desk.force(campaign, State.VERIFYING)
    lease = desk.claim(campaign)
    assert lease.kind is ShardKind.VERIFY
    assert desk.remaining(lease) == sorted(blob_ids)


def test_the_proof_sample_of_a_moving_campaign_is_opened_although_it_has_its_outcomes(
    desk: Desk,
) -> None:
    campaign = desk.campaign(prove=Prove.SAMPLE, sample=1.0)
    desk.force(campaign, State.VERIFYING)
    _many(desk, campaign, 5)
    desk.run("UPDATE shard SET state = 'done'")
    _draw(desk, campaign)
    lease = desk.claim(campaign)
    assert len(desk.remaining(lease)) == 5
    with desk.ledger.begin() as connection:
        shards.count(connection, lease, {"current": 5})
        shards.finish(connection, lease)
    after = desk.progress(campaign)
    assert (after.verified, after.decided, after.pending) == (5, 5, 0)


def test_blobs_tells_what_happened_to_each(desk: Desk, campaign: int) -> None:
    desk.record(
        desk.shard(campaign, blob_ids=["b", "a'", "c"]),
        **{"b": Outcome.REWRAPPED, "a'": Outcome.QUARANTINED},
    )
    key = str(LEGACY)
    quarantined = Decided("a'", "quarantined", "quarantined", "it is quarantined", key)
    with desk.ledger.begin() as connection:
        assert list(progress.blobs(connection, campaign)) == [
            quarantined,
            Decided("b", "rewrapped", "rewrapped", "it is rewrapped", key),
            Decided("c", "pending", "", "", key),
        ]
        only = list(progress.blobs(connection, campaign, Outcome.QUARANTINED))
        assert progress.failures(connection, campaign) == {("quarantined", "quarantined"): 1}
    assert only == [quarantined]


def test_blobs_are_streamed_whole_however_many(desk: Desk, campaign: int) -> None:
    _many(desk, campaign, 4500)
    with desk.ledger.begin() as connection:
        told = Counter(d.outcome for d in progress.blobs(connection, campaign))
    assert told == {"rewrapped": 4500}


def test_progress_counts_only_the_work_of_the_campaigns_kind(desk: Desk, campaign: int) -> None:
    with desk.ledger.begin() as connection:
        shards.add(connection, campaign, ShardKind.INVENTORY, total=100)
        shards.add(connection, campaign, ShardKind.STRAGGLERS, total=100)
    desk.shard(campaign, blob_ids=["a", "b"])
    at_first = desk.progress(campaign)
    assert (at_first.scanned, at_first.decided, at_first.pending) == (2, 0, 2)
    assert at_first.rate_per_s is None
    assert at_first.count(ShardKind.INVENTORY, ShardState.WAITING) == 1
    assert at_first.count(ShardKind.INVENTORY, ShardState.DONE) == 0


def test_a_heartbeat_is_by_the_clock_of_the_database(desk: Desk) -> None:
    with desk.ledger.begin() as connection:
        assert progress.last_beat(connection) is None
        progress.beat(connection)
        first = progress.last_beat(connection)
        progress.beat(connection)
        second = progress.last_beat(connection)
        now = progress.now(connection)
    assert first is not None
    assert second is not None
    assert first < second <= now
