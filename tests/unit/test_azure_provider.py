import io
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import CredentialUnavailableError
from azure.keyvault.keys.crypto import KeyWrapAlgorithm
from requests.adapters import BaseAdapter, HTTPAdapter

from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    BatchingKeyProvider,
    DeniedError,
    KeyProvider,
    KmsError,
    RefusedError,
    ServerSideRewrap,
    ThrottledError,
    UnavailableError,
    VersionCreator,
    VersionOrder,
    VersionSwitch,
)
from keywrap.providers import azure_canary, azure_client, azure_payload, calls, version_history
from keywrap.providers.azure import AzureKeyProvider
from keywrap.providers.azure_client import AmbientToken, AzureAccess, StaticToken, VaultClient
from keywrap.providers.azure_errors import translate
from keywrap.providers.azure_names import Algorithm, AzureKeyName
from keywrap.tables.azure import open_provider, read
from keywrap.tables.common import ConfigError
from keywrap.tables.keys import read_keys
from keywrap.testing.azure_vault import Corruption, StrictVault, VaultError
from keywrap.testing.azure_vault_hook import VaultAdapter
from keywrap.testing.kms import ProviderConformance
from tests.forks import holds_in_fork
from tests.kmschecks import CONTEXT, DATA_KEY, SECRET, forms, hides, shown

HOST, HSM = "my-vault.vault.azure.net", "my-hsm.managedhsm.azure.net"
NAME, AES_NAME = f"{HOST}/keys/blob-kek", f"{HSM}/keys/blob-kek"
UNKNOWN = "0123456789abcdef" * 2


class World:
    """A reference vault, and providers that ask it through the vendor's client."""

    def __init__(self, host: str = HOST) -> None:
        self.vault = StrictVault(host)
        self.adapter: BaseAdapter = VaultAdapter(self.vault)
        self.clients: list[int] = []

    def client(self, count: Callable[[], None] = lambda: None) -> VaultClient:
        self.clients.append(os.getpid())
        name = AzureKeyName(self.vault.host, "blob-kek")
        return VaultClient(
            name, AzureAccess(), count, credential=StaticToken(), adapter=self.adapter
        )

    def provider(self, algorithm: Algorithm = "RSA-OAEP-256") -> AzureKeyProvider:
        kty = "RSA" if algorithm == "RSA-OAEP-256" else "oct-HSM"
        self.vault.create_key("blob-kek", kty)
        return AzureKeyProvider(
            f"{self.vault.host}/keys/blob-kek", self.client, algorithm=algorithm
        )

    def asked(self) -> list[str]:
        return [event.operation for event in self.vault.trail]

    def fail(self, status: int, code: str = "injected", **options: Any) -> None:
        planned = {name: options.pop(name) for name in ("times", "operation") if name in options}
        self.vault.faults.fail_next(VaultError(status, code, **options), **planned)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def provider(world: World) -> AzureKeyProvider:
    return known(world, world.provider())


def known(world: World, provider: AzureKeyProvider) -> AzureKeyProvider:
    """Return a provider that has asked before, so that a test sees its own requests only."""
    provider.current_version()
    world.vault.trail.clear()
    return provider


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.05)
    monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)


def made(results: Sequence[Any]) -> Sequence[Any]:
    """Return what a batch made; raise the first error in it."""
    for each in results:
        if isinstance(each, KmsError):
            raise each
    return results


class TestAzureRsa(ProviderConformance):
    items = 200

    @pytest.fixture
    def provider(self) -> KeyProvider:
        return World().provider()


class TestAzureAesKeyWrap(ProviderConformance):
    items = 200

    @pytest.fixture
    def provider(self) -> KeyProvider:
        return World(HSM).provider("A256KW")


class TestAzureAesGcm(ProviderConformance):
    items = 200

    @pytest.fixture
    def provider(self) -> KeyProvider:
        self.world = World(HSM)
        return self.world.provider("A256GCM")

    def corrupt_next_wrap(self, provider: KeyProvider) -> None:
        del provider
        self.world.vault.faults.corrupt_next(Corruption.ANOTHER_DATA_KEY, operation="encrypt")


def test_it_batches_orders_and_switches_versions_and_has_no_rewrap(
    provider: AzureKeyProvider,
) -> None:
    for kind in (BatchingKeyProvider, VersionCreator, VersionOrder, VersionSwitch):
        assert isinstance(provider, kind)
    assert not isinstance(provider, ServerSideRewrap)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "authority"),
        [
            (NAME, "login.microsoftonline.com"),
            (AES_NAME, "login.microsoftonline.com"),
            ("v-2.vault.azure.cn/keys/K", "login.chinacloudapi.cn"),
            ("v-2.vault.usgovcloudapi.net/keys/K-1", "login.microsoftonline.us"),
        ],
    )
    def test_a_key_of_any_cloud_is_named_and_asks_its_own_authority(
        self, name: str, authority: str
    ) -> None:
        parsed = AzureKeyName.parse(name)
        assert parsed.authority == authority
        key = KeyVersion.parse(f"azure-kv://{parsed}?version={UNKNOWN}")
        assert key == KeyVersion(f"azure-kv://{name}", UNKNOWN)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "my-vault/keys/blob-kek",
            "evil.example/keys/blob-kek",
            "my-vault.vault.azure.net.evil.example/keys/blob-kek",
            "a.b.vault.azure.net/keys/blob-kek",
            "MY-VAULT.vault.azure.net/keys/blob-kek",
            NAME + "/" + UNKNOWN,
            NAME + "\n",
            NAME.replace("keys", "secrets"),
            f"https://{NAME}",
        ],
    )
    def test_anything_else_names_no_key(self, world: World, name: str) -> None:
        with pytest.raises(ValueError, match="a key of Azure is named"):
            AzureKeyProvider(name, world.client)

    @pytest.mark.parametrize("algorithm", ["A256KW", "A256GCM"])
    def test_a_vault_has_no_aes_keys(self, world: World, algorithm: Algorithm) -> None:
        with pytest.raises(ValueError, match="for a Managed HSM"):
            AzureKeyProvider(NAME, world.client, algorithm=algorithm)

    def test_a_vault_writes_a_name_as_it_was_created(self) -> None:
        name = AzureKeyName(HOST, "blob-kek")
        assert name.version_of(f"https://{HOST}/keys/Blob-KEK/{UNKNOWN}") == UNKNOWN
        for kid in (None, "", f"https://{HOST}/keys/blob-kek", f"https://{HOST}/keys/b/{UNKNOWN}"):
            assert not name.version_of(kid)


