"""Whatever is done to a trail by somebody without the key that signs its head is found."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from keywrap.auditchain import Entry
from keywrap.segments import Segment
from tests.trails import Trail

SEGMENTS = 10
ROUNDS = 10_000

Tamper = Callable[[Trail, random.Random], None]


def _file(trail: Trail, rng: random.Random) -> Path:
    return trail.path(rng.choice(trail.entries))


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # a closed segment is read-only
    path.write_bytes(data)


def edit_a_byte(trail: Trail, rng: random.Random) -> None:
    path = _file(trail, rng)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= rng.randint(1, 255)
    _write(path, bytes(data))


def add_a_line(trail: Trail, rng: random.Random) -> None:
    path = _file(trail, rng)
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    _write(path, b"".join(lines))


def remove_a_line(trail: Trail, rng: random.Random) -> None:
    path = _file(trail, rng)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    _write(path, b"".join(lines))


def swap_lines(trail: Trail, rng: random.Random) -> None:
    long = [e for e in trail.entries if e.segment.events > 1]
    path = trail.path(rng.choice(long))
    lines = path.read_bytes().splitlines(keepends=True)
    one, other = rng.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    _write(path, b"".join(lines))


def cut_a_file(trail: Trail, rng: random.Random) -> None:
    path = _file(trail, rng)
    _write(path, path.read_bytes()[: rng.randrange(path.stat().st_size)])


def remove_a_file(trail: Trail, rng: random.Random) -> None:
    _file(trail, rng).unlink()


def swap_files(trail: Trail, rng: random.Random) -> None:
    one, other = (trail.path(entry) for entry in rng.sample(trail.entries, 2))
    first, second = one.read_bytes(), other.read_bytes()
    _write(one, second)
    _write(other, first)


def _changed(segment: Segment, rng: random.Random) -> Segment:
    source = segment.source
    return rng.choice(
        [
            replace(segment, events=segment.events + rng.randint(1, 9)),
            replace(segment, size=segment.size + rng.choice([-1, 1])),
            replace(segment, sha256=rng.randbytes(32)),
            replace(segment, closed_at=segment.closed_at + timedelta(microseconds=1)),
            replace(segment, name=segment.name.replace("7/", "8/", 1)),
            replace(segment, source=replace(source, campaign_id=8)),
            replace(segment, source=replace(source, shard_no=source.shard_no + 1)),
            replace(segment, source=replace(source, fence=source.fence + 1)),
            replace(segment, source=replace(source, owner="another:1")),
        ]
    )


def edit_a_row(trail: Trail, rng: random.Random) -> None:
    place = rng.randrange(SEGMENTS)
    entry = trail.entries[place]
    trail.entries[place] = rng.choice(
        [
            replace(entry, segment=_changed(entry.segment, rng)),
            replace(entry, previous=rng.randbytes(32)),
            replace(entry, hash=rng.randbytes(32)),
        ]
    )


def remove_a_row(trail: Trail, rng: random.Random) -> None:
    del trail.entries[rng.randrange(SEGMENTS)]


def remove_a_row_with_its_file(trail: Trail, rng: random.Random) -> None:
    entry = trail.entries.pop(rng.randrange(SEGMENTS))
    trail.path(entry).unlink()


def swap_rows(trail: Trail, rng: random.Random) -> None:
    one, other = rng.sample(range(SEGMENTS), 2)
    first, second = trail.entries[one], trail.entries[other]
    trail.entries[one] = replace(second, place=first.place)
    trail.entries[other] = replace(first, place=second.place)


def move_a_row(trail: Trail, rng: random.Random) -> None:
    one, other = rng.sample(range(SEGMENTS), 2)
    moved = trail.entries.pop(one)
    trail.entries.insert(other, moved)
    trail.entries = [replace(e, place=n) for n, e in enumerate(trail.entries, start=1)]


def remove_a_row_and_close_the_gap(trail: Trail, rng: random.Random) -> None:
    remove_a_row_with_its_file(trail, rng)
    trail.entries = [replace(e, place=n) for n, e in enumerate(trail.entries, start=1)]


def cut_the_chain(trail: Trail, rng: random.Random) -> None:
    kept = rng.randrange(SEGMENTS)
    for entry in trail.entries[kept:]:
        trail.path(entry).unlink()
    del trail.entries[kept:]


def change_an_event_and_chain_anew(trail: Trail, rng: random.Random) -> None:
    place = rng.randrange(SEGMENTS)
    segments = [entry.segment for entry in trail.entries]
    path = trail.path(trail.entries[place])
    _write(path, path.read_bytes().replace(b'"ok"', b'"no"', 1))
    segments[place] = replace(segments[place], sha256=rng.randbytes(32))
    trail.chain_anew(segments)


def remove_a_segment_and_chain_anew(trail: Trail, rng: random.Random) -> None:
    remove_a_row_with_its_file(trail, rng)
    trail.chain_anew([entry.segment for entry in trail.entries])


def reorder_and_chain_anew(trail: Trail, rng: random.Random) -> None:
    segments = [entry.segment for entry in trail.entries]
    one, other = rng.sample(range(SEGMENTS), 2)
    segments[one], segments[other] = segments[other], segments[one]
    trail.chain_anew(segments)


def edit_the_head(trail: Trail, rng: random.Random) -> None:
    data = bytearray(trail.head_bytes())
    data[rng.randrange(len(data))] ^= rng.randint(1, 127)
    trail.put_head(bytes(data))


def remove_the_head(trail: Trail, _rng: random.Random) -> None:
    trail.put_head(None)


TAMPERINGS: tuple[Tamper, ...] = (
    edit_a_byte,
    add_a_line,
    remove_a_line,
    swap_lines,
    cut_a_file,
    remove_a_file,
    swap_files,
    edit_a_row,
    remove_a_row,
    remove_a_row_with_its_file,
    swap_rows,
    move_a_row,
    remove_a_row_and_close_the_gap,
    cut_the_chain,
    change_an_event_and_chain_anew,
    remove_a_segment_and_chain_anew,
    reorder_and_chain_anew,
    edit_the_head,
    remove_the_head,
)


def test_each_of_ten_thousand_tamperings_is_found(tmp_path: Path) -> None:
    rng = random.Random(20261127)
    trail = Trail(tmp_path, rng, SEGMENTS)
    files = {trail.path(entry): trail.path(entry).read_bytes() for entry in trail.entries}
    entries: list[Entry] = list(trail.entries)
    head = trail.head_bytes()
    assert trail.faults() == []
    unfound = []
    for number in range(ROUNDS):
        tamper = TAMPERINGS[number % len(TAMPERINGS)]
        tamper(trail, rng)
        if not trail.faults():
            unfound.append((number, tamper.__name__))
        trail.entries = list(entries)
        trail.put_head(head)
        for path, data in files.items():
            if not path.exists() or path.read_bytes() != data:
                _write(path, data)
    assert unfound == []
    assert trail.faults() == []
