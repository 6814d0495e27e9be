"""Windows in the wall time of a place, over both changes of daylight saving."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keywrap.config import ConfigError
from workers.windows import Calendar, Window, WindowError, Windows, parse_instant, read_windows

BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(text: str, *blackouts: str) -> Calendar:
    return Windows(text, blackouts).calendar("")


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-11-27T20:59", False),  # a Friday, 21:59 in Berlin
        ("2026-11-27T21:00", True),
        ("2026-11-28T04:59", True),  # Friday's night goes on
        ("2026-11-28T05:00", False),
        ("2026-11-28T21:00", False),  # a Saturday
        ("2026-07-03T20:00", True),  # the same wall time in summer
        ("2026-07-03T19:59", False),
    ],
)
def test_a_window_is_in_wall_time_and_its_day_is_that_of_its_begin(at: str, is_open: bool) -> None:  # noqa: FBT001
    assert window("Mon-Fri 22:00-06:00 Europe/Berlin").is_open(utc(at)) is is_open


def test_in_spring_the_hour_that_is_left_out_is_missing_from_the_night() -> None:
    # 2026-03-29: 02:00 CET is 03:00 CEST.
    night = window("22:00-06:00 Europe/Berlin")
    assert night.open_seconds(utc("2026-03-28T12:00"), utc("2026-03-29T12:00")) == 7 * 3600
    gap = window("02:30-05:00 Europe/Berlin")  # 02:30 by the offset before: 03:30 CEST
    assert gap.opens_at(utc("2026-03-28T23:00")) == utc("2026-03-29T01:30")


def test_in_autumn_the_hour_that_comes_twice_is_the_first_one() -> None:
    # 2026-10-25: 03:00 CEST is 02:00 CET.
    night = window("22:00-06:00 Europe/Berlin")
    assert night.open_seconds(utc("2026-10-24T12:00"), utc("2026-10-25T12:00")) == 9 * 3600
    twice = window("02:15-02:45 Europe/Berlin")
    assert twice.stretches(utc("2026-10-24T20:00"), utc("2026-10-25T20:00")) == [
        (utc("2026-10-25T00:15"), utc("2026-10-25T00:45"))
    ]


def test_blackouts_are_cut_out_and_neighbours_are_one() -> None:
    calendar = window(
        "Sat,Sun 00:00-24:00; Mon-Fri 20:00-06:00 UTC", "2026-12-26T12:00/2026-12-26T18:00 UTC"
    )
    assert calendar.stretches(utc("2026-12-25T12:00"), utc("2026-12-28T12:00")) == [
        (utc("2026-12-25T20:00"), utc("2026-12-26T12:00")),
        (utc("2026-12-26T18:00"), utc("2026-12-28T00:00")),
    ]
    assert not calendar.is_open(utc("2026-12-26T12:00"))
    assert calendar.opens_at(utc("2026-12-26T13:00")) == utc("2026-12-26T18:00")
    assert calendar.after(utc("2026-12-26T11:00"), 2 * 3600) == utc("2026-12-26T19:00")


def test_without_a_window_only_blackouts_close() -> None:
    always = window("", "2026-12-24T00:00/2026-12-27T00:00 Europe/Berlin")
    assert always.is_open(utc("2026-12-23T22:59"))
    assert not always.is_open(utc("2026-12-23T23:00"))
    assert Calendar().opens_at(utc("2026-01-01T00:00")) == utc("2026-01-01T00:00")


def test_days_go_round_the_end_of_the_week() -> None:
    assert Window.parse("Sat-Mon 00:00-24:00 UTC").spans[0].days == {5, 6, 0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22:00-06:00",
        "22:00-06:00 Berlin/Europe",
        "22:00-06:00 ../../etc/passwd",
        "22:00-22:00 UTC",
        "24:00-06:00 UTC",
        "22:60-06:00 UTC",
        "22:00-25:00 UTC",
        "Foo 22:00-06:00 UTC",
        "Mon-Foo 22:00-06:00 UTC",
        "Mon, 22:00-06:00 UTC",
        "22:00-06:00;; UTC",
        "9:00-10:00 UTC",
        "22:00-06:00 " + "a" * 5000,
        "22:00-06:00 \0",
    ],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(WindowError):
        Window.parse(text)
    if text:
        with pytest.raises(ConfigError):
            read_windows({"default": text})


@pytest.mark.parametrize(
    "table",
    [
        {"blackouts": ["2026-12-24T00:00/2026-12-23T00:00 UTC"]},
        {"blackouts": ["2026-12-24T00:00 UTC"]},
        {"blackouts": ["2026-12-24T00:00/2026-12-25T00:00"]},
        {"blackouts": [7]},
        {"window": ""},
    ],
)
def test_what_is_no_table_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        read_windows(table)


def test_an_instant_has_a_zone_or_an_offset() -> None:
    assert parse_instant("2026-12-01T06:00 Europe/Berlin") == utc("2026-12-01T05:00")
    assert parse_instant("2026-12-01T06:00+02:00") == utc("2026-12-01T04:00")
    assert parse_instant("2026-12-01T06:00Z") == utc("2026-12-01T06:00")
    for text in ("2026-12-01T06:00", "soon", "2026-12-01T06:00Z UTC", "0001-01-01T00:00+14:00", ""):
        with pytest.raises(WindowError):
            parse_instant(text)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),  # noqa: DTZ001 - zoned below
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sets(st.integers(0, 6), min_size=1),
)
def test_when_it_opens_it_is_open_and_not_a_moment_before(
    at: datetime, start: int, length: int, days: set[int]
) -> None:
    end = (start + length) % 1440
    names = ",".join(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][day] for day in sorted(days))
    calendar = window(
        f"{names} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02} Europe/Berlin"
    )
    at = at.replace(tzinfo=UTC)
    opens = calendar.opens_at(at)
    assert opens is not None
    assert calendar.is_open(opens)
    if opens > at:
        assert not calendar.is_open(at)
        assert not calendar.is_open(opens - timedelta(microseconds=1))
    assert opens - at <= timedelta(days=8)