class TestPayload:
    VERSION = KeyVersion(f"azure-kv://{NAME}", UNKNOWN)

    def test_its_length_suits_aes_key_wrap_and_rsa_for_every_aes_key(self) -> None:
        for size in (16, 24, 32):
            payload = azure_payload.seal(DataKey(bytes(size)), self.VERSION, CONTEXT)
            assert len(payload) == size + 56
            assert len(payload) % 8 == 0
            opened = azure_payload.open_payload(payload, self.VERSION, CONTEXT)
            assert opened == DataKey(bytes(size))

    def test_a_byte_that_is_altered_anywhere_opens_nothing_else(self) -> None:
        payload = azure_payload.seal(DATA_KEY, self.VERSION, CONTEXT)
        for place in range(len(payload)):
            altered = bytearray(payload)
            altered[place] ^= 1
            opened = azure_payload.open_payload(bytes(altered), self.VERSION, CONTEXT)
            # The key's own bytes are the wrap's to authenticate: nothing else may be altered.
            inside_key = 24 <= place < 56
            assert isinstance(opened, DataKey) == inside_key
        for size in range(len(payload)):
            opened = azure_payload.open_payload(payload[:size], self.VERSION, CONTEXT)
            assert opened == azure_payload.MALFORMED

    def test_a_known_payload_opens_for_ever(self) -> None:
        key, salt = bytes(range(32)), bytes(range(16))
        version = KeyVersion("azure-kv://v.vault.azure.net/keys/k", "ab" * 16)
        digest = azure_payload._digest(salt, version, {"blob_id": "ä", "a": "1"})
        payload = b"KWBIND1\x20" + salt + key + digest
        assert azure_payload.open_payload(payload, version, {"a": "1", "blob_id": "ä"}) == DataKey(
            key
        )
        assert digest.hex() == KNOWN_DIGEST

    def test_another_blob_version_or_key_is_told_from_nonsense(self) -> None:
        payload = azure_payload.seal(DATA_KEY, self.VERSION, CONTEXT)
        for version, context in (
            (self.VERSION, {"blob_id": "other"}),
            (KeyVersion(self.VERSION.key, UNKNOWN[::-1]), CONTEXT),
            (KeyVersion(self.VERSION.key + "2", UNKNOWN), CONTEXT),
        ):
            opened = azure_payload.open_payload(payload, version, context)
            assert opened == azure_payload.BOUND_ELSEWHERE


KNOWN_DIGEST = "dc6e8b010e6cf444c1089ce2e97e6edcc91a44ec49f47955d4eda17e03f249ef"


