import base64
import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keywrap.keys import KeyVersion, WrappedKey
from keywrap.sidecar import (
    MAX_DEK_VERSION,
    MAX_DEPTH,
    MAX_SIDECAR_BYTES,
    MAX_WRAP_BYTES,
    BadSidecarError,
    Sidecar,
)
from tests.shapes import MALFORMED, NAMELESS, Shape
from tests.texts import FULL, KEK, SECRET, WRAP, managed, nested, sidecar

ENV = KeyVersion("env:BLOB_KEY")
DPAPI = KeyVersion("dpapi:BLOB_KEY_DPAPI")


def refusal(data: bytes) -> str:
    with pytest.raises(BadSidecarError) as caught:
        Sidecar.parse(data)
    assert str(caught.value) not in {"", "None"}
    error: BaseException | None = caught.value
    while error is not None:  # neither the message nor what it came from shows the wrap
        assert "canary" not in f"{error} {vars(error)}"
        assert WRAP not in f"{error} {vars(error)}"
        error = error.__cause__ or error.__context__ if not error.__suppress_context__ else None
    return caught.value.reason_code


@pytest.mark.parametrize("shape", MALFORMED, ids=lambda shape: shape.name)
def test_a_malformed_sidecar_is_refused_with_its_reason(shape: Shape) -> None:
    assert refusal(shape.data) == shape.reason_code


def test_no_defect_is_there_twice() -> None:
    assert len({shape.data for shape in MALFORMED}) == len(MALFORMED) >= 200
    assert len({shape.name for shape in MALFORMED}) == len(MALFORMED)


@pytest.mark.parametrize("shape", NAMELESS, ids=lambda shape: shape.name)
def test_a_sidecar_of_no_key_of_ours_names_none(shape: Shape) -> None:
    assert key_refusal(shape.data, None) == shape.reason_code


def test_a_sidecar_cut_off_anywhere_is_refused() -> None:
    data = json.dumps(FULL).encode()
    for length in range(len(data)):
        refusal(data[:length])


@given(
    st.binary(max_size=200) | st.text(alphabet='{}[]":,0eE.-+ntf\\u', max_size=60).map(str.encode)
)
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    with suppress(BadSidecarError):
        Sidecar.parse(data)


@given(st.data())
def test_a_sidecar_with_one_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    original = bytearray(json.dumps(FULL).encode())
    original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadSidecarError):
        Sidecar.parse(bytes(original)).to_bytes()


# What is read


def test_every_field_is_read() -> None:
    read = Sidecar.parse(json.dumps(FULL | {"plaintext_size": 12}).encode())
    assert read == Sidecar(
        key_version=KEK,
        ciphertext=SECRET,
        dek_version=4,
        context={"blob_id": "tenants/7/größe.pdf"},
        content="stream-v1",
        object="0123456789abcdef" * 2,
        previous=WrappedKey(ENV, SECRET),
        extra={"plaintext_size": msgspec.Raw(b"12")},
    )


def test_limits_are_inclusive() -> None:
    Sidecar.parse(nested(MAX_DEPTH - 1))
    Sidecar.parse(b"{}" + b" " * (MAX_SIDECAR_BYTES - 2))
    Sidecar.parse(sidecar(x=["[" * 100, "{" * 100]))
    Sidecar.parse(sidecar(dek_version=MAX_DEK_VERSION, content="x" * 64))
    Sidecar.parse(sidecar(wrapped_dek=base64.b64encode(b"x" * MAX_WRAP_BYTES).decode()))


def test_a_blob_without_sidecar_is_one_without_fields() -> None:
    assert Sidecar.parse(b" {} ") == Sidecar()
    assert Sidecar().to_bytes() == b"{}"


def test_the_wrap_is_never_shown() -> None:
    read = Sidecar.parse(json.dumps(FULL | {"copy": WRAP}).encode())
    for text in (repr(read), str(read)):
        assert WRAP not in text
        assert "canary" not in text


# Which key wraps


def key_refusal(data: bytes, legacy_default: KeyVersion | None) -> str:
    with pytest.raises(BadSidecarError) as caught:
        Sidecar.parse(data).wrapped(legacy_default)
    return caught.value.reason_code


@pytest.mark.parametrize("legacy_default", [None, ENV, DPAPI])
def test_a_named_key_wraps_whatever_the_default_is(legacy_default: KeyVersion | None) -> None:
    assert Sidecar.parse(managed()).wrapped(legacy_default) == WrappedKey(KEK, SECRET)
    assert Sidecar.parse(sidecar(key_id="env:OTHER")).wrapped(legacy_default) == WrappedKey(
        KeyVersion("env:OTHER"), b""
    )


@pytest.mark.parametrize(
    "data",
    [b"{}", sidecar(plaintext_size=1), sidecar(key_id="env"), sidecar(provider="env"),
     sidecar(key_id="env", provider="env")],
)  # fmt: skip
def test_a_sidecar_that_names_no_key_is_legacy_only_by_configuration(data: bytes) -> None:
    assert Sidecar.parse(data).wrapped(ENV) == WrappedKey(ENV, b"")
    assert key_refusal(data, None) == "no_key_named"


@pytest.mark.parametrize(
    "data", [sidecar(key_id="dpapi"), sidecar(provider="dpapi"), sidecar(provider="aws")]
)
def test_a_hint_that_disagrees_with_the_default_is_refused(data: bytes) -> None:
    assert key_refusal(data, ENV) == "key_ambiguous"
    assert key_refusal(data, None) == "no_key_named"


def test_a_managed_key_without_a_wrap_is_refused() -> None:
    assert key_refusal(sidecar(key_id=str(KEK)), ENV) == "wrapped_dek_missing"
    assert key_refusal(b"{}", KEK) == "wrapped_dek_missing"
