import base64
import hashlib
import hmac
import os
import pickle
import random
import struct
import uuid
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keywrap.dpapi.blob import MAGIC, BadBlobError, Blob, NotOpenedError
from keywrap.dpapi.crypto import SUITES, Suite, stretch
from keywrap.dpapi.secret import MasterKey
from keywrap.testing.dpapi import LOCAL_MACHINE, TDES_SHA1, Account, protect

GUID = "ed93694f-5a6d-46e2-b821-219f2c0ecd4d"
KEY = bytes(range(64))
BY_NAME = {"argvalues": SUITES, "ids": [suite.name for suite in SUITES]}


def blob_of(plaintext: bytes = b"x" * 32, entropy: bytes = b"", **fields: object) -> bytes:
    return protect(plaintext, KEY, GUID, entropy, **fields)  # type: ignore[arg-type]


def refusal(data: bytes) -> str:
    with pytest.raises(BadBlobError) as refused:
        Blob.parse(data)
    return refused.value.reason_code


def not_opened(data: bytes, key: bytes = KEY, entropy: bytes = b"") -> str:
    with pytest.raises(NotOpenedError) as refused:
        Blob.parse(data).open(MasterKey(key), entropy)
    return refused.value.reason_code


@given(
    plaintext=st.binary(max_size=1000),
    entropy=st.binary(max_size=100),
    suite=st.sampled_from(SUITES),
    flags=st.sampled_from([0, LOCAL_MACHINE, 0x10, 0x20000000]),
    description=st.sampled_from([b"", b"\0\0", "größe\0".encode("utf-16-le")]),
    key=st.binary(min_size=64, max_size=64),
    guid=st.uuids(),
)
@settings(max_examples=300)
def test_what_is_protected_opens_with_its_key_and_entropy_and_with_no_other(
    plaintext: bytes,
    entropy: bytes,
    suite: Suite,
    flags: int,
    description: bytes,
    key: bytes,
    guid: uuid.UUID,
) -> None:
    data = protect(
        plaintext, key, str(guid), entropy, suite=suite, flags=flags, description=description
    )
    blob = Blob.parse(data)
    assert (blob.master_key, blob.flags, blob.suite) == (str(guid), flags, suite)
    assert blob.open(MasterKey(key), entropy) == plaintext
    assert blob.open(MasterKey(MasterKey(key).sha1()), entropy) == plaintext
    assert not_opened(data, bytes(64) if any(key) else b"\1" * 64, entropy) == "dpapi_does_not_open"
    assert not_opened(data, key, entropy + b"\0") == "dpapi_does_not_open"


FROZEN = {
    ("AES-256/SHA-512", b""): "0aa2a12ffbc8977f4ab2676cebcad2ebbea909b481651d711204a5dc48407fc1",
    (
        "AES-256/SHA-512",
        b"app entropy",
    ): "244fc98e329bab7b2ff243b328e6327f4e242e909a058934db3ac4b59ebce1c1",
    ("3DES/SHA-1", b""): "2680d8e0750bfb15d1da1e78a6415dd8efeeec17dfe7b2db13ba11106a3528d6",
    (
        "3DES/SHA-1",
        b"app entropy",
    ): "104dbdccd1e210f9b9c028068c442144a287b16309396b0c071a6ba2e7c0af4c",
}
"""SHA-256 of what this encoder made of these values when it gave the very bytes of Windows' own
blobs: so that the oddities of the format are held where no vector of Windows is at hand."""


@pytest.mark.parametrize("suite", **BY_NAME)
@pytest.mark.parametrize("entropy", [b"", b"app entropy"])
def test_the_oddities_of_the_format_stay_as_windows_has_them(suite: Suite, entropy: bytes) -> None:
    salt = bytes(range(suite.salt_bytes))
    data = blob_of(bytes(32), entropy, suite=suite, salts=(salt, salt[::-1]))
    assert hashlib.sha256(data).hexdigest() == FROZEN[suite.name, entropy]
    assert Blob.parse(data).open(MasterKey(KEY), entropy) == bytes(32)


@pytest.mark.parametrize("suite", **BY_NAME)
def test_no_entropy_and_empty_entropy_are_the_same(suite: Suite) -> None:
    assert Blob.parse(blob_of(suite=suite)).open(MasterKey(KEY)) == b"x" * 32


def test_a_blob_begins_in_base64_and_hexadecimal_as_the_world_knows_it() -> None:
    assert base64.b64encode(blob_of()).startswith(b"AQAAANCMnd8BFdERjHoAwE/Cl+s")
    assert blob_of().hex().startswith("01000000d08c9ddf0115d1118c7a00c04fc297eb01000000")