class TestTrapsOfTheClient:
    """What the vendor's client does to who uses it the obvious way, and does not do to us."""

    def test_it_wraps_with_an_aes_key_that_it_made_up(self) -> None:
        world = World(HSM)
        provider = known(world, world.provider("A256KW"))
        version = provider.current_version().version
        vault = world.client()
        obvious = vault.keys.get_cryptography_client("blob-kek", key_version=version)
        lost = obvious.wrap_key(KeyWrapAlgorithm.aes_256, SECRET)
        assert "wrapkey" not in world.asked(), "mended: the reason for `VaultClient.post` is gone"
        wrapped = WrappedKey(KeyVersion(provider.key, version), lost.encrypted_key)
        with pytest.raises(RefusedError):
            provider.unwrap(wrapped, CONTEXT)
        provider.wrap(DATA_KEY, CONTEXT)
        assert world.asked()[-1] == "wrapkey"

    def test_without_a_version_it_stays_with_the_one_it_met_first(self, world: World) -> None:
        provider = known(world, world.provider())
        obvious = world.client().keys.get_cryptography_client("blob-kek")
        first = obvious.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, SECRET).key_id
        newer = world.vault.rotate("blob-kek")
        assert obvious.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, SECRET).key_id == first
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == newer
        for wrapped in made(provider.wrap_many([(DATA_KEY, CONTEXT)] * 3)):
            assert wrapped.key_version.version == newer

    def test_without_keys_get_it_loses_the_version_and_we_make_no_wrap(self, world: World) -> None:
        provider = known(world, world.provider())
        world.vault.deny("get")
        obvious = world.client().keys.get_cryptography_client("blob-kek")
        lost = obvious.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, SECRET)
        assert lost.key_id == f"https://{NAME}"
        with pytest.raises(DeniedError, match="keys/get"):
            provider.wrap(DATA_KEY, CONTEXT)

    def test_a_failure_to_wrap_here_sends_the_data_key_nowhere(
        self, world: World, provider: AzureKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ValueError("no such padding")

        local = "azure.keyvault.keys.crypto._providers.rsa.RsaCryptographyProvider.wrap_key"
        monkeypatch.setattr(local, broken)
        with pytest.raises(UnavailableError, match="ValueError") as failed:
            provider.wrap(DATA_KEY, CONTEXT)
        assert hides(failed.value)
        assert set(world.asked()) == {"get"}


class TestWrapping:
    def test_rsa_wraps_here_and_asks_once_for_a_batch(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        wraps = made(provider.wrap_many([(DATA_KEY, CONTEXT)] * 50))
        assert world.asked() == ["get"]
        assert not provider.proves_wraps
        world.vault.trail.clear()
        assert provider.unwrap_many([(each, CONTEXT) for each in wraps]) == [DATA_KEY] * 50
        assert Counter(world.asked()) == {"unwrapkey": 50}

    def test_every_request_about_a_wrap_names_the_version(self) -> None:
        for algorithm in ("A256KW", "A256GCM"):
            world = World(HSM)
            provider = world.provider(algorithm)
            old = provider.wrap(DATA_KEY, CONTEXT)
            provider.create_version()
            provider.unwrap(old, CONTEXT)
            named = [event.version for event in world.vault.trail if event.operation in OPENING]
            assert named == [old.key_version.version] * 2

    def test_a_public_key_of_somebody_else_gives_a_wrap_that_the_proof_finds(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        world.vault.faults.corrupt_next(Corruption.ANOTHER_PUBLIC_KEY, operation="get")
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        with pytest.raises(RefusedError):
            provider.unwrap(wrapped, CONTEXT)

    @pytest.mark.usefixtures("_no_patience")
    @pytest.mark.parametrize(
        "corruption",
        [
            Corruption.WRONG_KID,
            Corruption.NO_KID,
            Corruption.NO_VALUE,
            Corruption.NOT_BASE64,
            Corruption.NOT_JSON,
        ],
    )
    @pytest.mark.parametrize("algorithm", ["A256KW", "A256GCM"])
    def test_a_corrupt_answer_gives_no_wrap_and_no_data_key(
        self, algorithm: Algorithm, corruption: Corruption
    ) -> None:
        world = World(HSM)
        provider = known(world, world.provider(algorithm))
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        for operation, act in (
            ("wrapkey" if algorithm == "A256KW" else "encrypt", lambda: wrap(provider)),
            (
                "unwrapkey" if algorithm == "A256KW" else "decrypt",
                lambda: provider.unwrap(wrapped, CONTEXT),
            ),
        ):
            world.vault.faults.corrupt_next(corruption, times=50, operation=operation)
            with pytest.raises(UnavailableError) as malformed:
                act()
            assert hides(malformed.value)
            world.vault.faults.clear()

    @pytest.mark.usefixtures("_no_patience")
    def test_a_key_of_another_name_is_not_wrapped_under(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        world.vault.faults.corrupt_next(Corruption.WRONG_KID, times=50, operation="get")
        with pytest.raises(UnavailableError) as malformed:
            provider.wrap(DATA_KEY, CONTEXT)
        assert malformed.value.reason_code == "answer_malformed"

    def test_a_rotation_that_is_not_seen_yet_gives_a_wrap_that_says_so(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        old, new = provider.current_version(), provider.create_version()
        world.vault.faults.corrupt_next(Corruption.STALE_CURRENT, operation="get")
        stale = provider.wrap(DATA_KEY, CONTEXT)
        assert stale.key_version == old
        assert not KeyRing([provider]).reaches(stale.key_version, new)
        assert provider.unwrap(stale, CONTEXT) == DATA_KEY

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"enabled": False}, "version_disabled"),
            ({"expires": 1}, "key_expired"),
            ({"not_before": 4102444800}, "key_not_yet_valid"),
            ({"key_ops": ("sign",)}, "key_usage"),
            ({"kty": "EC"}, "key_kind"),
        ],
    )
    def test_a_version_that_may_not_wrap_makes_no_wrap_though_that_is_done_here(
        self, world: World, provider: AzureKeyProvider, change: dict[str, Any], reason: str
    ) -> None:
        for name, value in change.items():
            setattr(world.vault.version("blob-kek"), name, value)
        for act in (provider.current_version, lambda: wrap(provider)):
            with pytest.raises(DeniedError) as denied:
                act()
            assert denied.value.reason_code == reason


OPENING = {"wrapkey", "unwrapkey", "encrypt", "decrypt"}


def wrap(provider: AzureKeyProvider) -> WrappedKey:
    return provider.wrap(DATA_KEY, CONTEXT)


class TestUnwrapping:
    def relabelled(self, wrapped: WrappedKey, version: str) -> WrappedKey:
        return WrappedKey(KeyVersion(wrapped.key_version.key, version), wrapped.ciphertext)

    def test_a_bad_wrap_is_told_from_a_bad_key_by_a_canary_and_one_for_many(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        good = wrap(provider)
        bad = WrappedKey(good.key_version, bytes(256))
        world.vault.trail.clear()
        opened = provider.unwrap_many([(bad, CONTEXT), (good, CONTEXT)] * 20)
        assert [type(each) for each in opened] == [RefusedError, DataKey] * 20
        assert Counter(world.asked()) == {"unwrapkey": 41, "get": 1}

    def test_a_canary_is_not_believed_for_long(
        self, world: World, provider: AzureKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = WrappedKey(wrap(provider).key_version, bytes(256))
        monkeypatch.setattr(azure_canary, "SOUND_FOR_S", 0.0)
        for _ in range(2):
            world.vault.trail.clear()
            with pytest.raises(RefusedError):
                provider.unwrap(bad, CONTEXT)
            assert world.asked() == ["unwrapkey", "get", "unwrapkey"]

    def test_a_key_that_opens_nothing_blocks_and_quarantines_nothing(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        wrapped = wrap(provider)
        world.fail(400, "BadParameter", times=100, operation="unwrapkey")
        for act in (
            lambda: provider.unwrap(wrapped, CONTEXT),
            lambda: made(provider.unwrap_many([(wrapped, CONTEXT)] * 5)),
        ):
            with pytest.raises(DeniedError) as denied:
                act()
            assert denied.value.reason_code == "key_opens_nothing"

    def test_an_algorithm_that_the_key_has_not_blocks(self) -> None:
        world = World(HSM)
        wrapped = world.provider("A256KW").wrap(DATA_KEY, CONTEXT)
        rsa = AzureKeyProvider(AES_NAME, world.client)
        gcm = AzureKeyProvider(AES_NAME, world.client, algorithm="A256GCM")
        with pytest.raises(DeniedError) as denied:
            rsa.unwrap(wrapped, CONTEXT)
        assert denied.value.reason_code == "key_kind"
        with pytest.raises(RefusedError):
            gcm.unwrap(wrapped, CONTEXT)

    def test_a_wrap_under_a_version_that_is_none_is_refused_and_a_missing_key_denied(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        wrapped = wrap(provider)
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(self.relabelled(wrapped, UNKNOWN), CONTEXT)
        assert refused.value.reason_code == "wrap_version_unknown"
        world.vault.delete_key("blob-kek")
        for version in (wrapped.key_version.version, UNKNOWN):
            with pytest.raises(DeniedError) as denied:
                provider.unwrap(self.relabelled(wrapped, version), CONTEXT)
            assert denied.value.reason_code == "key_not_found"

    def test_unknown_versions_of_hostile_sidecars_cost_few_requests(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        wrapped = wrap(provider)
        world.vault.trail.clear()
        items = [(self.relabelled(wrapped, f"{number:032x}"), CONTEXT) for number in range(50)]
        opened = provider.unwrap_many(items)
        assert {type(each) for each in opened} == {RefusedError}
        assert Counter(world.asked())["list"] == 1

    def test_a_wrap_that_another_version_made_is_refused(self, provider: AzureKeyProvider) -> None:
        old = wrap(provider)
        new = provider.create_version()
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(self.relabelled(old, new.version), CONTEXT)
        assert refused.value.reason_code == "wrap_does_not_open"
        assert hides(refused.value, old.ciphertext)

    @pytest.mark.parametrize("version", ["", "1", UNKNOWN.upper(), UNKNOWN[1:], UNKNOWN + "0"])
    def test_a_wrap_that_names_no_version_is_refused_without_a_request(
        self, world: World, provider: AzureKeyProvider, version: str
    ) -> None:
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(WrappedKey(KeyVersion(provider.key, version), bytes(256)), CONTEXT)
        assert refused.value.reason_code == "wrap_version_unknown"
        assert not world.vault.trail

    @pytest.mark.parametrize("size", [0, 513])
    def test_what_cannot_be_a_wrap_is_refused_without_a_request(
        self, world: World, provider: AzureKeyProvider, size: int
    ) -> None:
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(WrappedKey(KeyVersion(provider.key, UNKNOWN), bytes(size)), CONTEXT)
        assert refused.value.reason_code == "wrap_length"
        assert not world.vault.trail

    @pytest.mark.parametrize(
        "inner", [b"", b"KWBIND1", bytes(32), b"KWBIND1\x20" + bytes(80), bytes(160)]
    )
    def test_what_anybody_can_wrap_with_the_public_key_is_refused(
        self, world: World, provider: AzureKeyProvider, inner: bytes
    ) -> None:
        version = world.vault.version("blob-kek")
        sealed = version.seal("wrapkey", "RSA-OAEP-256", inner, b"")["value"]
        wrapped = WrappedKey(KeyVersion(provider.key, version.id), sealed)
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(wrapped, CONTEXT)
        assert refused.value.reason_code in {"inner_malformed", "wrap_bound_elsewhere"}
        assert hides(refused.value)

    def test_a_wrap_that_is_moved_to_another_blob_says_so(self, provider: AzureKeyProvider) -> None:
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(wrap(provider), {"blob_id": "other"})
        assert refused.value.reason_code == "wrap_bound_elsewhere"

    @pytest.mark.parametrize("size", [0, 15, 33, 64])
    def test_gcm_of_what_is_no_aes_key_is_refused(self, size: int) -> None:
        world = World(HSM)
        provider = known(world, world.provider("A256GCM"))
        version = world.vault.version("blob-kek")
        aad = b'{"blob_id":"tenants/7/invoice.pdf"}'
        sealed = version.seal("encrypt", "A256GCM", bytes(size), aad)
        ciphertext = sealed["iv"] + sealed["value"] + sealed["tag"]
        wrapped = WrappedKey(KeyVersion(provider.key, version.id), ciphertext)
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(wrapped, CONTEXT)
        assert refused.value.reason_code == "inner_malformed"

    def test_a_reader_needs_no_right_to_wrap(self, world: World) -> None:
        wrapped = world.provider().wrap(DATA_KEY, CONTEXT)
        for operation in ("wrapkey", "get", "list"):
            world.vault.deny(operation)
        assert world.provider().unwrap(wrapped, CONTEXT) == DATA_KEY


ERRORS = [
    (401, "", "Unauthorized", DeniedError, "credentials_refused"),
    (403, "ForbiddenByRbac", "Caller", DeniedError, "permission_denied"),
    (403, "AccessDenied", "Caller", DeniedError, "permission_denied"),
    (403, "KeyDisabled", "disabled key", DeniedError, "version_disabled"),
    (
        403,
        "",
        "Operation unwrapKey is not allowed on a disabled key.",
        DeniedError,
        "version_disabled",
    ),
    (403, "", "Operation wrapKey is not allowed on an expired key.", DeniedError, "key_expired"),
    (403, "ForbiddenByFirewall", "Client address", DeniedError, "network_denied"),
    (409, "Conflict", "is being deleted", DeniedError, "key_invalid_state"),
    (405, "", "x", DeniedError, "request_refused"),
    (429, "Throttled", "x", ThrottledError, "kms_throttled"),
    (408, "", "x", UnavailableError, "kms_unavailable"),
    (500, "", "x", UnavailableError, "kms_unavailable"),
    (502, "", "x", UnavailableError, "kms_unavailable"),
    (503, "", "x", UnavailableError, "kms_unavailable"),
    (504, "", "x", UnavailableError, "kms_unavailable"),
    (302, "", "x", UnavailableError, "kms_unavailable"),
]


@pytest.mark.usefixtures("_no_patience")
class TestErrors:
    @pytest.mark.parametrize(("status", "inner", "text", "kind", "reason"), ERRORS)
    def test_each_status_is_one_of_the_kinds_and_its_text_is_not_repeated(
        self,
        world: World,
        provider: AzureKeyProvider,
        status: int,
        inner: str,
        text: str,
        kind: type[KmsError],
        reason: str,
    ) -> None:
        wrapped = wrap(provider)
        for operation, act in (
            ("unwrapkey", lambda: provider.unwrap(wrapped, CONTEXT)),
            ("get", provider.current_version),
        ):
            world.vault.trail.clear()
            world.fail(status, "Code", message=f"{text} {forms(SECRET)[1]}", inner=inner, times=100)
            with pytest.raises(kind) as failed:
                act()
            assert failed.value.reason_code == reason
            assert failed.value.key == provider.key
            assert f"({operation}, HTTP {status}" in str(failed.value)
            assert hides(failed.value, wrapped.ciphertext)
            assert failed.value.__cause__ is failed.value.__context__ is None
            if kind is DeniedError:
                assert len(world.asked()) <= 1 + (status == 401)  # a challenge is answered
            if kind is UnavailableError:
                assert 1 < len(world.asked()) <= calls.ATTEMPTS, "one hiccup is retried, by us"
            world.vault.faults.clear()

    def test_no_frame_of_an_error_holds_the_data_key(self) -> None:
        world = World(HSM)
        provider = known(world, world.provider("A256GCM"))
        world.fail(503, times=100, operation="encrypt")
        with pytest.raises(UnavailableError) as away:
            wrap(provider)
        assert "DataKey(hidden)" in shown(away.value), "it shows no local variables"
        assert hides(away.value)

    @pytest.mark.parametrize(
        ("operation", "act"),
        [
            ("get", AzureKeyProvider.current_version),
            ("rotate", AzureKeyProvider.create_version),
            ("list", lambda provider: provider.is_newer(UNKNOWN, UNKNOWN[::-1])),
            ("update", lambda provider: provider.enable_version(provider.current_version())),
            ("unwrapKey", lambda provider: provider.unwrap(wrap(provider), CONTEXT)),
        ],
    )
    def test_a_missing_permission_is_named(
        self,
        world: World,
        provider: AzureKeyProvider,
        operation: str,
        act: Callable[[AzureKeyProvider], object],
    ) -> None:
        world.vault.deny(operation.lower())
        with pytest.raises(DeniedError, match=f"no permission for keys/{operation}") as denied:
            act(provider)
        assert denied.value.reason_code == "permission_denied"

    def test_a_token_that_is_refused_blocks(self, world: World, provider: AzureKeyProvider) -> None:
        world.vault.refuses_tokens = True
        with pytest.raises(DeniedError) as denied:
            provider.current_version()
        assert denied.value.reason_code == "credentials_refused"

    @pytest.mark.parametrize(
        ("error", "kind", "reason"),
        [
            (CredentialUnavailableError("x"), DeniedError, "credentials_missing"),
            (ClientAuthenticationError("x"), DeniedError, "credentials_refused"),
            (HttpResponseError("x"), UnavailableError, "kms_unavailable"),
            (OSError("x"), UnavailableError, "kms_unavailable"),
        ],
    )
    def test_trouble_with_credentials_is_one_of_the_kinds(
        self, error: Exception, kind: type[KmsError], reason: str
    ) -> None:
        translated = translate(error, "unwrapkey", f"azure-kv://{NAME}")
        assert (type(translated), translated.reason_code) == (kind, reason)

    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b'{"error": null}', b"<html>", b"\xff\xfe\x00"]
    )
    def test_an_answer_of_no_form_says_no_more_than_its_status(
        self, world: World, provider: AzureKeyProvider, body: bytes
    ) -> None:
        answering = Answering(403, body)
        world.adapter = answering
        with pytest.raises(DeniedError) as denied:
            world.provider().current_version()
        assert denied.value.reason_code == "permission_denied"
        answering.status = 200
        for act in (world.provider().current_version, lambda: wrap(world.provider())):
            with pytest.raises(UnavailableError) as malformed:
                act()
            assert hides(malformed.value)
        del provider

    @pytest.mark.parametrize(
        "kind",
        [requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout, OSError],
    )
    def test_a_broken_connection_waits_and_its_error_holds_no_request(
        self, world: World, kind: type[Exception]
    ) -> None:
        wrapped = wrap(world.provider())
        world.adapter = Answering(0, b"", kind())
        with pytest.raises(UnavailableError) as away:
            world.provider().unwrap(wrapped, CONTEXT)
        assert away.value.reason_code == "kms_unavailable"
        assert hides(away.value, wrapped.ciphertext)

    def test_another_vault_s_challenge_gets_no_token(self, world: World) -> None:
        answering = Answering(401, b"{}")
        answering.headers["WWW-Authenticate"] = (
            'Bearer authorization="https://login.evil.example/t", resource="https://evil.example"'
        )
        world.adapter = answering
        world.vault.host = "another-vault.vault.azure.net"  # the client remembers challenges
        with pytest.raises(UnavailableError, match="ValueError"):
            world.provider().current_version()
        assert all("Authorization" not in sent for sent in answering.sent)

    def test_in_a_batch_a_refusal_is_its_item_s_own_and_another_error_ends_it(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        items = [(wrap(provider), CONTEXT)] * 100
        world.fail(400, "BadParameter", operation="unwrapkey")
        kinds = Counter(type(each) for each in provider.unwrap_many(items))
        assert kinds == {DataKey: 99, RefusedError: 1}
        world.vault.trail.clear()
        world.fail(403, times=1000)
        assert {type(each) for each in provider.unwrap_many(items)} == {DeniedError}
        assert len(world.asked()) <= azure_client.DEFAULT_THREADS


class Answering(BaseAdapter):
    """A vault that gives one and the same answer to everything."""

    def __init__(self, status: int, body: bytes, error: Exception | None = None) -> None:
        super().__init__()
        self.status, self.body, self.error = status, body, error
        self.headers = {"Content-Type": "application/json"}
        self.sent: list[dict[str, str]] = []

    def send(self, request: Any, **_: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(dict(request.headers))
        if self.error:
            raise self.error
        response = requests.Response()
        response.request, response.url, response.status_code = request, request.url, self.status
        response.headers.update(self.headers)
        response.raw = io.BytesIO(self.body)
        return response

    def close(self) -> None:
        pass


class TestThrottling:
    def test_without_retry_after_a_batch_goes_on_at_the_quota(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        items = [(wrap(provider), CONTEXT)] * 150
        world.vault.faults.limit_rate(100)
        world.vault.trail.clear()
        began = time.monotonic()
        made(provider.unwrap_many(items))
        assert 1.2 < time.monotonic() - began < 8
        throttled = sum(event.status == 429 for event in world.vault.trail)
        assert 0 < throttled < 75, "the threads keep running against the quota"

    def test_with_retry_after_nothing_is_sent_until_then(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        items = [(wrap(provider), CONTEXT)] * 60
        world.fail(429, retry_after="1", operation="unwrapkey")
        began = time.monotonic()
        made(provider.unwrap_many(items))
        assert time.monotonic() - began > 0.9

    @pytest.mark.parametrize("after", ["3600", "60", "5"])
    def test_a_rest_longer_than_our_patience_is_the_fleet_s_to_take(
        self, world: World, provider: AzureKeyProvider, monkeypatch: pytest.MonkeyPatch, after: str
    ) -> None:
        monkeypatch.setattr(calls, "MOST_THROTTLED_FOR_S", 0.2)
        world.fail(429, retry_after=after, times=1000)
        began = time.monotonic()
        with pytest.raises(ThrottledError):
            provider.current_version()
        assert time.monotonic() - began < 1
        assert len(world.asked()) == 1

    @pytest.mark.usefixtures("_no_patience")
    @pytest.mark.parametrize("after", ["", "soon", "-1", "Tue, 24 Nov 2026 00:00:00 GMT"])
    def test_what_is_throttled_for_long_says_so(
        self, world: World, provider: AzureKeyProvider, after: str
    ) -> None:
        wrapped = wrap(provider)
        world.fail(429, retry_after=after, times=10_000)
        results = provider.unwrap_many([(wrapped, CONTEXT)] * 20)
        assert {type(each) for each in results} == {ThrottledError}


class TestVersions:
    def test_a_lost_reply_never_rotates_twice(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        world.vault.faults.lose_next_reply(operation="rotate")
        new = provider.create_version()
        assert new.version == world.vault.version("blob-kek").id
        assert world.asked().count("rotate") == 1

    @pytest.mark.parametrize("status", [500, 503, 504, 408])
    def test_a_rotation_that_is_not_seen_is_not_reported_as_done(
        self, world: World, provider: AzureKeyProvider, status: int
    ) -> None:
        world.fail(status, operation="rotate")
        with pytest.raises(UnavailableError) as unseen:
            provider.create_version()
        assert unseen.value.reason_code == "rotation_not_seen"
        assert world.asked().count("rotate") == 1

    def test_a_key_that_has_expired_is_rotated(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        world.vault.version("blob-kek").expires = 1
        assert provider.create_version() == provider.current_version()

    def test_a_disabled_version_opens_nothing_until_it_is_enabled(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        wrapped = wrap(provider)
        provider.create_version()
        for _ in range(2):  # done already is done
            provider.disable_version(wrapped.key_version)
        with pytest.raises(DeniedError) as denied:
            provider.unwrap(wrapped, CONTEXT)
        assert denied.value.reason_code == "version_disabled"
        world.vault.faults.lose_next_reply(operation="update")
        provider.enable_version(wrapped.key_version)
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY

    def test_the_current_version_is_not_disabled(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        with pytest.raises(DeniedError) as denied:
            provider.disable_version(provider.current_version())
        assert denied.value.reason_code == "version_is_current"
        assert "update" not in world.asked()

    def test_only_versions_of_this_key_are_switched(self, provider: AzureKeyProvider) -> None:
        for version, reason in (
            (KeyVersion(provider.key, UNKNOWN), "key_not_found"),
            (KeyVersion(provider.key, ""), "version_not_found"),
            (KeyVersion(provider.key + "-other", UNKNOWN), "version_not_found"),
        ):
            for switch in (provider.disable_version, provider.enable_version):
                with pytest.raises(DeniedError) as denied:
                    switch(version)
                assert denied.value.reason_code == reason

    def test_the_order_is_read_once_page_by_page(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        versions = [provider.current_version().version]
        versions += [world.vault.rotate("blob-kek") for _ in range(60)]
        world.vault.trail.clear()
        for older, newer in pairwise(versions):
            assert provider.is_newer(newer, than=older)
            assert not provider.is_newer(older, than=newer)
        assert Counter(world.asked()) == {"get": 1, "list": 3}

    def test_unknown_versions_cost_one_look_in_30_seconds(
        self, world: World, provider: AzureKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        current = provider.current_version().version
        world.vault.trail.clear()
        for number in range(50):
            assert not provider.is_newer(f"{number:032x}", than=current)
        assert world.asked().count("list") == 1
        unseen = world.vault.rotate("blob-kek")
        assert not provider.is_newer(unseen, than=current)
        monkeypatch.setattr(version_history, "ASK_AGAIN_S", 0.0)
        assert provider.is_newer(unseen, than=current)

    def test_of_two_that_one_second_made_neither_is_newer_but_the_newest_of_all_is(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        first, second = provider.current_version().version, world.vault.rotate("blob-kek")
        third = world.vault.rotate("blob-kek")
        for version in (second, third):
            world.vault.version("blob-kek", version).created = world.vault.version(
                "blob-kek", first
            ).created
        assert not provider.is_newer(second, than=first)
        assert not provider.is_newer(first, than=second)
        assert provider.is_newer(third, than=first)
        assert provider.is_newer(third, than=second)

    def test_the_current_version_is_never_remembered(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        provider.current_version()
        new = world.vault.rotate("blob-kek")
        assert provider.current_version().version == new


class TestProcesses:
    def test_threads_share_one_client_and_every_request_is_counted_challenges_too(
        self, world: World
    ) -> None:
        world.vault.host = "counted-vault.vault.azure.net"  # the client remembers challenges
        provider = world.provider()
        wraps = made(provider.wrap_many([(DATA_KEY, CONTEXT)] * 100))
        made(provider.unwrap_many([(each, CONTEXT) for each in wraps]))
        assert len(world.clients) == 1
        assert Counter(world.asked()) == {"challenge": 1, "get": 1, "unwrapkey": 100}
        assert provider.requests == 102

    def test_a_forked_child_has_a_client_threads_and_locks_of_its_own(
        self, world: World, provider: AzureKeyProvider
    ) -> None:
        items = [(wrap(provider), CONTEXT)] * 8
        provider.unwrap_many(items)
        before = len(world.clients)
        bad = WrappedKey(items[0][0].key_version, bytes(256))
        # Held while the process forks, as another thread would: in the child, for ever.
        process = provider._connection._process.get()
        with process.lock, provider._history._lock.get(), provider._canaries._lock.get():
            assert holds_in_fork(
                lambda: (
                    provider.unwrap_many(items) == [DATA_KEY] * 8
                    and world.clients[before:] == [os.getpid()]
                    and not provider.is_newer(UNKNOWN, UNKNOWN[::-1])
                    and isinstance(provider.unwrap_many([(bad, CONTEXT)])[0], RefusedError)
                )
            )
        provider.unwrap_many(items)
        assert len(world.clients) == before


def test_a_lost_reply_is_asked_for_again(world: World, provider: AzureKeyProvider) -> None:
    wrapped = wrap(provider)
    world.vault.trail.clear()
    world.vault.faults.lose_next_reply(operation="unwrapkey")
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
    assert world.asked() == ["unwrapkey"] * 2


@pytest.mark.parametrize("algorithm", ["RSA-OAEP-256", "A256KW", "A256GCM"])
def test_nothing_logs_a_data_key_or_a_wrap_however_talkative_the_process_is(
    monkeypatch: pytest.MonkeyPatch, algorithm: Algorithm
) -> None:
    world = World(HOST if algorithm == "RSA-OAEP-256" else HSM)
    provider = known(world, world.provider(algorithm))
    written = io.StringIO()

    class Everything(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return repr({**vars(record), "said": record.getMessage()})

    handler = logging.StreamHandler(written)
    handler.setFormatter(Everything())
    for name in ("", *logging.root.manager.loggerDict):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    try:
        wrapped = wrap(provider)
        provider.unwrap(wrapped, CONTEXT)
        logging.getLogger("azure.core").warning("still heard")
    finally:
        monkeypatch.undo()
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    shown_text = written.getvalue()
    assert "still heard" in shown_text
    for secret in (SECRET, wrapped.ciphertext):
        assert not [form for form in forms(secret) if form in shown_text]


class TestRoad:
    def test_no_environment_variable_chooses_the_road(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, "/nowhere")
        sent: list[tuple[str, dict[str, Any]]] = []

        def send(_self: object, request: Any, **options: Any) -> None:
            sent.append((request.url, options))
            raise requests.exceptions.ConnectionError("stopped here")

        monkeypatch.setattr(HTTPAdapter, "send", send)
        name = AzureKeyName.parse(NAME)
        vault = VaultClient(name, AzureAccess(timeout_s=7), lambda: None, credential=StaticToken())
        provider = AzureKeyProvider(NAME, lambda _count: vault)
        with pytest.raises(UnavailableError):
            provider.current_version()
        url, options = sent[0]
        assert url.startswith(f"https://{HOST}/keys/blob-kek/?api-version=")
        assert not options["proxies"]
        assert options["verify"] is True
        assert options["timeout"] == (3.0, 7)

    def test_the_authority_is_that_of_the_vault_s_cloud(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.evil.example")
        asked: list[str] = []

        def credential(*, authority: str) -> StaticToken:
            asked.append(authority)
            return StaticToken()

        monkeypatch.setattr(azure_client, "DefaultAzureCredential", credential)
        token = AmbientToken(AzureKeyName.parse("v-2.vault.azure.cn/keys/k").authority)
        assert not asked, "looked for before it is needed"
        token.get_token("scope")
        token.get_token("scope")
        assert asked == ["login.chinacloudapi.cn"]

    @pytest.mark.parametrize("error", [ValueError("half"), FileNotFoundError("cert.pem")])
    def test_credentials_that_are_configured_halfway_block(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def credential(*, authority: str) -> StaticToken:
            del authority
            raise error

        monkeypatch.setattr(azure_client, "DefaultAzureCredential", credential)
        with pytest.raises(CredentialUnavailableError):
            AmbientToken("login.microsoftonline.com").get_token("scope")

    def test_over_a_loopback_endpoint_no_real_token_goes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def credential(**_: object) -> StaticToken:
            raise AssertionError("a credential is looked for")

        monkeypatch.setattr(azure_client, "DefaultAzureCredential", credential)
        sent: list[Any] = []
        answering = Answering(403, b"{}")

        def send(_self: object, request: Any, **_: Any) -> requests.Response:
            sent.append((request.url, request.headers["Host"]))
            return answering.send(request)

        monkeypatch.setattr(HTTPAdapter, "send", send)
        keys = read_keys({"azure": {NAME: {"endpoint": "http://127.0.0.1:8443"}}})
        with pytest.raises(DeniedError):
            keys.open(f"azure-kv://{NAME}", {}).current_version()
        assert sent[0][0].startswith("http://127.0.0.1:8443/keys/blob-kek/")
        assert sent[0][1] == HOST


class TestTable:
    def test_a_table_may_be_empty_and_makes_a_provider(self) -> None:
        keys = read_keys({"azure": {NAME: {}}, "primary": f"azure-kv://{NAME}"})
        assert keys.open(f"azure-kv://{NAME}", {}).key == f"azure-kv://{NAME}"

    @pytest.mark.parametrize("algorithm", ["RSA-OAEP-256", "A256KW", "A256GCM"])
    def test_a_managed_hsm_has_every_algorithm(self, algorithm: str) -> None:
        keys = read_keys({"azure": {AES_NAME: {"algorithm": algorithm}}})
        assert keys.open(f"azure-kv://{AES_NAME}", {}).key == f"azure-kv://{AES_NAME}"

    @pytest.mark.parametrize(
        ("name", "table", "said"),
        [
            ("blob-kek", {}, "a key of Azure is named"),
            (NAME + "/" + UNKNOWN, {}, "a key of Azure is named"),
            (NAME, {"client_secret": "SECRET-ONE"}, "unknown field"),
            (NAME, {"algorithm": "RSA1_5"}, "expected one of RSA-OAEP-256, A256KW, A256GCM"),
            (NAME, {"algorithm": "A256KW"}, "for a Managed HSM"),
            (NAME, {"timeout_s": 0}, "timeout_s"),
            (NAME, {"threads": 0}, "threads"),
            (NAME, {"endpoint": "http://vault.internal"}, "in clear"),
            (NAME, {"endpoint": "https://vault.internal"}, "reached by its own name"),
            (NAME, {"endpoint": "http://127.0.0.1:1/path"}, "only"),
        ],
    )
    def test_a_mistake_is_named_and_no_value_repeated(
        self, name: str, table: dict[str, object], said: str
    ) -> None:
        with pytest.raises(ConfigError, match=said) as refused:
            read(name, table)
        assert "SECRET-ONE" not in str(refused.value)

    def test_a_certificate_file_that_is_not_there_is_found_at_the_start(self) -> None:
        with pytest.raises(ConfigError, match="ca_file"):
            open_provider(NAME, {NAME: read(NAME, {"ca_file": "/nowhere"})}, {})

    @pytest.mark.parametrize("missing", ["azure.keyvault.keys", "azure.identity"])
    def test_a_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
        package = sys.modules["keywrap.providers"]
        for name in [each for each in sys.modules if each.startswith("keywrap.providers.azure")]:
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(package, name.rpartition(".")[2])
        monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"keywrap\[azure\]") as refused:
            open_provider(NAME, {NAME: read(NAME, {})}, {})
        assert refused.value.next_command == "pip install 'keywrap[azure]'"
