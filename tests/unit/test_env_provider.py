import base64
import os
import traceback

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import KeyProvider, RefusedError
from keywrap.providers.env import Encoding, EnvKeyError, EnvKeyProvider, parse_key
from keywrap.testing.kms import ProviderConformance

KEK = bytes(range(32))
CONTEXT = {"blob_id": "a"}
ENV = KeyVersion("env:BLOB_KEY")


def provider_of(scheme: str = "aes-gcm") -> EnvKeyProvider:
    return EnvKeyProvider("BLOB_KEY", DataKey(KEK), scheme)  # type: ignore[arg-type]


class TestEnvKeyProvider(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return provider_of()


def test_a_wrap_is_nonce_ciphertext_and_tag() -> None:
    data_key, nonce = os.urandom(32), os.urandom(12)
    legacy = nonce + AESGCM(KEK).encrypt(nonce, data_key, None)
    assert provider_of().unwrap(WrappedKey(ENV, legacy), CONTEXT) == DataKey(data_key)


@pytest.mark.parametrize("inner", [0, 15, 17, 20, 31, 33, 64])
def test_a_sound_wrap_of_what_is_no_aes_key_is_refused(inner: int) -> None:
    nonce = os.urandom(12)
    wrap = nonce + AESGCM(KEK).encrypt(nonce, bytes(inner), None)
    with pytest.raises(RefusedError) as refused:
        provider_of().unwrap(WrappedKey(ENV, wrap), CONTEXT)
    assert refused.value.reason_code == "wrap_length"


def test_a_wrap_of_another_environment_key_does_not_open() -> None:
    other = EnvKeyProvider("BLOB_KEY", DataKey.generate(), "aes-gcm")
    with pytest.raises(RefusedError) as refused:
        provider_of().unwrap(other.wrap(DataKey.generate(), CONTEXT), CONTEXT)
    assert refused.value.reason_code == "wrap_does_not_open"


def test_a_wrap_binds_no_context() -> None:
    provider, data_key = provider_of(), DataKey.generate()
    assert not provider.binds_context
    assert provider.unwrap(provider.wrap(data_key, CONTEXT), {}) == data_key


def test_a_direct_key_is_itself_the_data_key() -> None:
    provider = provider_of("direct")
    assert provider.unwrap(WrappedKey(ENV, b""), CONTEXT) == DataKey(KEK)
    assert provider.wrap(DataKey(KEK), CONTEXT) == WrappedKey(ENV, b"")


def test_a_direct_key_with_a_wrap_is_refused() -> None:
    wrap = provider_of().wrap(DataKey(KEK), CONTEXT)
    with pytest.raises(RefusedError) as refused:
        provider_of("direct").unwrap(wrap, CONTEXT)
    assert refused.value.reason_code == "direct_key_with_wrap"


def test_a_direct_key_wraps_no_other_key() -> None:
    with pytest.raises(RefusedError) as refused:
        provider_of("direct").wrap(DataKey.generate(), CONTEXT)
    assert refused.value.reason_code == "direct_key_wraps_nothing"


@pytest.mark.parametrize("version", ["env:OTHER", "env:BLOB_KEY?version=1"])
@pytest.mark.parametrize("scheme", ["aes-gcm", "direct"])
def test_a_wrap_that_names_another_key_is_refused(version: str, scheme: str) -> None:
    with pytest.raises(RefusedError) as refused:
        provider_of(scheme).unwrap(WrappedKey(KeyVersion.parse(version), b""), CONTEXT)
    assert refused.value.reason_code == "wrap_of_another_key"


def test_nothing_is_asked_of_a_service() -> None:
    provider = provider_of()
    provider.unwrap(provider.wrap(DataKey.generate(), CONTEXT), CONTEXT)
    assert provider.requests == 0


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("hex", lambda key: key.hex().encode()),
        ("hex", lambda key: key.hex().upper().encode()),
        ("base64", base64.b64encode),
        ("base64url", base64.urlsafe_b64encode),
        ("base64url", lambda key: base64.urlsafe_b64encode(key).rstrip(b"=")),
        ("raw", bytes),
    ],
)
def test_a_key_is_read_in_the_encoding_that_is_configured(
    size: int, encoding: Encoding, encode: object
) -> None:
    key = bytes([251, 255, *range(size - 2)])
    assert callable(encode)
    assert parse_key(encode(key), encoding) == DataKey(key)


def test_the_same_text_is_another_key_in_another_encoding() -> None:
    text = b"0123456789abcdef0123456789abcdef"
    sizes = {
        encoding: len(parse_key(text, encoding).reveal()) for encoding in ("hex", "base64", "raw")
    }
    assert sizes == {"hex": 16, "base64": 24, "raw": 32}


SECRET = b"Zm9vYmFyIHRoaXMgaXMgYSBzZWNyZXQga2V5IQ"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (SECRET, "hex"),
        (KEK.hex().encode() + b"\n", "hex"),
        (b" " + KEK.hex().encode(), "hex"),
        (KEK.hex(" ").encode(), "hex"),
        (b'"' + KEK.hex().encode() + b'"', "hex"),
        (KEK.hex().encode()[:-1], "hex"),
        (base64.b64encode(KEK).rstrip(b"="), "base64"),
        (base64.b64encode(KEK) + b"\n", "base64"),
        (base64.b64encode(b"\xfb" * 32).replace(b"+", b"-"), "base64"),
        (base64.b64encode(b"\xfb" * 32), "base64url"),
        (base64.b64encode(KEK)[:-2] + b"9=", "base64"),
        (SECRET[:20], "raw"),
        (b"", "hex"),
        (b"", "raw"),
    ],
)
def test_what_is_not_written_so_is_refused_and_never_shown(text: bytes, encoding: Encoding) -> None:
    with pytest.raises(EnvKeyError) as refused:
        parse_key(text, encoding)
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    bare = text.strip().decode()
    assert not bare or bare[:8] not in shown


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_an_azure_storage_account_key_is_recognised(encoding: Encoding) -> None:
    with pytest.raises(EnvKeyError, match="Azure storage account key"):
        parse_key(base64.b64encode(os.urandom(64)), encoding)


def test_white_space_is_named_as_the_mistake() -> None:
    with pytest.raises(EnvKeyError, match="white space"):
        parse_key(KEK.hex().encode() + b"\n", "hex")


def test_a_provider_shows_no_key() -> None:
    assert KEK.hex() not in repr(vars(provider_of()))
    assert "hidden" in repr(vars(provider_of()))
