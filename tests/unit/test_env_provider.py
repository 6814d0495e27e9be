import base64
import os
import traceback
from typing import ClassVar, get_args

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import KeyProvider, RefusedError
from keywrap.providers.env import Encoding, EnvKeyError, EnvKeyProvider, parse_key
from keywrap.providers.env_schemes import BINDING_SCHEMES, Scheme
from keywrap.providers.passphrase import Pbkdf2Sha256
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


class TestTagFirst(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return provider_of("aes-gcm-tag-first")


class TestIv16(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return provider_of("aes-gcm-iv16")


class TestAesKw(ProviderConformance):
    known_gaps: ClassVar = {"test_two_wraps_of_one_key_differ": "RFC 3394 draws nothing"}

    @pytest.fixture
    def provider(self) -> KeyProvider:
        return provider_of("aes-kw")


class TestAesKwp(ProviderConformance):
    known_gaps: ClassVar = {"test_two_wraps_of_one_key_differ": "RFC 5649 draws nothing"}

    @pytest.fixture
    def provider(self) -> KeyProvider:
        return provider_of("aes-kwp")


class TestFernet(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return provider_of("fernet")


class TestBoundToTheBlobId(ProviderConformance):
    known_gaps: ClassVar = {
        "test_the_order_of_a_context_does_not_matter": "takes a blob id and nothing else"
    }

    @pytest.fixture
    def provider(self) -> KeyProvider:
        return EnvKeyProvider("BLOB_KEY", DataKey(KEK), "aes-gcm", aad="dek:{blob_id}")


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


@pytest.mark.parametrize("scheme", sorted(BINDING_SCHEMES))
def test_a_wrap_made_with_the_blob_id_opens_for_that_blob_only(scheme: Scheme) -> None:
    provider = EnvKeyProvider("BLOB_KEY", DataKey(KEK), scheme, aad="v1/{blob_id}/dek")
    data_key = DataKey.generate()
    wrapped = provider.wrap(data_key, {"blob_id": "Zoë/{blob_id}"})
    assert provider.binds_context
    assert provider.unwrap(wrapped, {"blob_id": "Zoë/{blob_id}"}) == data_key
    assert refusal(provider, wrapped, {"blob_id": "Zoë"}) == "wrap_does_not_open"
    assert refusal(provider, wrapped, {}) == "context_not_blob_id"
    assert refusal(provider, wrapped, {"blob_id": "Zoë/{blob_id}", "x": ""}) == (
        "context_not_blob_id"
    )


def refusal(provider: EnvKeyProvider, wrapped: WrappedKey, context: dict[str, str]) -> str:
    with pytest.raises(RefusedError) as refused:
        provider.unwrap(wrapped, context)
    return refused.value.reason_code


def test_additional_data_is_the_template_with_the_blob_id_in_utf_8() -> None:
    nonce, data_key = os.urandom(12), os.urandom(32)
    wrap = nonce + AESGCM(KEK).encrypt(nonce, data_key, "v1/Zoë".encode())
    provider = EnvKeyProvider("BLOB_KEY", DataKey(KEK), "aes-gcm", aad="v1/{blob_id}")
    assert provider.unwrap(WrappedKey(ENV, wrap), {"blob_id": "Zoë"}) == DataKey(data_key)


def test_additional_data_without_the_blob_id_binds_no_context() -> None:
    provider = EnvKeyProvider("BLOB_KEY", DataKey(KEK), "aes-gcm", aad="blob-dek-v1")
    wrapped = provider.wrap(DataKey(KEK), CONTEXT)
    assert not provider.binds_context
    assert provider.unwrap(wrapped, {}) == DataKey(KEK)
    assert refusal(provider_of(), wrapped, CONTEXT) == "wrap_does_not_open"


@pytest.mark.parametrize("aad", ["{", "{blob}", "{blob_id}{blob_id}", "{0}", "a}", "{{blob_id}}"])
def test_a_template_has_one_placeholder_and_no_other_brace(aad: str) -> None:
    with pytest.raises(EnvKeyError, match="at most one"):
        EnvKeyProvider("BLOB_KEY", DataKey(KEK), "aes-gcm", aad=aad)


@pytest.mark.parametrize("scheme", sorted(set(get_args(Scheme)) - BINDING_SCHEMES))
def test_a_scheme_that_binds_nothing_takes_no_additional_data(scheme: Scheme) -> None:
    with pytest.raises(EnvKeyError, match="takes no additional data"):
        EnvKeyProvider("BLOB_KEY", DataKey(KEK), scheme, aad="{blob_id}")


def test_a_key_may_be_the_sha256_of_its_text() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert parse_key(b"abc", "sha256-of-text") == DataKey(bytes.fromhex(expected))


def test_a_passphrase_and_a_derivation_come_together() -> None:
    for encoding, kdf in (("passphrase", None), ("hex", Pbkdf2Sha256(b"", 1, 32))):
        with pytest.raises(EnvKeyError, match="derivation"):
            parse_key(KEK.hex().encode(), encoding, kdf)  # type: ignore[arg-type]
