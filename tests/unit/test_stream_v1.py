import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keywrap import stream_v1
from keywrap.contentformat import READ_BYTES, ContentError, Proof
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.stream_v1 import CHUNK_BYTES, HEADER_BYTES, SEALED_BYTES, StreamV1
from tests import plainstreams

KEY_BYTES = bytes(range(32))
KEY = DataKey(KEY_BYTES)
OTHER_BYTES = bytes(32)
SALT = bytes(range(100, 132))
STREAM = StreamV1()
PAGE = (Path(__file__).parents[2] / "docs/stream-v1.md").read_text(encoding="utf-8")
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000]
SMALL = 16
"""Plaintext bytes of a chunk where chunks are made small, so that a short content has many."""


class Reads:
    """A content as a store reads it, with the reads that were asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.content[start : start + length]


class Dribble(io.RawIOBase):
    """A source that hands out fewer bytes than it is asked for, as a socket does."""

    def __init__(self, data: bytes, at_once: int) -> None:
        self._data, self._at_once = io.BytesIO(data), at_once

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, self._at_once))


def opened(content: bytes, key: DataKey = KEY) -> bytes:
    return STREAM.open(key, content)


def refused(content: bytes, key: DataKey = KEY) -> tuple[bytes, str]:
    """Return what was handed out before the refusal, and its reason code."""
    pieces: list[bytes] = []
    with pytest.raises(ContentError) as error:
        pieces.extend(STREAM.chunks(key, Reads(content)))
    assert error.value.__cause__ is None
    return b"".join(pieces), error.value.reason_code


@pytest.fixture(scope="module")
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_v1, "CHUNK_BYTES", SMALL)
        patch.setattr(stream_v1, "SEALED_BYTES", SMALL + 16)
        yield


def cut(content: bytes) -> list[bytes]:
    """Cut a content of small chunks into its header and chunks."""
    step = SMALL + 16
    rest = content[HEADER_BYTES:]
    return [content[:HEADER_BYTES], *(rest[at : at + step] for at in range(0, len(rest), step))]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_opens_here_and_by_the_page_alone(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = STREAM.seal(KEY, plaintext)
    assert len(sealed) == HEADER_BYTES + size + 16 * max(1, -(-size // CHUNK_BYTES))
    assert opened(sealed) == plaintext
    assert plainstreams.open_whole(KEY_BYTES, sealed) == plaintext
    assert opened(plainstreams.seal(KEY_BYTES, SALT, plaintext)) == plaintext


def test_the_vectors_of_the_page_are_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: SALT[:count])
    found = dict(re.findall(r"^(\w+) +([0-9a-f]+)$", PAGE, re.MULTILINE))
    assert bytes.fromhex(found["data_key"]) == KEY_BYTES
    assert bytes.fromhex(found["salt"]) == SALT
    derived = [part.hex() for part in plainstreams.derive(KEY_BYTES, SALT)]
    assert derived == [found["key"], found["prefix"], found["commitment"]]
    for name, plaintext in (("empty", b""), ("short", b"attack at dawn")):
        assert STREAM.seal(KEY, plaintext).hex() == found[name]
        assert opened(bytes.fromhex(found[name])) == plaintext


def test_the_bytes_of_the_format_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: SALT[:count])
    header = (
        "6b65797772617001"
        "6465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f80818283"
        "314bd0467e663b94621eec3582f0b208733f23c3916c1f2bcd8074b6b66f96ed"
    )
    assert STREAM.seal(KEY, b"").hex() == header + "8d4fba56d6f1fa7561e67c2b45a55fc4"
    two_chunks = STREAM.seal(KEY, bytes(CHUNK_BYTES) + b"x")
    assert hashlib.sha256(two_chunks).hexdigest() == (
        "d383282a3d6d4ecd71966edf7f1ea4a313ab31c62b4ed1cea03a13dc90f58892"
    )


@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_data_key_of_every_length_seals(size: int) -> None:
    key = os.urandom(size)
    sealed = STREAM.seal(DataKey(key), b"text")
    assert opened(sealed, DataKey(key)) == b"text"
    assert plainstreams.open_whole(key, sealed) == b"text"


def test_two_contents_share_neither_salt_nor_key() -> None:
    one, other = (STREAM.seal(KEY, b"the same") for _ in range(2))
    assert one[8:40] != other[8:40]
    assert one[HEADER_BYTES:] != other[HEADER_BYTES:]


@pytest.mark.parametrize("at_once", [1, 7, 1000, CHUNK_BYTES - 1])
def test_a_source_that_hands_out_little_at_a_time_gives_the_same_content(at_once: int) -> None:
    plaintext = os.urandom(CHUNK_BYTES + 10)
    sealed = b"".join(STREAM.encrypt(KEY, Dribble(plaintext, at_once)))
    assert opened(sealed) == plaintext
    assert len(sealed) == HEADER_BYTES + len(plaintext) + 32


def test_a_source_that_hands_out_more_than_was_asked_for_is_refused_and_nothing_is_lost() -> None:
    class Generous:
        def read(self, size: int, /) -> bytes:
            return bytes(size + 1)

    with pytest.raises(ValueError, match="more bytes than it was asked for"):
        list(STREAM.encrypt(KEY, Generous()))


def test_a_content_longer_than_one_read_comes_chunk_by_chunk() -> None:
    plaintext = os.urandom(READ_BYTES + 3 * CHUNK_BYTES + 5)
    reads = Reads(STREAM.seal(KEY, plaintext))
    pieces = list(STREAM.chunks(KEY, reads))
    assert b"".join(pieces) == plaintext
    assert {len(piece) for piece in pieces} == {CHUNK_BYTES, 5}
    assert reads.asked == [(0, READ_BYTES), (READ_BYTES, READ_BYTES)]


def test_nothing_is_read_ahead_of_what_is_asked_for() -> None:
    reads = Reads(STREAM.seal(KEY, bytes(READ_BYTES * 2)))
    next(STREAM.chunks(KEY, reads))
    assert len(reads.asked) == 1


@pytest.mark.parametrize("size", SIZES)
def test_the_first_chunk_proves_the_key_by_one_read(size: int) -> None:
    reads = Reads(STREAM.seal(KEY, bytes(size)))
    assert STREAM.proves(KEY, reads) is Proof.OPENED
    assert reads.asked == [(0, HEADER_BYTES + SEALED_BYTES + 1)]
    with pytest.raises(ContentError) as error:
        STREAM.proves(DataKey(OTHER_BYTES), reads)
    assert error.value.reason_code == "content_does_not_open"


@pytest.mark.parametrize("size", [0, 5, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_first_chunk_that_was_altered_proves_nothing(size: int) -> None:
    sealed = bytearray(STREAM.seal(KEY, bytes(size)))
    sealed[HEADER_BYTES] ^= 1
    with pytest.raises(ContentError):
        STREAM.proves(KEY, Reads(bytes(sealed)))


@pytest.mark.parametrize("size", [CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_a_content_cut_behind_its_first_chunk_proves_nothing(size: int) -> None:
    sealed = STREAM.seal(KEY, bytes(size))
    with pytest.raises(ContentError):
        STREAM.proves(KEY, Reads(sealed[: HEADER_BYTES + SEALED_BYTES]))


def test_every_bit_of_a_short_content_counts() -> None:
    sealed = STREAM.seal(KEY, b"short")
    for place in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[place // 8] ^= 1 << place % 8
        assert refused(bytes(altered))[0] == b""


@pytest.mark.parametrize("size", SIZES)
def test_a_content_cut_at_the_end_of_a_chunk_does_not_end_there(size: int) -> None:
    plaintext = os.urandom(size)
    sealed = STREAM.seal(KEY, plaintext)
    for end in range(HEADER_BYTES, len(sealed), SEALED_BYTES):
        before, reason = refused(sealed[:end])
        assert plaintext.startswith(before)
        assert len(before) < size or not size
        assert reason in {"content_does_not_open", "content_truncated"}


def test_a_header_alone_is_no_content() -> None:
    header = STREAM.seal(KEY, b"")[:HEADER_BYTES]
    for end in range(HEADER_BYTES + 1):
        assert refused(header[:end]) == (b"", "content_truncated")


def test_an_empty_last_chunk_after_others_is_refused_though_its_tag_is_right() -> None:
    whole = bytes(CHUNK_BYTES)
    content = (
        plainstreams.header_of(KEY_BYTES, SALT)
        + plainstreams.chunk_of(KEY_BYTES, SALT, 0, whole, last=False)
        + plainstreams.chunk_of(KEY_BYTES, SALT, 1, b"", last=True)
    )
    assert refused(content) == (whole, "content_malformed")


def test_a_content_that_commits_to_another_key_does_not_open_though_its_tag_is_right() -> None:
    salt_and_more = plainstreams.header_of(OTHER_BYTES, SALT)
    content = salt_and_more + plainstreams.chunk_of(KEY_BYTES, SALT, 0, b"text", last=True)
    assert refused(content) == (b"", "content_does_not_open")
    with pytest.raises(ContentError):
        STREAM.proves(KEY, Reads(content))


def test_what_does_not_begin_as_a_stream_is_malformed() -> None:
    sealed = STREAM.seal(KEY, b"text")
    assert refused(b"keywrap\x02" + sealed[8:]) == (b"", "content_malformed")
    assert refused(content_format("gcm-v1").seal(KEY, bytes(100))) == (b"", "content_malformed")


def test_the_number_of_chunks_is_bounded_by_its_four_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stream_v1.MAX_CHUNKS == 2**32
    monkeypatch.setattr(stream_v1, "MAX_CHUNKS", 2)
    assert opened(STREAM.seal(KEY, bytes(2 * CHUNK_BYTES))) == bytes(2 * CHUNK_BYTES)
    with pytest.raises(ContentError) as error:
        STREAM.seal(KEY, bytes(2 * CHUNK_BYTES + 1))
    assert error.value.reason_code == "content_too_large"


@pytest.mark.usefixtures("small_chunks")
@given(data=st.data(), size=st.integers(0, 5 * SMALL))
@settings(max_examples=400)
def test_no_other_arrangement_of_chunks_opens(data: st.DataObject, size: int) -> None:
    plaintext = os.urandom(size)
    true = cut(STREAM.seal(KEY, plaintext))
    foreign = cut(STREAM.seal(KEY, os.urandom(size))) + cut(STREAM.seal(DataKey(OTHER_BYTES), b""))
    pool = [*true, *foreign, b"", b"\0", os.urandom(SMALL + 16)]
    arranged = data.draw(st.lists(st.sampled_from(pool), max_size=len(true) + 2))
    content = b"".join(arranged)
    if content in {b"".join(true), b"".join(foreign[: len(true)])}:
        return
    before, _ = refused(content)
    theirs = content[:HEADER_BYTES] == foreign[0]
    assert theirs or plaintext.startswith(before)


@pytest.mark.usefixtures("small_chunks")
@given(data=st.data(), size=st.integers(0, 5 * SMALL))
@settings(max_examples=300)
def test_no_moved_doubled_dropped_or_spliced_chunk_opens(data: st.DataObject, size: int) -> None:
    plaintext = os.urandom(size)
    chunks = cut(STREAM.seal(KEY, plaintext))
    other = cut(STREAM.seal(KEY, os.urandom(size)))
    place = data.draw(st.integers(0, len(chunks) - 1))
    to = data.draw(st.integers(0, len(chunks) - 1))
    altered = list(chunks)
    match data.draw(st.sampled_from(["move", "double", "drop", "splice", "swap"])):
        case "move":
            altered.insert(to, altered.pop(place))
        case "double":
            altered.insert(to, chunks[place])
        case "drop":
            del altered[place]
        case "splice":
            altered[place] = other[place]
        case _:
            altered[place], altered[to] = altered[to], altered[place]
    if altered == chunks:
        return
    before, _ = refused(b"".join(altered))
    assert plaintext.startswith(before)


@pytest.mark.usefixtures("small_chunks")
@given(data=st.data(), size=st.integers(0, 5 * SMALL))
@settings(max_examples=300)
def test_no_cut_lengthened_or_altered_content_opens(data: st.DataObject, size: int) -> None:
    plaintext = os.urandom(size)
    sealed = STREAM.seal(KEY, plaintext)
    place = data.draw(st.integers(0, len(sealed) - 1))
    some = data.draw(st.binary(min_size=1, max_size=40))
    match data.draw(st.sampled_from(["cut", "append", "insert", "flip", "remove"])):
        case "cut":
            altered = sealed[:place]
        case "append":
            altered = sealed + some
        case "insert":
            altered = sealed[:place] + some + sealed[place:]
        case "flip":
            altered = sealed[:place] + bytes([sealed[place] ^ some[0]]) + sealed[place + 1 :]
        case _:
            altered = sealed[:place] + sealed[place + len(some) :]
    if altered == sealed:
        return
    before, _ = refused(altered)
    assert plaintext.startswith(before)


@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused_in_one_way(content: bytes) -> None:
    assert refused(content)[0] == b""
    assert refused(plainstreams.MAGIC + content)[0] == b""