def test_the_derivation_is_pbkdf2_for_two_rounds_and_something_else_for_three() -> None:
    for rounds, same in ((1, True), (2, True), (3, False)):
        theirs = hashlib.pbkdf2_hmac("sha512", b"p" * 20, b"s" * 16, rounds, 100)
        assert (stretch(b"p" * 20, b"s" * 16, rounds, 100, "sha512") == theirs) is same
    # By the rule: F(3) = U1 ^ U2 ^ U3, where U3 is of U1 ^ U2.
    first = hmac.digest(b"p" * 20, b"s" * 16 + b"\0\0\0\1", "sha1")
    second = hmac.digest(b"p" * 20, first, "sha1")
    both = bytes(a ^ b for a, b in zip(first, second, strict=True))
    third = hmac.digest(b"p" * 20, both, "sha1")
    expected = bytes(a ^ b for a, b in zip(both, third, strict=True))
    assert stretch(b"p" * 20, b"s" * 16, 3, 20, "sha1") == expected


@pytest.mark.parametrize("suite", **BY_NAME)
@pytest.mark.parametrize("entropy", [b"", b"app entropy"])
def test_every_altered_byte_and_every_cut_is_refused(suite: Suite, entropy: bytes) -> None:
    data, key = blob_of(entropy=entropy, suite=suite), MasterKey(KEY)
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 0xFF
        assert not accepts(bytes(altered), key, entropy), place
        assert not accepts(data[:place], key, entropy), place


def accepts(data: bytes, key: MasterKey, entropy: bytes) -> bool:
    """Whether a blob opens; any error but our two goes out and fails the test."""
    try:
        Blob.parse(data).open(key, entropy)
    except (BadBlobError, NotOpenedError):
        return False
    return True


def test_of_twenty_thousand_altered_cut_spliced_or_random_inputs_none_is_accepted() -> None:
    chance = random.Random(4)
    key, entropies = MasterKey(KEY), (b"", b"app entropy")
    sound = [
        (blob_of(chance.randbytes(size), entropy, suite=suite, flags=flags), entropy)
        for size in (0, 16, 32, 100)
        for entropy in entropies
        for suite in SUITES
        for flags in (0, LOCAL_MACHINE)
    ]
    assert all(accepts(data, key, entropy) for data, entropy in sound)
    tried = accepted = 0
    while tried < 20_000:
        (data, entropy), (other, _) = chance.choice(sound), chance.choice(sound)
        bad = MUTATIONS[tried % len(MUTATIONS)](chance, data, other)
        if bad == data or (bad, entropy) in sound:
            continue
        tried += 1
        accepted += accepts(bad, key, entropy)
    assert accepted == 0


def _flipped(chance: random.Random, data: bytes, _other: bytes) -> bytes:
    altered = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
    return bytes(altered)


def _length(chance: random.Random, data: bytes, _other: bytes) -> bytes:
    place = chance.randrange(20, len(data) - 4)
    value = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), 0x6610, 0x8004))
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


def _grown(chance: random.Random, data: bytes, _other: bytes) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.randint(1, 20)) + data[place:]


def _shrunk(chance: random.Random, data: bytes, _other: bytes) -> bytes:
    start, end = sorted((chance.randrange(len(data)), chance.randrange(len(data) + 1)))
    return data[:start] + data[end:]


MUTATIONS = (
    _flipped,
    _length,
    _grown,
    _shrunk,
    lambda chance, data, _: data[: chance.randrange(len(data))],
    lambda chance, data, other: data[: (cut := chance.randrange(len(data)))] + other[cut:],
    lambda chance, _data, _other: chance.randbytes(chance.randrange(400)),
    lambda chance, _data, _other: MAGIC + chance.randbytes(chance.randrange(400)),
    lambda chance, data, _: data[:44] + chance.randbytes(len(data) - 44),
    lambda chance, data, _: bytes(chance.sample(data, len(data))),
)


