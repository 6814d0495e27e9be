import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keywrap import contents
from keywrap.contents import FIRST_READ_BYTES, ContentError, Flow, Proof, content_format
from keywrap.datakey import DataKey

KEY_BYTES = bytes(range(32))
KEY = DataKey(KEY_BYTES)
OTHER = DataKey(bytes(32))

GCM = content_format("gcm-v1")
RECORDS = content_format("records-v1")
STREAM = content_format("stream-v1")
formats = pytest.mark.parametrize(
    "form", [GCM, RECORDS, STREAM], ids=["gcm-v1", "records-v1", "stream-v1"]
)


class RangedReads:
    """A content as a store reads it, with the reads that were asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.content[start : start + length]


def adopter_record(plaintext: bytes) -> bytes:
    """One record, as the first adopter's application writes it."""
    nonce = os.urandom(12)
    sealed = AESGCM(KEY_BYTES).encrypt(nonce, plaintext, None)
    return nonce + len(sealed).to_bytes(4, "big") + sealed


@formats
@given(plaintext=st.binary(max_size=20_000))
def test_what_was_sealed_opens_again(form: contents.ContentFormat, plaintext: bytes) -> None:
    sealed = form.seal(KEY, plaintext)
    assert form.open(KEY, sealed) == plaintext
    assert b"".join(form.chunks(KEY, RangedReads(sealed))) == plaintext
    if plaintext or form is not RECORDS:
        assert form.proves(KEY, RangedReads(sealed)) is Proof.OPENED


@formats
@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 8192, 50_000])
def test_a_content_cut_at_any_place_never_opens_as_the_whole(
    form: contents.ContentFormat, size: int
) -> None:
    plaintext = os.urandom(size)
    sealed = form.seal(KEY, plaintext)
    record = 12 + 4 + 4096 + 16
    boundaries = set(range(0, len(sealed), record)) if form is RECORDS else set()
    for end in {1, 11, 12, 15, 16, 17, 28, 31, len(sealed) // 2, len(sealed) - 1} - boundaries:
        if end < len(sealed):
            with pytest.raises(ContentError):
                form.open(KEY, sealed[:end])
            before: list[bytes] = []
            with pytest.raises(ContentError):
                before.extend(form.chunks(KEY, RangedReads(sealed[:end])))
            assert plaintext.startswith(b"".join(before))


@formats
@pytest.mark.parametrize("junk", [b"\0", b"junk", bytes(40)])
def test_what_follows_the_content_is_refused(form: contents.ContentFormat, junk: bytes) -> None:
    lengthened = form.seal(KEY, b"content") + junk
    for act in (
        lambda: form.open(KEY, lengthened),
        lambda: list(form.chunks(KEY, RangedReads(lengthened))),
    ):
        with pytest.raises(ContentError):
            act()


@formats
def test_another_key_neither_opens_nor_proves(form: contents.ContentFormat) -> None:
    sealed = form.seal(KEY, b"content" * 1000)
    for act in (
        lambda: form.open(OTHER, sealed),
        lambda: next(form.chunks(OTHER, RangedReads(sealed))),
        lambda: form.proves(OTHER, RangedReads(sealed)),
    ):
        with pytest.raises(ContentError) as refused:
            act()
        assert refused.value.reason_code == "content_does_not_open"
        assert refused.value.__cause__ is None


@formats
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes_are_refused_in_one_way(form: contents.ContentFormat, content: bytes) -> None:
    with pytest.raises(ContentError):
        form.open(KEY, content)
    with pytest.raises(ContentError):
        form.proves(KEY, RangedReads(content))
    with pytest.raises(ContentError):
        next(form.chunks(KEY, RangedReads(content)))


@given(content=st.binary(max_size=60), block=st.integers(1, 20), data=st.data())
def test_a_flow_hands_out_every_byte_once_and_in_order(
    content: bytes, block: int, data: st.DataObject
) -> None:
    reads = RangedReads(content)
    flow = Flow(reads, block)
    taken = b""
    while not flow.is_over():
        length = data.draw(st.integers(1, 70))
        part = bytes(flow.take(length))
        assert len(part) == min(length, len(content) - len(taken))
        taken += part
    assert taken == content
    assert bytes(flow.take(5)) == b""
    assert all(start == n * block for n, (start, _) in enumerate(reads.asked))
    assert len(reads.asked) == len(content) // block + 1, "the end is seen, and once"


def test_records_are_handed_out_one_by_one() -> None:
    plaintext = os.urandom(10_000)
    pieces = list(RECORDS.chunks(KEY, RangedReads(RECORDS.seal(KEY, plaintext))))
    assert [len(piece) for piece in pieces] == [4096, 4096, 1808]
    assert b"".join(pieces) == plaintext


def test_an_empty_message_is_28_bytes_and_no_bytes_are_none() -> None:
    assert len(GCM.seal(KEY, b"")) == 28
    assert GCM.proves(KEY, RangedReads(GCM.seal(KEY, b""))) is Proof.OPENED
    for content in (b"", bytes(27)):
        with pytest.raises(ContentError) as refused:
            GCM.proves(KEY, RangedReads(content))
        assert refused.value.reason_code == "content_truncated"


def test_one_message_is_proved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "READ_BYTES", 100)
    sealed = bytearray(GCM.seal(KEY, bytes(1000)))
    reads = RangedReads(bytes(sealed))
    assert GCM.proves(KEY, reads) is Proof.OPENED
    assert reads.asked == [(start, 100) for start in range(0, 1100, 100)]
    sealed[-1] ^= 1
    with pytest.raises(ContentError):
        GCM.proves(KEY, RangedReads(bytes(sealed)))


