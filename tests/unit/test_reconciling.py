import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scheduler.kmslogs import LogError, LoggedUse, Operation
from scheduler.ownuses import OwnUse, of_application, of_workers
from scheduler.reconciling import CANARY, TOLERANCE, Comparison, Span, compare

KEY = "hcvault://transit/k"
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
SPAN = Span(NOON, NOON + timedelta(hours=3))


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def logged(
    seconds: float, request: str = "", blob: str = "", count: int = 1, op: Operation = "unwrap"
) -> LoggedUse:
    return LoggedUse(at(seconds), op, KEY, count, request_id=request, blob_id=blob, who="ann")


def own(
    seconds: float,
    request: str = "",
    blob: str = "a",
    op: Operation = "unwrap",
    *,
    came_out: bool | None = True,
) -> OwnUse:
    return OwnUse(at(seconds), op, KEY, blob, request, came_out)


def compared(
    theirs: Sequence[LoggedUse], ours: Sequence[OwnUse], unclaimed: Sequence[OwnUse] = ()
) -> Comparison:
    return compare(theirs, ours, unclaimed, SPAN, 3600)


def unknown(result: Comparison) -> list[tuple[str, int]]:
    return [(use.request_id, use.count) for use in result.unknown]


def test_what_both_tell_is_clean() -> None:
    result = compared(
        [logged(1, "r1", count=2), logged(5, "r2", op="wrap")],
        [own(1.1, "r1", "a"), own(1.1, "r1", "b"), own(5.1, "r2", op="wrap")],
    )
    assert result.is_clean
    (line, other) = (result.lines[NOON, KEY, "unwrap"], result.lines[NOON, KEY, "wrap"])
    assert (line.ours, line.logged, line.unknown, line.unseen) == (2, 2, 0, 0)
    assert (other.ours, other.logged) == (1, 1)


def test_an_unwrap_that_nobody_of_ours_made_is_found_and_who_made_it() -> None:
    result = compared([logged(1, "r1"), logged(2, "r2")], [own(1, "r1")])
    (use,) = result.unknown
    assert (use.request_id, use.who, use.count) == ("r2", "ann", 1)
    assert result.lines[NOON, KEY, "unwrap"].unknown == 1


def test_a_use_of_ours_that_the_service_did_not_see_is_found() -> None:
    result = compared([logged(1, "r1")], [own(1, "r1"), own(900, "r2", "b")])
    assert [use.blob_id for use in result.unseen] == ["b"]
    assert result.lines[NOON, KEY, "unwrap"].unseen == 1


def test_more_in_a_request_than_we_noted_is_found_and_less_too() -> None:
    more = compared([logged(1, "r1", count=3)], [own(1, "r1")])
    assert unknown(more) == [("r1", 2)]
    fewer = compared([logged(1, "r1", count=1)], [own(1, "r1", "a"), own(1, "r1", "b")])
    assert [use.blob_id for use in fewer.unseen] == ["b"]


def test_one_witness_tells_no_other_operation_and_no_other_key() -> None:
    assert not compared([logged(1, "r1", op="rewrap")], [own(1, "r1")]).is_clean
    other = [replace(own(1, "r1"), key="hcvault://transit/other")]
    assert not compared([logged(1, "r1")], other).is_clean


def test_where_requests_have_no_names_time_and_blob_decide() -> None:
    near = TOLERANCE.total_seconds() - 1
    assert compared([logged(near, "r1")], [own(0)]).is_clean
    assert not compared([logged(near + 2, "r1")], [own(0)]).is_clean
    assert compared(
        [logged(1, "r1", "a"), logged(1, "r2", "b")], [own(1), own(1, blob="b")]
    ).is_clean
    swapped = compared([logged(1, "r1", "a")], [own(1, blob="b")])
    assert unknown(swapped) == [("r1", 1)]
    assert [use.blob_id for use in swapped.unseen] == ["b"]


def test_what_got_no_answer_explains_a_use_and_is_not_missed() -> None:
    lost = own(1, came_out=None)
    assert compared([logged(1, "r1")], [lost]).is_clean
    assert compared([], [lost]).is_clean
    assert not compared([logged(1, "r1"), logged(1, "r2")], [lost]).is_clean


def test_what_was_refused_explains_nothing_that_came_out() -> None:
    assert unknown(compared([logged(1, "r1")], [own(1, came_out=False)])) == [("r1", 1)]
    assert unknown(compared([logged(1, "r1")], [own(1, "r9", came_out=False)])) == [("r1", 1)]
    refused = compared([logged(1, "r1", count=0)], [own(1, "r1", came_out=False)])
    assert refused.is_clean
    assert refused.refused == 1


def test_a_batch_whose_answer_the_log_does_not_show_is_ours_or_suspect_as_a_whole() -> None:
    hidden = replace(logged(1, "r1", count=5), is_certain=False)
    assert compared([hidden], [own(1, "r1", came_out=False)]).is_clean
    assert compared([hidden], [own(1, "r1")]).is_clean
    assert unknown(compared([hidden], [])) == [("r1", 5)]


def test_an_entry_that_is_delivered_twice_counts_once() -> None:
    assert compared([logged(1, "r1"), logged(1, "r1")], [own(1, "r1")]).is_clean


