import base64
import dataclasses
import json
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.providers.env import EnvKeyProvider
from keywrap.sidecar import (
    MAX_DEK_VERSION,
    MAX_WRAP_BYTES,
    BadSidecarError,
    Sidecar,
)
from tests.texts import FULL, KEK, sidecar

ENV = KeyVersion("env:BLOB_KEY")
DPAPI = KeyVersion("dpapi:BLOB_KEY_DPAPI")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=8,
)
SPELLINGS = [
    "1.10",
    "1E5",
    "-0",
    "-0.0",
    "100000000000000000000000000000001",
    "0.1000000000000000055511151231257827",
    '"\\u00e9\\/\\n\\ud83d\\udd11"',
    '{ "b" :1 ,\n\t"a": [ ] }',
    "[1 , 2]",
    '""',
    "1e-400",
]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name.casefold() not in {*FULL, "provider"}
)
spelt = st.sampled_from(SPELLINGS) | st.builds(
    json.dumps, json_values, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1])
)


def written(fields: dict[str, str]) -> bytes:
    pairs = (f"{json.dumps(name)} : {value}" for name, value in fields.items())
    return ("{\n" + " ,".join(pairs) + "\n}").encode()


@given(st.dictionaries(names, spelt, max_size=6), st.booleans())
def test_unknown_fields_survive_a_rewrap_byte_for_byte(fields: dict[str, str], first: bool) -> None:  # noqa: FBT001
    ours = {name: json.dumps(value) for name, value in FULL.items()}
    read = Sidecar.parse(written({**fields, **ours} if first else {**ours, **fields}))
    moved = read.rewrapped(WrappedKey(KEK, b"new"), {"blob_id": "b"}, None)
    again = Sidecar.parse(moved.to_bytes())
    assert [(name, bytes(value)) for name, value in again.extra.items()] == [
        (name, value.encode()) for name, value in fields.items()
    ]
    assert again == moved


key_versions = st.sampled_from(
    [KEK, ENV, DPAPI, KeyVersion("aws-kms://arn:aws:kms:a:1:key/x", "m")]
)
wrapped_keys = st.builds(WrappedKey, key_versions, st.binary(min_size=1, max_size=80))
sidecars = st.builds(
    Sidecar,
    key_version=st.none() | key_versions,
    ciphertext=st.binary(max_size=100),
    dek_version=st.integers(0, MAX_DEK_VERSION),
    context=st.none() | st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]))),
    content=st.none() | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
    object=st.none() | st.from_regex(r"\A[0-9a-f]{32}\Z"),
    previous=st.none() | wrapped_keys,
    extra=st.dictionaries(names, spelt.map(lambda text: msgspec.Raw(text.encode())), max_size=3),
)


@given(sidecars)
def test_what_is_written_is_read_back_the_same(original: Sidecar) -> None:
    data = original.to_bytes()
    read = Sidecar.parse(data)
    assert read == original
    assert list(read.extra) == list(original.extra)
    assert read.to_bytes() == data


@given(sidecars, wrapped_keys, st.none() | wrapped_keys)
def test_a_rewrap_changes_the_wrap_and_nothing_else(
    original: Sidecar, wrapped: WrappedKey, previous: WrappedKey | None
) -> None:
    if original.dek_version == MAX_DEK_VERSION:
        return
    moved = original.rewrapped(wrapped, {"blob_id": "a"}, previous)
    assert moved.wrapped(None) == wrapped
    assert moved.dek_version == original.dek_version + 1
    assert moved.context == {"blob_id": "a"}
    assert moved.previous == previous
    for name in ("content", "object", "extra", "provider"):
        assert getattr(moved, name) == getattr(original, name)


def test_the_canonical_form_has_a_fixed_order() -> None:
    scrambled = dict(reversed(FULL.items())) | {"z": 1, "a": 2, "provider": "vault"}
    data = Sidecar.parse(json.dumps(scrambled).encode()).to_bytes()
    assert list(json.loads(data)) == [
        "key_id", "wrapped_dek", "provider", "dek_version", "context", "content", "object",
        "previous", "z", "a",
    ]  # fmt: skip
    assert b'"blob_id":"tenants/7/gr\xc3\xb6\xc3\x9fe.pdf"' in data


