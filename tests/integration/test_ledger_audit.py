"""The chain of the audit trail, in a real PostgreSQL."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keywrap.auditchain import ChainCheck, Entry, Head
from keywrap.segments import Segment, Source
from keywrap.trailcheck import check_trail
from ledger import audit
from ledger.connection import Ledger
from tests.desks import Desk, desk_of
from tests.trails import segment_of


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return desk_of(ledger)


def note(desk: Desk, folder: Path, count: int = 1, campaign: int = 7) -> list[Segment]:
    made = [segment_of(folder, Source(campaign, n, 1, "host:1"), [f"b{n}"]) for n in range(count)]
    for segment in made:
        with desk.ledger.begin() as connection:
            audit.note(connection, segment)
    return made


def chain(desk: Desk) -> int:
    with desk.ledger.begin() as connection:
        return audit.chain_new(connection)


def entries(desk: Desk) -> list[Entry]:
    return list(audit.entries(desk.ledger))


def head(desk: Desk) -> Head:
    with desk.ledger.begin() as connection:
        return audit.head(connection)


def test_segments_are_chained_in_the_order_they_were_noted(desk: Desk, tmp_path: Path) -> None:
    made = note(desk, tmp_path, 3)
    assert head(desk) == Head()
    with desk.ledger.begin() as connection:
        assert audit.unchained(connection) == made
    assert chain(desk) == 3
    assert chain(desk) == 0
    made += note(desk, tmp_path, 2)
    assert chain(desk) == 2
    found = entries(desk)
    assert [entry.segment for entry in found] == made
    assert [entry.place for entry in found] == [1, 2, 3, 4, 5]
    assert head(desk) == Head(5, found[-1].hash)
    assert list(check_trail(found, [tmp_path], None)) == []


def test_what_came_through_the_ledger_is_chained_to_the_microsecond(
    desk: Desk, tmp_path: Path
) -> None:
    (made,) = note(desk, tmp_path)
    chain(desk)
    (entry,) = entries(desk)
    assert entry.segment == made


def test_a_later_commit_of_an_earlier_row_goes_behind_what_is_chained(
    desk: Desk, tmp_path: Path
) -> None:
    slow = segment_of(tmp_path, Source(7, 1, 1, "slow:1"), ["a"])
    with desk.ledger.begin() as connection:
        audit.note(connection, slow)
        note(desk, tmp_path)
        assert chain(desk) == 1
    assert chain(desk) == 1
    assert entries(desk)[-1].segment == slow
    assert list(check_trail(entries(desk), [tmp_path], None)) == []


def test_many_who_chain_at_once_make_one_chain(desk: Desk, tmp_path: Path) -> None:
    note(desk, tmp_path, 40)
    with ThreadPoolExecutor(4) as threads:
        chained = list(threads.map(lambda _n: chain(desk), range(16)))
    while chain(desk):
        pass
    assert sum(chained) == 40
    assert list(check_trail(entries(desk), [tmp_path], None)) == []


def test_while_one_chains_no_other_does(desk: Desk, tmp_path: Path) -> None:
    note(desk, tmp_path, 3)
    with desk.ledger.begin() as connection:
        assert audit.chain_new(connection) == 3
        assert chain(desk) == 0
    assert [entry.place for entry in entries(desk)] == [1, 2, 3]


def test_more_than_a_tick_chains_is_left_to_the_next(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 3)
    note(desk, tmp_path, 7)
    assert [chain(desk) for _ in range(4)] == [3, 3, 1, 0]
    assert list(check_trail(entries(desk), [tmp_path], None)) == []


def test_a_chain_is_told_whether_it_goes_through_a_head(desk: Desk, tmp_path: Path) -> None:
    note(desk, tmp_path, 3)
    chain(desk)
    second = entries(desk)[1]
    with desk.ledger.begin() as connection:
        assert audit.goes_through(connection, Head())
        assert audit.goes_through(connection, Head(2, second.hash))
        assert not audit.goes_through(connection, Head(3, second.hash))
        assert not audit.goes_through(connection, Head(4, second.hash))


def test_one_campaigns_segments_are_found_among_others(desk: Desk, tmp_path: Path) -> None:
    note(desk, tmp_path, 2, campaign=7)
    other = note(desk, tmp_path, 2, campaign=8)
    chain(desk)
    assert [e.segment for e in audit.entries(desk.ledger, 8)] == other


def test_a_chain_longer_than_a_page_is_read_whole(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PAGE", 3)
    made = note(desk, tmp_path, 7)
    chain(desk)
    assert [e.segment for e in entries(desk)] == made


TAMPERINGS: list[tuple[str, str]] = [
    ("UPDATE audit_segment SET campaign_id = campaign_id + 1 WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET shard_no = shard_no + 1 WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET fence = fence + 1 WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET owner = 'x' WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET events = events + 1 WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET size = size + 1 WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET sha256 = sha256(sha256) WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET closed_at = now() WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET name = '7/0-1-0-00000000.jsonl' WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET hash = sha256(hash) WHERE place = :p", "row_changed"),
    ("UPDATE audit_segment SET previous = sha256(hash) WHERE place = :p", "row_changed"),
    ("DELETE FROM audit_segment WHERE place = :p", "row_missing"),
    (
        "UPDATE audit_segment SET place = NULL, hash = NULL, previous = NULL WHERE place = :p",
        "row_missing",
    ),
    ("DELETE FROM audit_segment WHERE place >= :p", "chain_cut"),
    ("UPDATE audit_segment SET place = 1000 WHERE place = :p", "row_missing"),
]


@pytest.mark.parametrize(("statement", "kind"), TAMPERINGS)
def test_whatever_sql_does_to_the_chain_is_found(
    desk: Desk, tmp_path: Path, statement: str, kind: str
) -> None:
    note(desk, tmp_path, 8)
    chain(desk)
    signed = head(desk)
    desk.run(statement, p=random.Random(statement).randint(2, 7))
    check = ChainCheck(signed)
    found = {fault.kind.value for entry in entries(desk) for fault in check.take(entry)}
    found |= {fault.kind.value for fault in check.end()}
    assert kind in found


def test_rows_that_change_places_are_found(desk: Desk, tmp_path: Path) -> None:
    note(desk, tmp_path, 5)
    chain(desk)
    for place, to in ((2, 99), (3, 2), (99, 3)):
        desk.run("UPDATE audit_segment SET place = :b WHERE place = :a", a=place, b=to)
    assert {f.kind.value for f in check_trail(entries(desk), [tmp_path], None)} == {"reordered"}