def test_a_message_as_long_as_a_whole_number_of_reads_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contents, "READ_BYTES", 128)
    assert GCM.proves(KEY, RangedReads(GCM.seal(KEY, bytes(256 - 28)))) is Proof.OPENED


def test_a_message_too_large_for_one_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_MESSAGE_BYTES", 1000)
    monkeypatch.setattr(contents, "READ_BYTES", 128)
    endless = RangedReads(bytes(100_000))
    with pytest.raises(ContentError) as refused:
        GCM.proves(KEY, endless)
    assert refused.value.reason_code == "content_too_large"
    assert len(endless.asked) < 10
    with pytest.raises(ContentError):
        GCM.seal(KEY, bytes(1000))


def test_the_first_adopters_records_open() -> None:
    chunks = [os.urandom(4096), os.urandom(4096), b"end"]
    content = b"".join(adopter_record(chunk) for chunk in chunks)
    assert RECORDS.open(KEY, content) == b"".join(chunks)
    assert len(RECORDS.seal(KEY, b"".join(chunks))) == len(content)


def test_an_empty_blob_has_no_records_and_proves_any_key() -> None:
    assert RECORDS.seal(KEY, b"") == b""
    assert RECORDS.open(OTHER, b"") == b""
    assert RECORDS.proves(OTHER, RangedReads(b"")) is Proof.EMPTY


def test_a_record_of_an_empty_plaintext_still_proves_its_key() -> None:
    assert RECORDS.proves(KEY, RangedReads(adopter_record(b""))) is Proof.OPENED
    with pytest.raises(ContentError):
        RECORDS.proves(OTHER, RangedReads(adopter_record(b"")))


def test_the_first_record_is_proved_in_one_read() -> None:
    reads = RangedReads(RECORDS.seal(KEY, bytes(100_000)))
    assert RECORDS.proves(KEY, reads) is Proof.OPENED
    assert reads.asked == [(0, FIRST_READ_BYTES)]


def test_a_longer_first_record_takes_a_second_read() -> None:
    record = adopter_record(bytes(50_000))
    reads = RangedReads(record + adopter_record(b"next"))
    assert RECORDS.proves(KEY, reads) is Proof.OPENED
    assert reads.asked[1:] == [(FIRST_READ_BYTES, len(record) - FIRST_READ_BYTES)]
    for size in (20, 4000, FIRST_READ_BYTES, 30_000):
        with pytest.raises(ContentError) as refused:
            RECORDS.proves(KEY, RangedReads(record[:size]))
        assert refused.value.reason_code == "content_truncated"


def test_records_that_end_early_are_called_truncated() -> None:
    sealed = RECORDS.seal(KEY, bytes(5000))
    for end in (4112 + 16 + 17, 4112 + 16 + 3, 100):
        with pytest.raises(ContentError) as refused:
            list(RECORDS.chunks(KEY, RangedReads(sealed[:end])))
        assert refused.value.reason_code == "content_truncated"


@pytest.mark.parametrize("length", [0, 15, contents.MAX_RECORD_BYTES + 1, 2**32 - 1])
def test_a_record_of_a_length_that_cannot_be_is_refused_unread(length: int) -> None:
    reads = RangedReads(bytes(12) + length.to_bytes(4, "big") + bytes(FIRST_READ_BYTES))
    with pytest.raises(ContentError) as refused:
        RECORDS.proves(KEY, reads)
    assert refused.value.reason_code == "content_record_length"
    assert len(reads.asked) == 1


def test_an_unknown_format_is_refused() -> None:
    for name in ("", "gcm-v2", "GCM-V1", "stream-v1\n", "stream-v2"):
        with pytest.raises(ContentError) as refused:
            content_format(name)
        assert refused.value.reason_code == "content_format_unknown"