def test_a_canary_is_no_blobs_and_counted_apart() -> None:
    result = compared([logged(1, "r1", CANARY)], [])
    assert result.is_clean
    assert result.canaries == 1


def test_what_lies_outside_of_the_log_is_not_missed_in_it() -> None:
    assert compared([], [own(-10, "r1"), own(4 * 3600, "r2")]).is_clean


def test_segments_that_the_ledger_does_not_know_explain_uses_but_are_counted_apart() -> None:
    result = compared([logged(1, "r1"), logged(2, "r2")], [own(1, "r1")], [own(2)])
    assert result.is_clean
    line = result.lines[NOON, KEY, "unwrap"]
    assert (line.unknown, line.unclaimed) == (0, 1)


def test_a_request_that_is_named_explains_no_other_request() -> None:
    result = compared([logged(1, "r1")], [own(1, "r2")])
    assert unknown(result) == [("r1", 1)]
    assert [use.request_id for use in result.unseen] == ["r2"]
    # Nor does it take the place of a use whose request nobody names.
    before = [own(-10, "r0", "b")]
    assert compared([logged(1, "r1")], [*before, own(1)]).is_clean


def test_each_window_has_a_line_of_its_own() -> None:
    times = [1, 3599, 3600, 7300]
    result = compared([logged(t, f"r{t}") for t in times], [own(t, f"r{t}") for t in times])
    assert {start.hour: line.logged for (start, _, _), line in result.lines.items()} == {
        12: 2,
        13: 1,
        14: 1,
    }


def test_of_random_histories_exactly_what_was_added_or_left_out_is_found() -> None:
    rng = random.Random(20261127)
    for _ in range(300):
        named = rng.random() < 0.5
        theirs, ours = [], []
        for number in range(rng.randint(1, 30)):
            request, blob = f"r{number}", f"b{rng.randint(0, 3)}"
            time, count = rng.uniform(0, 7000), rng.randint(1, 4) if named else 1
            theirs.append(logged(time, request, "" if named else blob, count))
            ours += [own(time + 0.1, request if named else "", blob)] * count
        strangers = [logged(rng.uniform(0, 7000), f"x{n}", "zz") for n in range(rng.randint(0, 3))]
        forgotten = [own(rng.uniform(0, 7000), "", f"yy{n}") for n in range(rng.randint(0, 3))]
        for uses in (theirs, ours):
            rng.shuffle(uses)
        result = compared([*theirs, *strangers], [*ours, *forgotten])
        found = Counter(use.request_id for use in result.unknown)
        expected = Counter(use.request_id for use in strangers)
        if named and strangers:  # a log that tells no blob: a forgotten use may explain a stranger
            assert sum(found.values()) >= len(strangers) - len(forgotten)
        else:
            assert found == expected
            assert len(result.unseen) == len(forgotten)


def event(**fields: Any) -> dict[str, Any]:
    return {"time": "2026-11-27T12:00:00.5Z", "outcome": "ok", "blob_id": "a"} | fields


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(e).encode() + b"\n" for e in events)


def test_a_workers_events_tell_its_uses() -> None:
    version = f"{KEY}?version=3"
    found = list(
        of_workers(
            lines(
                event(event="unwrap", key_id=version, request_id="r1"),
                event(event="prove", key_id=version),
                event(event="rewrap", key_id=version, outcome="failed", reason_code="wrap_refused"),
                event(
                    event="wrap", key_id=version, outcome="failed", reason_code="kms_unavailable"
                ),
                event(event="decided", outcome="rewrapped"),
            )
        )
    )
    assert [(use.operation, use.request_id, use.came_out) for use in found] == [
        ("unwrap", "r1", True),
        ("unwrap", "", True),
        ("rewrap", "", False),
        ("wrap", "", None),
    ]
    assert {(use.key, use.blob_id, use.time) for use in found} == {(KEY, "a", at(0.5))}


def test_an_applications_wrap_was_opened_too_and_what_it_had_in_its_cache_was_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "app.jsonl"
    version = f"{KEY}?version=3"
    file.write_bytes(
        lines(
            event(event="wrap", key_id=version),
            event(event="unwrap", key_id=version, cached=True),
            event(event="unwrap", key_id=version, cached=False),
            event(event="fallback", key_id=version),
            event(event="alert"),
        )
    )
    assert [use.operation for use in of_application(file)] == ["wrap", "unwrap", "unwrap"]


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON\n",
        b"{}\n",
        b'{"time":"noon","event":"wrap","key_id":"env:K"}\n',
        b'{"time":"2026-11-27T12:00:00Z","event":"wrap","key_id":"no key"}\n',
        b'{"time":"0001-01-01T00:00:00+10:00","event":"wrap","key_id":"hcvault://transit/k?version=3"}\n',
    ],
)
def test_what_is_no_event_is_an_error_that_says_so(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "app.jsonl"
    file.write_bytes(line)
    with pytest.raises(LogError):
        list(of_application(file))


@pytest.mark.parametrize(
    "time", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
def test_times_at_the_ends_of_the_calendar_are_compared_as_any(time: datetime) -> None:
    span = Span(time, time)
    assert span.is_near(time)
    use = replace(logged(0), time=time)
    month = 86_400 * 31
    assert compare([use], [replace(own(0), time=time)], [], span, month).is_clean
