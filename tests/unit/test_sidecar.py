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

KEK = KeyVersion("hcvault://transit/blob-kek", "3")
ENV = KeyVersion("env:BLOB_KEY")
DPAPI = KeyVersion("dpapi:BLOB_KEY_DPAPI")
SECRET = b"canary: the bytes of a wrap"
WRAP = base64.b64encode(SECRET).decode()
FULL = {
    "key_id": str(KEK),
    "wrapped_dek": WRAP,
    "dek_version": 4,
    "context": {"blob_id": "tenants/7/größe.pdf"},
    "content": "stream-v1",
    "object": "0123456789abcdef" * 2,
    "previous": {"key_id": "env:BLOB_KEY", "wrapped_dek": WRAP},
}


def sidecar(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def managed(**fields: object) -> bytes:
    return sidecar(key_id=str(KEK), wrapped_dek=WRAP, **fields)


def refusal(data: bytes) -> str:
    with pytest.raises(BadSidecarError) as caught:
        Sidecar.parse(data)
    error: BaseException | None = caught.value
    while error is not None:  # neither the message nor what it came from shows the wrap
        assert "canary" not in f"{error} {vars(error)}"
        assert WRAP not in f"{error} {vars(error)}"
        error = error.__cause__ or error.__context__ if not error.__suppress_context__ else None
    return caught.value.reason_code


def nested(levels: int) -> bytes:
    return b'{"x":' + b"[" * levels + b"]" * levels + b"}"


MALFORMED: list[tuple[bytes, str]] = [
    (b"", "sidecar_empty"),
    (b" \r\n\t", "sidecar_empty"),
    (b"{}" + b" " * MAX_SIDECAR_BYTES, "sidecar_too_large"),
    (sidecar(x="x" * MAX_SIDECAR_BYTES), "sidecar_too_large"),
    (b'{"x":"\xff"}', "sidecar_not_utf8"),
    (b'{"x":"\xc3"}', "sidecar_not_utf8"),
    (b'{"x":"\xc0\xaf"}', "sidecar_not_utf8"),
    (b'{"x":"\xed\xa0\x80"}', "sidecar_not_utf8"),
    (managed().decode().encode("utf-16"), "sidecar_not_utf8"),
    (managed().decode().encode("utf-16-be"), "sidecar_not_json"),
    (b"\xef\xbb\xbf" + managed(), "sidecar_has_bom"),
    (b"\0" * 100, "sidecar_not_json"),
    (managed()[:-1], "sidecar_not_json"),
    (managed()[:40], "sidecar_not_json"),
    (managed()[1:], "sidecar_not_json"),
    (managed() + b"}", "sidecar_not_json"),
    (managed() + managed(), "sidecar_not_json"),
    (managed() + b"\0", "sidecar_not_json"),
    (b"{'key_id': 'env:A'}", "sidecar_not_json"),
    (b'{"x":1,}', "sidecar_not_json"),
    (b'{"x":01}', "sidecar_not_json"),
    (b'{"x":+1}', "sidecar_not_json"),
    (b'{"x":.5}', "sidecar_not_json"),
    (b'{"x":0x1f}', "sidecar_not_json"),
    (b'{"x":"a\nb"}', "sidecar_not_json"),
    (b'{"x":"\\q"}', "sidecar_not_json"),
    (b'{"x":1} // why', "sidecar_not_json"),
    (b"{x:1}", "sidecar_not_json"),
    (b'{"x":True}', "sidecar_not_json"),
    (b"[]", "sidecar_not_object"),
    (b"null", "sidecar_not_object"),
    (b"1", "sidecar_not_object"),
    (b'"{}"', "sidecar_not_object"),
    (b"[" + managed() + b"]", "sidecar_not_object"),
    (b'{"key_id":"env:A","key_id":"env:B"}', "sidecar_duplicate_key"),
    (b'{"key_id":"env:A","key\\u005fid":"env:B"}', "sidecar_duplicate_key"),
    (b'{"key_id":"env:A","key_id":"env:A"}', "sidecar_duplicate_key"),
    (b'{"x":{"a":1,"a":1}}', "sidecar_duplicate_key"),
    (b'{"x":[[{"a":1,"b":2,"a":3}]]}', "sidecar_duplicate_key"),
    (b'{"context":{"blob_id":"a","blob_id":"b"}}', "sidecar_duplicate_key"),
    (nested(MAX_DEPTH), "sidecar_nested_too_deep"),
    (nested(900), "sidecar_nested_too_deep"),
    (nested(32_000), "sidecar_nested_too_deep"),
    (b"[" * 65_000, "sidecar_nested_too_deep"),
    (b'{"a":' * 13_000, "sidecar_nested_too_deep"),
    (b'{"x":NaN}', "sidecar_number_out_of_range"),
    (b'{"x":[Infinity]}', "sidecar_number_out_of_range"),
    (b'{"x":-Infinity}', "sidecar_number_out_of_range"),
    (b'{"x":1e400}', "sidecar_number_out_of_range"),
    (b'{"x":-1e400}', "sidecar_number_out_of_range"),
    (b'{"x":' + b"9" * 5_000 + b"}", "sidecar_number_out_of_range"),
    (b'{"dek_version":1e400}', "sidecar_number_out_of_range"),
    (b'{"\\ud800":1}', "sidecar_not_unicode"),
    (b'{"x":"\\ud800"}', "sidecar_not_unicode"),
    (b'{"x":{"y":["\\udc00"]}}', "sidecar_not_unicode"),
    (sidecar(key_id=""), "key_id_malformed"),
    (sidecar(key_id="aws"), "key_id_malformed"),
    (sidecar(key_id="ENV"), "key_id_malformed"),
    (sidecar(key_id="env "), "key_id_malformed"),
    (sidecar(key_id="env:A\n"), "key_id_malformed"),
    (sidecar(key_id="env:A\0"), "key_id_malformed"),
    (sidecar(key_id="https://evil.example/key"), "key_id_malformed"),
    (sidecar(key_id="hcvault://t/k?version=1&region=x"), "key_id_malformed"),
    (sidecar(key_id="env:" + "A" * 2_000), "key_id_malformed"),
    (sidecar(key_id="\ud800"), "key_id_malformed"),
    (sidecar(key_id=None), "field_wrong_type"),
    (sidecar(key_id=1), "field_wrong_type"),
    (sidecar(key_id=["env:A"]), "field_wrong_type"),
    (sidecar(key_id={"id": "env:A"}), "field_wrong_type"),
    (sidecar(provider=None), "field_wrong_type"),
    (sidecar(provider=1), "field_wrong_type"),
    (sidecar(provider=""), "provider_invalid"),
    (sidecar(provider="env\n"), "provider_invalid"),
    (sidecar(provider="ümlaut"), "provider_invalid"),
    (sidecar(provider="dpapi", key_id="env:A"), "provider_contradicts_key_id"),
    (sidecar(provider="dpapi", key_id="env"), "provider_contradicts_key_id"),
    (managed(provider="env"), "provider_contradicts_key_id"),
    (managed(provider="hcvault"), "provider_contradicts_key_id"),
    (sidecar(wrapped_dek=None), "field_wrong_type"),
    (sidecar(wrapped_dek=7), "field_wrong_type"),
    (sidecar(wrapped_dek=[WRAP]), "field_wrong_type"),
    (sidecar(wrapped_dek=""), "wrapped_dek_empty"),
    (sidecar(wrapped_dek="canary"), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AAAA\n"), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek=" AAAA"), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AAAA AAAA"), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AA"), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AA="), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AA==="), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AB=="), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AA==AA=="), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="===="), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AA-_"), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="AAé="), "wrapped_dek_not_base64"),
    (sidecar(wrapped_dek="\ud800"), "wrapped_dek_not_base64"),
    (
        sidecar(wrapped_dek=base64.b64encode(b"x" * (MAX_WRAP_BYTES + 1)).decode()),
        "wrapped_dek_too_long",
    ),
    (sidecar(dek_version=None), "dek_version_invalid"),
    (sidecar(dek_version=True), "dek_version_invalid"),
    (sidecar(dek_version=1.0), "dek_version_invalid"),
    (sidecar(dek_version="1"), "dek_version_invalid"),
    (sidecar(dek_version=-1), "dek_version_invalid"),
    (sidecar(dek_version=MAX_DEK_VERSION + 1), "dek_version_invalid"),
    (sidecar(dek_version=[]), "dek_version_invalid"),
    (sidecar(context=None), "context_invalid"),
    (sidecar(context="blob"), "context_invalid"),
    (sidecar(context=[]), "context_invalid"),
    (sidecar(context={"blob_id": 1}), "context_invalid"),
    (sidecar(context={"blob_id": None}), "context_invalid"),
    (sidecar(context={"blob_id": {"a": "b"}}), "context_invalid"),
    (sidecar(context={"blob_id": "\ud800"}), "context_invalid"),
    (sidecar(context={"\udfff": "a"}), "context_invalid"),
    (sidecar(content=None), "field_wrong_type"),
    (sidecar(content=1), "field_wrong_type"),
    (sidecar(content=""), "content_invalid"),
    (sidecar(content="stream v1"), "content_invalid"),
    (sidecar(content="strëam"), "content_invalid"),
    (sidecar(content="x" * 65), "content_invalid"),
    (sidecar(content="stream-v1\n"), "content_invalid"),
    (sidecar(object=None), "field_wrong_type"),
    (sidecar(object=""), "object_invalid"),
    (sidecar(object="0" * 31), "object_invalid"),
    (sidecar(object="A" * 32), "object_invalid"),
    (sidecar(object="../" + "0" * 29), "object_invalid"),
    (sidecar(object="0" * 32 + "\n"), "object_invalid"),
    (sidecar(previous=None), "previous_invalid"),
    (sidecar(previous="env:A"), "previous_invalid"),
    (sidecar(previous={}), "previous_invalid"),
    (sidecar(previous={"wrapped_dek": WRAP}), "previous_invalid"),
    (sidecar(previous={"key_id": "env"}), "previous_invalid"),
    (sidecar(previous={"key_id": None}), "previous_invalid"),
    (sidecar(previous={"key_id": str(KEK)}), "previous_invalid"),
    (sidecar(previous={"key_id": "env:A", "wrapped_dek": "canary"}), "previous_invalid"),
    (sidecar(previous={"key_id": "env:A", "note": "kept?"}), "previous_invalid"),
    (sidecar(previous={"key_id": "env:A", "previous": {}}), "previous_invalid"),
]


@pytest.mark.parametrize(("data", "reason_code"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_sidecar_is_refused_with_its_reason(data: bytes, reason_code: str) -> None:
    assert refusal(data) == reason_code


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
