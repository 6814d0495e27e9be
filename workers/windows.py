"""When campaigns may run: off-peak windows and blackouts, in the wall time of a place.

A window is written as `[DAYS ]HH:MM-HH:MM[; …] ZONE`, such as `Mon-Fri 22:00-06:00; Sat,Sun
00:00-24:00 Europe/Berlin`; days are of its begin, and an end that is not after the begin is on the
next day. A blackout is `BEGIN/END ZONE`, such as `2026-12-24T00:00/2026-12-27T00:00
Europe/Berlin`. Zones are of the IANA time zone database. As RFC 5545 (section 3.3.5) has it: a wall
time that daylight saving leaves out counts by the offset before the gap, and one that it repeats is
the first.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from keywrap.config import ConfigError

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SPAN = re.compile(r"(?:([A-Za-z,-]+) +)?(\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY = timedelta(days=1)
_MINUTES = 24 * 60
_HORIZON = timedelta(days=400)
"""No further is looked ahead: whoever waits longer waits for nothing."""

Stretch = tuple[datetime, datetime]
"""From one instant to another, both in UTC; the second is not in it."""


class WindowError(ValueError):
    """Something is no window or blackout; the message says what."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of wall time of certain days: minutes after the midnight that its day begins at."""

    days: frozenset[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """A weekly window."""

    spans: tuple[_Span, ...]
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read a window.

        Raises:
            WindowError: it is none.
        """
        spans, _, zone = text.strip().rpartition(" ")
        if not spans:
            raise WindowError(f"{text!r} is no window: expected '22:00-06:00 Europe/Berlin'")
        found = tuple(_span(one.strip()) for one in spans.split(";"))
        return cls(found, zone_of(zone))

    def stretches(self, since: datetime, until: datetime) -> Iterator[Stretch]:
        """Yield when it is open, by begin; those of one day may overlap with the next."""
        day = since.astimezone(self.zone).date() - 2 * _DAY
        last = until.astimezone(self.zone).date() + _DAY
        while day <= last:
            spans = (span for span in self.spans if day.weekday() in span.days)
            yield from sorted(
                (_instant(day, span.start, self.zone), _instant(day, span.end, self.zone))
                for span in spans
            )
            day += _DAY


@dataclass(frozen=True, slots=True)
class Calendar:
    """When something may run.

    Attributes:
        window: the window; None for any time.
        blackouts: when nothing runs, whatever the window.
    """

    window: Window | None = None
    blackouts: tuple[Stretch, ...] = ()

    def stretches(self, since: datetime, until: datetime) -> list[Stretch]:
        """Return when it may run between two instants, in order and apart."""
        whole = self.window.stretches(since, until) if self.window else [(since, until)]
        free: list[Stretch] = []
        for start, end in _merged(whole):
            left = [(max(start, since), min(end, until))]
            for black in self.blackouts:
                left = [part for stretch in left for part in _without(stretch, black)]
            free += [(s, e) for s, e in left if s < e]
        return free

    def is_open(self, at: datetime) -> bool:
        """Whether it may run at an instant."""
        return bool(self.stretches(at, at + timedelta(microseconds=1)))

    def opens_at(self, at: datetime) -> datetime | None:
        """Return when it may run next, `at` itself where it may now; None: not within 400 days."""
        return next((start for start, _ in self.stretches(at, at + _HORIZON)), None)

    def open_seconds(self, since: datetime, until: datetime) -> float:
        """Return for how long it may run between two instants, in seconds."""
        return sum((e - s).total_seconds() for s, e in self.stretches(since, until))

    def after(self, since: datetime, seconds: float) -> datetime | None:
        """Return when it has run for so many seconds; None: not within 400 days."""
        for start, end in self.stretches(since, since + _HORIZON):
            length = (end - start).total_seconds()
            if seconds <= length:
                return start + timedelta(seconds=seconds)
            seconds -= length
        return None


ALWAYS = Calendar()


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When campaigns may run. No environment variable changes these.

    Attributes:
        default: the window of campaigns that were started without one; empty: any time.
        blackouts: when none runs that is not urgent.
    """

    default: str = ""
    blackouts: tuple[str, ...] = ()

    def calendar(self, window: str) -> Calendar:
        """Return when a campaign with a window of its own may run; empty: the default one.

        Raises:
            WindowError: it is no window.
        """
        return _calendar(window or self.default, self.blackouts)


def read_windows(value: object) -> Windows:
    """Read and check the table `[windows]`.

    Raises:
        ConfigError: something is unknown, or no window.
    """
    try:
        table = msgspec.convert(value, Windows)
        table.calendar("")
    except (msgspec.ValidationError, WindowError) as error:
        raise ConfigError("[windows]", str(error)) from None
    return table


@lru_cache(maxsize=256)
def _calendar(window: str, blackouts: tuple[str, ...]) -> Calendar:
    return Calendar(
        Window.parse(window) if window else None, tuple(_blackout(one) for one in blackouts)
    )


def parse_instant(text: str) -> datetime:
    """Read an instant: `2026-12-01T06:00 Europe/Berlin`, or with an offset as in RFC 3339.

    Returns:
        The instant in UTC.

    Raises:
        WindowError: it is none, or says neither zone nor offset.
    """
    moment, _, zone = text.strip().partition(" ")
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        raise WindowError(f"{text!r} is no date and time: expected 2026-12-01T06:00") from None
    if zone and at.tzinfo:
        raise WindowError(f"{text!r} has both an offset and a zone")
    if not zone and at.tzinfo is None:
        raise WindowError(f"{text!r} says no zone: expected '{moment} Europe/Berlin', or an offset")
    try:
        return (at.replace(tzinfo=zone_of(zone)) if zone else at).astimezone(UTC)
    except OverflowError:
        raise WindowError(f"{text!r} is out of range") from None


def _blackout(text: str) -> Stretch:
    stretch, _, zone = text.strip().partition(" ")
    begin, _, end = stretch.partition("/")
    start, stop = parse_instant(f"{begin} {zone}"), parse_instant(f"{end} {zone}")
    if stop <= start:
        raise WindowError(f"{text!r} ends before it begins")
    return start, stop


def _span(text: str) -> _Span:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise WindowError(f"{text!r} is no part of a window: expected '[Mon-Fri ]22:00-06:00'")
    hours = [int(part) for part in match.groups()[1:]]
    start, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if hours[1] > 59 or hours[3] > 59 or start >= _MINUTES or end > _MINUTES:  # noqa: PLR2004
        raise WindowError(f"{text!r}: there is no such time of day")
    if start == end:
        raise WindowError(f"{text!r} is empty; a whole day is 00:00-24:00")
    return _Span(_days(match[1]), start, end if end > start else end + _MINUTES)


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise WindowError(f"{part!r} is no day: expected {', '.join(_DAYS)}")
        one, other = _DAYS.index(first), _DAYS.index(last or first)
        found.update(day % 7 for day in range(one, other + 1 + 7 * (other < one)))
    return frozenset(found)


def zone_of(name: str) -> ZoneInfo:
    """Return a zone of the IANA time zone database.

    Raises:
        WindowError: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise WindowError(f"{name!r} is no zone of the IANA time zone database") from None


def _instant(day: date, minutes: int, zone: ZoneInfo) -> datetime:
    midnight = datetime.combine(day, time())
    return (midnight + timedelta(minutes=minutes)).replace(tzinfo=zone).astimezone(UTC)


def _merged(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    held: Stretch | None = None
    for start, end in stretches:
        if held is None:
            held = start, end
        elif start <= held[1]:
            held = held[0], max(held[1], end)
        else:
            yield held
            held = start, end
    if held is not None:
        yield held


def _without(stretch: Stretch, black: Stretch) -> list[Stretch]:
    (start, end), (begin, stop) = stretch, black
    parts = [(start, min(end, begin)), (max(start, stop), end)]
    return [(s, e) for s, e in parts if s < e]
