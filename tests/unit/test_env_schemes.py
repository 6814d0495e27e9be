import base64
from typing import get_args

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.kms import RefusedError
from keywrap.providers.env import EnvKeyProvider
from keywrap.providers.env_schemes import (
    BINDING_SCHEMES,
    UNAUTHENTICATED,
    WRAP_LENGTHS,
    NotOpenedError,
    Scheme,
    Wrapping,
    wrapping_of,
)

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
WRAPPING: tuple[Scheme, ...] = tuple(scheme for scheme in SCHEMES if scheme != "direct")
KEK = DataKey(bytes(range(32)))
CONTEXT = {"blob_id": "a"}

data_keys = st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n))
schemes = st.sampled_from(WRAPPING)


def made(scheme: Scheme, key: DataKey = KEK) -> Wrapping:
    wrapping = wrapping_of(scheme, key)
    assert wrapping is not None
    return wrapping


@given(schemes, data_keys)
def test_every_scheme_opens_what_it_sealed(scheme: Scheme, payload: bytes) -> None:
    assert made(scheme).open(made(scheme).seal(payload, None), None) == payload


@given(schemes, schemes, data_keys)
def test_no_scheme_opens_the_wrap_of_another(one: Scheme, other: Scheme, payload: bytes) -> None:
    wrap = made(one).seal(payload, None)
    if one != other:
        with pytest.raises(NotOpenedError):
            made(other).open(wrap, None)


@settings(max_examples=300)
@given(schemes, data_keys, st.data())
def test_no_scheme_opens_a_wrap_with_an_altered_byte(
    scheme: Scheme, payload: bytes, data: st.DataObject
) -> None:
    wrap = made(scheme).seal(payload, None)
    place = data.draw(st.integers(0, len(wrap) - 1))
    altered = (
        wrap[:place] + bytes([wrap[place] ^ data.draw(st.integers(1, 255))]) + wrap[place + 1 :]
    )
    with pytest.raises(NotOpenedError):
        made(scheme).open(altered, None)


@given(
    scheme=schemes,
    payload=data_keys,
    more=st.binary(min_size=1, max_size=20),
    before=st.booleans(),
)
def test_no_scheme_opens_a_wrap_with_bytes_before_or_after_it(
    scheme: Scheme, payload: bytes, more: bytes, *, before: bool
) -> None:
    wrap = made(scheme).seal(payload, None)
    with pytest.raises(NotOpenedError):
        made(scheme).open(more + wrap if before else wrap + more, None)


@given(schemes, st.binary(max_size=200))
def test_no_scheme_opens_what_was_never_sealed(scheme: Scheme, junk: bytes) -> None:
    with pytest.raises(NotOpenedError):
        made(scheme).open(junk, None)


@given(schemes, data_keys, st.binary(min_size=32, max_size=32))
def test_no_scheme_opens_the_wrap_of_another_key(
    scheme: Scheme, payload: bytes, other: bytes
) -> None:
    wrap = made(scheme).seal(payload, None)
    if other != KEK.reveal():
        with pytest.raises(NotOpenedError):
            made(scheme, DataKey(other)).open(wrap, None)


@given(st.sampled_from(sorted(BINDING_SCHEMES)), data_keys, st.binary(), st.binary())
def test_the_gcm_schemes_open_with_their_additional_data_only(
    scheme: Scheme, payload: bytes, one: bytes, other: bytes
) -> None:
    wrap = made(scheme).seal(payload, one)
    assert made(scheme).open(wrap, one) == payload
    if one != other:
        with pytest.raises(NotOpenedError):
            made(scheme).open(wrap, other)


@given(data_keys)
def test_a_fernet_token_opens_as_text_and_as_the_bytes_it_stands_for(payload: bytes) -> None:
    token = made("fernet").seal(payload, None)
    assert made("fernet").open(base64.urlsafe_b64decode(token), None) == payload
    key = Fernet(base64.urlsafe_b64encode(KEK.reveal()))
    assert key.decrypt(token) == payload
    assert made("fernet").open(key.encrypt(payload), None) == payload


@pytest.mark.parametrize("way", ["foreign", "newline", "alphabet", "spare bits"])
def test_a_fernet_token_that_only_a_lenient_decoder_takes_is_refused(way: str) -> None:
    key = Fernet(base64.urlsafe_b64encode(KEK.reveal()))
    token = b""
    while b"-" not in token:
        token = key.encrypt(bytes(16))
    assert token.endswith(b"=")
    lenient = {
        "foreign": token[:10] + b"!" + token[10:],
        "newline": token + b"\n",
        "alphabet": token.replace(b"-", b"+", 1),
        "spare bits": token[:-2] + bytes([token[-2] + 1]) + b"=",
    }[way]
    assert key.decrypt(lenient) == bytes(16), "cryptography takes it"
    with pytest.raises(NotOpenedError):
        made("fernet").open(lenient, None)


def test_a_fernet_token_without_its_padding_is_refused() -> None:
    with pytest.raises(NotOpenedError):
        made("fernet").open(made("fernet").seal(bytes(16), None).rstrip(b"="), None)


@pytest.mark.parametrize("size", [16, 24])
def test_a_fernet_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        wrapping_of("fernet", DataKey(bytes(size)))


@given(schemes, data_keys)
def test_a_wrap_has_a_length_of_its_scheme(scheme: Scheme, payload: bytes) -> None:
    assert len(made(scheme).seal(payload, None)) in WRAP_LENGTHS[scheme]


def test_no_scheme_without_authentication_is_a_scheme() -> None:
    assert not UNAUTHENTICATED & set(SCHEMES)


@pytest.mark.parametrize(
    ("scheme", "inner", "reason_code"),
    [
        *((scheme, inner, "wrap_length") for scheme in WRAPPING for inner in (64, 72)),
        ("aes-kwp", 15, "inner_key_length"),
        ("aes-kwp", 31, "inner_key_length"),
        ("fernet", 20, "inner_key_length"),
        ("fernet", 31, "inner_key_length"),
        ("aes-kw", 48, "wrap_length"),
        ("aes-gcm-iv16", 31, "wrap_length"),
        ("aes-gcm-tag-first", 31, "wrap_length"),
    ],
)
def test_a_sound_wrap_of_what_is_no_aes_key_is_refused(
    scheme: Scheme, inner: int, reason_code: str
) -> None:
    provider = EnvKeyProvider("K", KEK, scheme)
    wrap = WrappedKey(provider.current_version(), made(scheme).seal(bytes(inner), None))
    with pytest.raises(RefusedError) as refused:
        provider.unwrap(wrap, CONTEXT)
    assert refused.value.reason_code == reason_code
