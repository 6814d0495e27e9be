import os

import pytest

from keywrap.datakey import DataKey
from keywrap.elsewhere import ElsewhereKeyProvider
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import DeniedError, KeyProvider, RefusedError
from keywrap.providers.dpapi import DpapiKeyProvider, Inner
from keywrap.testing.dpapi import LOCAL_MACHINE, TDES_SHA1, Account, WrappingDpapiProvider
from keywrap.testing.kms import ProviderConformance

CONTEXT = {"blob_id": "a"}


class TestCurrentUser(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return WrappingDpapiProvider()


class TestLocalMachineWithEntropy(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return WrappingDpapiProvider(Account(entropy=b"app entropy", flags=LOCAL_MACHINE))


class TestTripleDes(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return WrappingDpapiProvider(Account(suite=TDES_SHA1))


class TestTripleDesWithEntropyAndText(ProviderConformance):
    @pytest.fixture
    def provider(self) -> KeyProvider:
        return WrappingDpapiProvider(Account(entropy=b"\0", suite=TDES_SHA1), "utf16-hex")


def refusal(provider: KeyProvider, wrapped: WrappedKey) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        provider.unwrap(wrapped, CONTEXT)
    assert refused.value.key == provider.key
    return refused.value


def reading(account: Account, entropy: bytes | None = None, inner: Inner = "raw") -> KeyProvider:
    """Return the provider as an installation has it."""
    given = account.entropy if entropy is None else entropy
    return DpapiKeyProvider(account.guid, account.ring(), given, inner)


def test_no_new_wrap_is_made_under_dpapi() -> None:
    with pytest.raises(DeniedError) as denied:
        reading(Account()).wrap(DataKey.generate(), CONTEXT)
    assert denied.value.reason_code == "legacy_key_wraps_nothing"


@pytest.mark.parametrize("inner", ["raw", "hex", "base64", "utf16-hex", "utf16-base64"])
@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_data_key_is_read_as_it_is_written_inside_the_blob(inner: Inner, size: int) -> None:
    writer, data_key = WrappingDpapiProvider(inner=inner), DataKey(os.urandom(size))
    wrapped = writer.wrap(data_key, CONTEXT)
    assert reading(writer.account, inner=inner).unwrap(wrapped, CONTEXT) == data_key


@pytest.mark.parametrize(
    ("held", "inner"),
    [
        (b"", "raw"),
        (bytes(15), "raw"),
        (bytes(33), "raw"),
        (bytes(44), "raw"),  # a KDBM header and a key
        (b"00" * 32, "raw"),  # text of a key is no key
        (bytes(64), "raw"),
        (bytes(32), "hex"),
        (b"00" * 33, "hex"),
        (b"00" * 32 + b"\n", "hex"),
        (b"00" * 32, "utf16-hex"),
        (("00" * 32).encode("utf-16-le") + b"\0", "utf16-hex"),
        (("00" * 32 + "\0").encode("utf-16-le"), "utf16-hex"),
        ("é".encode("utf-16-le"), "utf16-hex"),
        (b"\0\xd8", "utf16-base64"),
        (b"AAAA", "base64"),
    ],
)
def test_what_is_no_aes_key_written_so_is_refused_and_never_shown(
    held: bytes, inner: Inner
) -> None:
    account = Account()
    version = KeyVersion(f"dpapi:{account.guid}")
    error = refusal(reading(account, inner=inner), WrappedKey(version, account.protect(held)))
    assert error.reason_code == "inner_key_malformed"
    assert f'inner = "{inner}"' in str(error)
    shown = f"{error} {error.__cause__!r}"
    assert len(held) < 8 or held.decode("latin-1")[:8] not in shown
    assert error.__cause__ is None


def test_wrong_entropy_wrong_master_key_and_damage_have_reasons_of_their_own() -> None:
    account = Account(entropy=b"app")
    wrapped = WrappingDpapiProvider(account).wrap(DataKey.generate(), CONTEXT)
    flipped = bytearray(wrapped.ciphertext)
    flipped[-100] ^= 1
    damaged = WrappedKey(wrapped.key_version, bytes(flipped))
    cut = WrappedKey(wrapped.key_version, wrapped.ciphertext[:-1])
    stranger = DpapiKeyProvider(account.guid, Account().ring(), b"app")
    bare = Account(account.guid, account.master_key)
    plain = WrappedKey(wrapped.key_version, bare.protect(bytes(32)))
    right = reading(account)
    assert refusal(reading(account, b"other"), wrapped).reason_code == "dpapi_does_not_open"
    assert refusal(right, damaged).reason_code == "dpapi_does_not_open"
    assert refusal(right, cut).reason_code == "dpapi_malformed"
    assert refusal(right, plain).reason_code == "dpapi_entropy_not_used"
    assert refusal(stranger, wrapped).reason_code == "dpapi_master_key_missing"
    assert account.guid in str(refusal(stranger, wrapped))


def test_a_blob_of_another_master_key_is_refused_whatever_its_label_says() -> None:
    mine, other = Account(), Account()
    ring = mine.ring().with_keys({g: other.ring()._keys[g] for g in other.ring()})
    provider = DpapiKeyProvider(mine.guid, ring)
    wrapped = WrappedKey(provider.current_version(), other.protect(bytes(32)))
    error = refusal(provider, wrapped)
    assert error.reason_code == "wrap_of_another_key"
    assert other.guid in str(error)


def test_a_provider_shows_no_secret() -> None:
    account = Account(entropy=b"app entropy")
    provider = reading(account)
    assert "app entropy" not in repr(provider)
    assert repr(account.entropy) not in repr(account)
    assert account.master_key.hex()[:8] not in repr(account)


def test_a_key_of_other_hosts_is_refused_with_the_queue_it_belongs_to() -> None:
    provider: KeyProvider = ElsewhereKeyProvider("dpapi:x", "win-7")
    wrapped = WrappedKey(provider.current_version(), b"x")
    error = refusal(provider, wrapped)
    assert error.reason_code == "key_elsewhere"
    assert "'win-7'" in str(error)
    with pytest.raises(DeniedError):
        provider.wrap(DataKey.generate(), CONTEXT)
    assert (provider.requests, provider.binds_context, provider.proves_wraps) == (0, False, False)