@pytest.mark.parametrize(
    ("changes", "reason_code"),
    [
        ({"key_version": KeyVersion("hcvault://transit/no spaces", "1")}, "key_id_malformed"),
        ({"key_version": KeyVersion("hcvault://transit/kek?version=3")}, "sidecar_ambiguous"),
        ({"ciphertext": b"x" * (MAX_WRAP_BYTES + 1)}, "wrapped_dek_too_long"),
        ({"dek_version": MAX_DEK_VERSION + 1}, "dek_version_invalid"),
        ({"provider": "aws"}, "provider_contradicts_key_id"),
        ({"content": "two words"}, "content_invalid"),
        ({"object": "../escape"}, "object_invalid"),
        ({"previous": WrappedKey(KEK, b"")}, "previous_invalid"),
        ({"extra": {"x": msgspec.Raw(b'"' + b"x" * 65_500 + b'"')}}, "sidecar_too_large"),
        ({"extra": {"x": msgspec.Raw(b"1,")}}, "sidecar_not_json"),
        ({"extra": {"dek_version": msgspec.Raw(b"9")}}, "sidecar_ambiguous"),
    ],
)
def test_what_could_not_be_read_back_is_never_written(
    changes: dict[str, Any], reason_code: str
) -> None:
    good = Sidecar.parse(json.dumps(FULL).encode())
    with pytest.raises(BadSidecarError) as caught:
        dataclasses.replace(good, **changes).to_bytes()
    assert caught.value.reason_code == reason_code


def test_a_provider_field_follows_the_new_key() -> None:
    for data in (sidecar(provider="env"), sidecar(provider="env", key_id="env:BLOB_KEY")):
        moved = Sidecar.parse(data).rewrapped(WrappedKey(KEK, b"new"), {}, WrappedKey(ENV, b""))
        assert json.loads(moved.to_bytes())["provider"] == "vault"
        back = moved.rewrapped(WrappedKey(ENV, b""), {}, None)
        assert json.loads(back.to_bytes()) == {
            "provider": "env", "key_id": "env:BLOB_KEY", "dek_version": 2, "context": {},
        }  # fmt: skip


def test_a_version_that_cannot_grow_is_an_error() -> None:
    last = Sidecar(dek_version=MAX_DEK_VERSION)
    with pytest.raises(BadSidecarError) as caught:
        last.rewrapped(WrappedKey(KEK, b"new"), {}, None)
    assert caught.value.reason_code == "dek_version_invalid"


@pytest.mark.parametrize("in_base64", [True, False])
def test_a_fernet_token_is_read_as_it_is_or_in_base64_and_opens_to_its_data_key(
    *, in_base64: bool
) -> None:
    key = Fernet.generate_key()
    data_key = DataKey.generate()
    provider = EnvKeyProvider.from_text("OLD", key, "base64url", "fernet")
    for _ in range(20):  # about one token in 60 has no sign in which the two alphabets differ
        token = Fernet(key).encrypt(data_key.reveal())
        text = base64.b64encode(token) if in_base64 else token
        read = Sidecar.parse(
            json.dumps({"key_id": "env:OLD", "wrapped_dek": text.decode()}).encode()
        )
        assert provider.unwrap(read.wrapped(None), {}) == data_key
        assert Sidecar.parse(read.to_bytes()) == read


@pytest.mark.parametrize("text", ["gAAAA-+A", "gAAAA_/A", "gAAAA-B=", "gAAAA-\n_", "gAAA-A=="])
def test_what_only_begins_like_a_token_is_refused(text: str) -> None:
    with pytest.raises(BadSidecarError) as refused:
        Sidecar.parse(json.dumps({"key_id": "env:OLD", "wrapped_dek": text}).encode())
    assert refused.value.reason_code == "wrapped_dek_not_base64"


@pytest.mark.parametrize("name", ["KEY_ID", "Key_Id", "Wrapped_DEK", "DEK_version", "Previous"])
def test_a_field_that_some_reader_would_take_for_one_of_the_wraps_is_refused(name: str) -> None:
    with pytest.raises(BadSidecarError) as refused:
        Sidecar.parse(json.dumps(FULL | {name: "env:OTHER"}).encode())
    assert refused.value.reason_code == "sidecar_ambiguous"