@pytest.mark.parametrize("suite", **BY_NAME)
def test_nothing_is_decrypted_before_the_mac_is_checked(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = blob_of(suite=suite)

    def decrypt(*_: object) -> None:
        raise AssertionError("it decrypts what it has not checked")

    monkeypatch.setattr(Suite, "cbc", decrypt)
    assert not_opened(data[:-1] + bytes([data[-1] ^ 1])) == "dpapi_does_not_open"


@pytest.mark.parametrize("suite", **BY_NAME)
def test_a_right_mac_over_wrong_padding_is_still_refused(suite: Suite) -> None:
    blob = Blob.parse(blob_of(suite=suite))
    key = MasterKey(KEY)
    refused = 0
    for _ in range(40):
        forged = replace(blob, ciphertext=os.urandom(48))
        covered = blob.covered.replace(blob.ciphertext, forged.ciphertext)
        mac = suite.keyed_hash(key.sha1(), blob.nonce, covered)
        forged = replace(forged, covered=covered, signature=mac)
        try:
            forged.open(key)
        except NotOpenedError as error:
            refused += error.reason_code == "dpapi_padding_wrong"
    assert refused > 30


def with_field(place: int, value: bytes) -> bytes:
    data = blob_of()
    return data[:place] + value + data[place + len(value) :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "dpapi_malformed"),
        (MAGIC, "dpapi_malformed"),
        (b"\x02" + blob_of()[1:], "dpapi_malformed"),
        (with_field(20, b"\2"), "dpapi_malformed"),
        (blob_of(description=b"\0"), "dpapi_malformed"),
        (blob_of(description=b"a\0"), "dpapi_malformed"),
        (with_field(50, b"\x0e\x66"), "dpapi_algorithms"),
        (with_field(54, b"\x80\0"), "dpapi_algorithms"),
        (with_field(98, b"\x0c\x80"), "dpapi_algorithms"),
        (blob_of(suite=replace(TDES_SHA1, key_bits=(112,))), "dpapi_algorithms"),
        (blob_of(salts=(bytes(31), bytes(32))), "dpapi_malformed"),
        (blob_of(salts=(bytes(32), bytes(16))), "dpapi_malformed"),
        (blob_of() + b"\0", "dpapi_malformed"),
        (blob_of() * 2, "dpapi_malformed"),
        (b"DPAPI" + blob_of(), "dpapi_with_prefix"),
        (b"APPB" + blob_of(), "dpapi_with_prefix"),
        (base64.b64encode(blob_of()), "dpapi_encoded_twice"),
        (blob_of().hex().encode(), "dpapi_encoded_twice"),
        (blob_of().hex().upper().encode(), "dpapi_encoded_twice"),
        (b"\1\0\0\0Wine Crypt32 ok\0" + bytes(200), "dpapi_wine"),
        (
            bytes.fromhex("308201ad06092a864886f70d010703a082019e3082019a020102")
            + bytes(60)
            + bytes.fromhex("060a2b0601040182374a01")
            + bytes(300),
            "dpapi_ng",
        ),
        (os.urandom(240), "dpapi_mono"),
        (os.urandom(208), "dpapi_mono"),
        (os.urandom(32), "dpapi_malformed"),
        (os.urandom(60), "dpapi_malformed"),
        (b"v10" + os.urandom(60), "dpapi_malformed"),
    ],
)
def test_what_is_no_sound_blob_is_refused_by_its_name(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


def test_a_blob_that_wants_a_persons_password_is_refused_as_that() -> None:
    blob = Blob.parse(blob_of())
    place = blob.data.index(blob.salt) + len(blob.salt)
    data = blob.data[:place] + struct.pack("<I", 4) + b"pass" + blob.data[place + 4 :]
    assert refusal(data) == "dpapi_prompt"


def test_the_master_key_is_named_without_any_secret() -> None:
    account = Account()
    assert Blob.parse(account.protect(b"x")).master_key == account.guid


def test_3des_states_the_key_bits_of_xp_or_of_later_windows() -> None:
    old = replace(TDES_SHA1, key_bits=(168,))
    assert Blob.parse(blob_of(suite=old)).open(MasterKey(KEY)) == b"x" * 32


def test_a_master_key_shows_itself_nowhere() -> None:
    key = MasterKey(KEY)
    assert KEY.hex() not in repr(key)
    assert "hidden" in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(TypeError):
        hash(key)
    assert key == MasterKey(key.sha1())
    assert key != MasterKey(bytes(64))
    assert key != KEY
    for size in (0, 19, 21, 32, 63, 65):
        with pytest.raises(ValueError, match=f"not {size}"):
            MasterKey(bytes(size))


def test_a_blob_shows_neither_its_bytes_nor_what_it_holds() -> None:
    blob = Blob.parse(blob_of(b"secret" * 5))
    for part in (blob.ciphertext, blob.signature, blob.salt, b"secret"):
        assert repr(part)[2:14] not in repr(blob)
