import io
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import google.auth
import grpc
import pytest
from google.auth import exceptions as auth_errors
from google.cloud.kms_v1 import CryptoKey, KeyManagementServiceClient
from grpc import StatusCode

from keywrap.datakey import DataKey
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
    VersionSwitch,
)
from keywrap.providers import calls, gcp, gcp_client, gcp_versions
from keywrap.providers.gcp import GcpKeyProvider
from keywrap.providers.gcp_client import GcpAccess, kms_client
from keywrap.providers.gcp_errors import translate
from keywrap.tables.common import ConfigError
from keywrap.tables.gcp import open_provider, read
from keywrap.tables.keys import read_keys
from keywrap.testing.gcp_kms import CloudKmsError, Corruption, StrictCloudKms
from keywrap.testing.gcp_kms_keys import VersionState
from keywrap.testing.gcp_kms_server import GcpKmsServer
from keywrap.testing.kms import ProviderConformance
from tests.kmschecks import CONTEXT, DATA_KEY, SECRET, forms, hides, shown

NAME = "projects/my-project/locations/europe-west1/keyRings/blobs/cryptoKeys/blob-kek"


class World:
    """A reference KMS behind gRPC, and providers that ask it through the vendor's client."""

    def __init__(self) -> None:
        self.kms = StrictCloudKms()
        self.server = GcpKmsServer(self.kms)
        self.clients = 0
        self.client = kms_client(GcpAccess(self.server.address))

    def make_client(self) -> KeyManagementServiceClient:
        self.clients += 1
        return self.client

    def provider(self, name: str = NAME, **options: Any) -> GcpKeyProvider:
        self.kms.create_key(name)
        return GcpKeyProvider(name, self.make_client, **options)

    def asked(self) -> list[str]:
        return [event.operation for event in self.kms.trail]

    def fail(self, code: StatusCode, text: str = "injected", **options: Any) -> None:
        self.kms.faults.fail_next(CloudKmsError(code, text), **options)

    def close(self) -> None:
        self.client.transport.close()
        self.server.stop()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def provider(world: World) -> GcpKeyProvider:
    provider = world.provider()
    provider.current_version()
    world.kms.trail.clear()
    return provider


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.05)
    monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)


def made(results: list[Any]) -> list[Any]:
    """Return what a batch made; raise the first error in it."""
    for each in results:
        if isinstance(each, KmsError):
            raise each
    return results


class TestGcpKeyProvider(ProviderConformance):
    items = 200

    @pytest.fixture
    def provider(self, world: World) -> KeyProvider:
        self.world = world
        return world.provider()

    def corrupt_next_wrap(self, provider: KeyProvider) -> None:
        del provider
        self.world.kms.faults.corrupt_next(Corruption.ANOTHER_DATA_KEY, operation="Encrypt")


def test_it_batches_and_switches_versions_and_has_no_rewrap(provider: GcpKeyProvider) -> None:
    for kind in (BatchingKeyProvider, VersionCreator, VersionSwitch):
        assert isinstance(provider, kind)
    assert not isinstance(provider, ServerSideRewrap)


@pytest.mark.parametrize(
    "name",
    [
        NAME.replace("my-project", "example.com:my-project"),
        NAME.replace("europe-west1", "global"),
        NAME.replace("blob-kek", "Blob_KEK-2"),
    ],
)
def test_a_key_may_have_any_name_that_google_gives(world: World, name: str) -> None:
    provider = world.provider(name)
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    assert KeyVersion.parse(str(wrapped.key_version)) == KeyVersion(f"gcp-kms://{name}", "1")
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blob-kek",
        NAME + "/cryptoKeyVersions/1",
        NAME + "\n",
        "/" + NAME,
        NAME + "/..",
        NAME[1:],
    ],
)
def test_anything_else_names_no_key(world: World, name: str) -> None:
    with pytest.raises(ValueError, match="a key of Cloud KMS is named"):
        GcpKeyProvider(name, world.make_client)


class TestWrapping:
    def test_the_version_is_named_and_the_primary_is_never_trusted(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        provider.unwrap(wrapped, CONTEXT)
        assert [event.name for event in world.kms.trail] == [f"{NAME}/cryptoKeyVersions/1", NAME]

    def test_it_is_the_primary_of_ten_seconds_ago_at_most(
        self, world: World, provider: GcpKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.kms.rotate(NAME)
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == "1"
        assert world.asked() == ["Encrypt"], "reads of a key have a small quota"
        monkeypatch.setattr(gcp, "PRIMARY_FOR_S", 0.0)
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == "2"

    def test_a_look_at_the_current_version_is_never_remembered_and_moves_the_wraps(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.rotate(NAME)
        assert provider.current_version().version == "2"
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == "2"

    def test_a_version_that_is_disabled_meanwhile_is_forgotten(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.rotate(NAME)
        world.kms.key(NAME).versions[1].state = VersionState.DISABLED
        with pytest.raises(DeniedError):
            provider.wrap(DATA_KEY, CONTEXT)
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == "2"

    @pytest.mark.usefixtures("_no_patience")
    @pytest.mark.parametrize(
        "corruption",
        [
            Corruption.WRONG_NAME,
            Corruption.ALTERED,
            Corruption.NO_CHECKSUM,
            Corruption.NOT_VERIFIED,
        ],
    )
    def test_a_corrupt_answer_gives_no_wrap_and_is_asked_for_again(
        self, world: World, provider: GcpKeyProvider, corruption: Corruption
    ) -> None:
        world.kms.faults.corrupt_next(corruption, operation="Encrypt")
        assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY
        for wrap in (
            lambda: provider.wrap(DATA_KEY, CONTEXT),
            lambda: made(provider.wrap_many([(DATA_KEY, CONTEXT)] * 2)),
        ):
            world.kms.faults.corrupt_next(corruption, times=50, operation="Encrypt")
            with pytest.raises(UnavailableError) as malformed:
                wrap()
            assert malformed.value.reason_code == "answer_malformed"
            assert hides(malformed.value)
            world.kms.faults.clear()

    def test_every_checksum_is_sent(self, world: World, provider: GcpKeyProvider) -> None:
        seen: list[Any] = []
        original = world.kms.answer

        def answer(operation: str, request: Any) -> Any:
            seen.append(request)
            return original(operation, request)

        world.kms.answer = answer  # type: ignore[method-assign]
        provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)
        encrypt, decrypt = seen
        assert encrypt.plaintext_crc32c is not None
        assert encrypt.additional_authenticated_data_crc32c is not None
        assert decrypt.ciphertext_crc32c is not None
        assert decrypt.additional_authenticated_data_crc32c is not None

    def test_a_request_that_was_damaged_on_its_way_is_no_bad_wrap(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        text = "The checksum in field ciphertext_crc32c did not match the data in field ciphertext."
        world.fail(StatusCode.INVALID_ARGUMENT, text)
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY


class TestUnwrapping:
    def test_a_wrap_under_another_version_than_it_names_is_refused(
        self, provider: GcpKeyProvider
    ) -> None:
        old = provider.wrap(DATA_KEY, CONTEXT)
        new = provider.create_version()
        for label, wrapped in ((new, old), (old.key_version, provider.wrap(DATA_KEY, CONTEXT))):
            with pytest.raises(RefusedError) as refused:
                provider.unwrap(WrappedKey(label, wrapped.ciphertext), CONTEXT)
            assert refused.value.reason_code == "wrap_does_not_open"
            assert hides(refused.value, wrapped.ciphertext)

    def test_what_other_software_wrapped_without_the_version_is_refused(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        for aad in (b"", b'{"blob_id":"tenants/7/invoice.pdf"}'):
            answer = world.client.encrypt(
                request={"name": NAME, "plaintext": SECRET, "additional_authenticated_data": aad}
            )
            wrapped = WrappedKey(provider.current_version(), answer.ciphertext)
            with pytest.raises(RefusedError):
                provider.unwrap(wrapped, CONTEXT)

    def test_no_context_can_be_made_to_look_like_another_with_a_version(
        self, provider: GcpKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, {"a": 'b"}\n1'})
        with pytest.raises(RefusedError):
            provider.unwrap(wrapped, {"a": "b"})

    @pytest.mark.parametrize("version", ["", "0", "01", "v1", "-1", "1 ", "1" * 10])
    def test_a_wrap_that_names_no_version_is_refused_without_a_request(
        self, world: World, provider: GcpKeyProvider, version: str
    ) -> None:
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(WrappedKey(KeyVersion(provider.key, version), bytes(72)), CONTEXT)
        assert refused.value.reason_code == "wrap_version_unknown"
        assert not world.kms.trail

    @pytest.mark.parametrize("size", [0, 8193])
    def test_what_cannot_be_a_wrap_is_refused_without_a_request(
        self, world: World, provider: GcpKeyProvider, size: int
    ) -> None:
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(WrappedKey(KeyVersion(provider.key, "1"), bytes(size)), CONTEXT)
        assert refused.value.reason_code == "wrap_length"
        assert not world.kms.trail

    @pytest.mark.parametrize("size", [0, 1, 15, 31, 33, 64])
    def test_a_wrap_of_what_is_no_aes_key_is_refused(
        self, world: World, provider: GcpKeyProvider, size: int
    ) -> None:
        key = world.kms.key(NAME)
        ciphertext = key.seal(key.versions[1], SECRET[:1] * size, gcp._bound(CONTEXT, "1"))
        with pytest.raises(RefusedError, match=f"{size} bytes") as refused:
            provider.unwrap(WrappedKey(KeyVersion(provider.key, "1"), ciphertext), CONTEXT)
        assert refused.value.reason_code == "inner_key_length"

    @pytest.mark.usefixtures("_no_patience")
    @pytest.mark.parametrize("corruption", [Corruption.ALTERED, Corruption.NO_CHECKSUM])
    def test_a_corrupt_answer_gives_no_data_key(
        self, world: World, provider: GcpKeyProvider, corruption: Corruption
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.faults.corrupt_next(corruption, operation="Decrypt")
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
        world.kms.faults.corrupt_next(corruption, times=50, operation="Decrypt")
        with pytest.raises(UnavailableError) as malformed:
            provider.unwrap(wrapped, CONTEXT)
        assert malformed.value.reason_code == "answer_malformed"
        assert hides(malformed.value, SECRET[:-1])


ERRORS = [
    (StatusCode.PERMISSION_DENIED, DeniedError, "permission_denied"),
    (StatusCode.UNAUTHENTICATED, DeniedError, "credentials_refused"),
    (StatusCode.NOT_FOUND, DeniedError, "key_not_found"),
    (StatusCode.FAILED_PRECONDITION, DeniedError, "key_invalid_state"),
    (StatusCode.INVALID_ARGUMENT, DeniedError, "request_refused"),
    (StatusCode.UNIMPLEMENTED, DeniedError, "request_refused"),
    (StatusCode.OUT_OF_RANGE, DeniedError, "request_refused"),
    (StatusCode.RESOURCE_EXHAUSTED, ThrottledError, "kms_throttled"),
    (StatusCode.UNAVAILABLE, UnavailableError, "kms_unavailable"),
    (StatusCode.DEADLINE_EXCEEDED, UnavailableError, "kms_unavailable"),
    (StatusCode.INTERNAL, UnavailableError, "kms_unavailable"),
    (StatusCode.ABORTED, UnavailableError, "kms_unavailable"),
    (StatusCode.UNKNOWN, UnavailableError, "kms_unavailable"),
    (StatusCode.CANCELLED, UnavailableError, "kms_unavailable"),
    (StatusCode.DATA_LOSS, UnavailableError, "kms_unavailable"),
]


@pytest.mark.usefixtures("_no_patience")
class TestErrors:
    @pytest.mark.parametrize(("code", "kind", "reason"), ERRORS)
    def test_each_code_is_one_of_the_kinds_and_its_text_is_not_repeated(
        self,
        world: World,
        provider: GcpKeyProvider,
        code: StatusCode,
        kind: type[KmsError],
        reason: str,
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        for act in (
            lambda: provider.unwrap(wrapped, CONTEXT),
            lambda: provider.wrap(DATA_KEY, CONTEXT),
            provider.current_version,
        ):
            provider._found("1")  # a wrap that failed forgets it
            world.kms.trail.clear()
            world.fail(code, f"echo {forms(SECRET)[1]}", times=100)
            with pytest.raises(kind) as failed:
                act()
            assert failed.value.reason_code == reason
            assert failed.value.key == provider.key
            assert code.name in str(failed.value)
            assert hides(failed.value, wrapped.ciphertext)
            assert failed.value.__cause__ is failed.value.__context__ is None
            if kind is DeniedError:
                assert len(world.asked()) == 1
            if kind is UnavailableError:
                assert len(world.asked()) <= calls.ATTEMPTS
            world.kms.faults.clear()

    def test_no_frame_of_an_error_holds_the_data_key(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.fail(StatusCode.UNAVAILABLE, times=100)
        with pytest.raises(UnavailableError) as away:
            provider.wrap(DATA_KEY, CONTEXT)
        assert "DataKey(hidden)" in shown(away.value), "it shows no local variables"
        assert hides(away.value)

    def test_a_missing_permission_is_named(self, world: World, provider: GcpKeyProvider) -> None:
        text = "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on resource"
        world.fail(StatusCode.PERMISSION_DENIED, text)
        wrapped = WrappedKey(KeyVersion(provider.key, "1"), bytes(72))
        with pytest.raises(DeniedError, match=r"cloudkms\.cryptoKeyVersions\.useToDecrypt"):
            provider.unwrap(wrapped, CONTEXT)
        world.fail(StatusCode.PERMISSION_DENIED, "denied")
        with pytest.raises(DeniedError, match=r"cloudkms\.cryptoKeys\.get"):
            provider.current_version()

    @pytest.mark.parametrize(
        "state", [VersionState.DISABLED, VersionState.DESTROYED, VersionState.DESTROY_SCHEDULED]
    )
    def test_a_version_that_is_not_enabled_denies_and_quarantines_nothing(
        self, world: World, provider: GcpKeyProvider, state: VersionState
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.key(NAME).versions[1].state = state
        for act in (
            lambda: provider.unwrap(wrapped, CONTEXT),
            lambda: made(provider.unwrap_many([(wrapped, CONTEXT)] * 3)),
            provider.current_version,
            provider.create_version,
            lambda: provider.wrap(DATA_KEY, CONTEXT),
        ):
            with pytest.raises(DeniedError, match=state.name) as denied:
                act()
            assert denied.value.reason_code == "version_not_enabled"

    def test_a_key_for_something_else_is_turned_down(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.key(NAME).purpose = CryptoKey.CryptoKeyPurpose.ASYMMETRIC_DECRYPT
        with pytest.raises(DeniedError) as denied:
            provider.current_version()
        assert denied.value.reason_code == "key_purpose"

    def test_a_key_without_a_primary_version_is_told_so(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.key(NAME).primary = 0
        with pytest.raises(DeniedError, match="set-primary-version") as denied:
            provider.current_version()
        assert denied.value.reason_code == "key_without_primary"

    def test_a_description_of_another_key_is_not_believed(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.faults.corrupt_next(Corruption.WRONG_NAME, times=9, operation="GetCryptoKey")
        with pytest.raises(UnavailableError) as malformed:
            provider.current_version()
        assert malformed.value.reason_code == "answer_malformed"

    def test_a_service_that_is_not_there_or_too_slow_waits(self, world: World) -> None:
        away = GcpKeyProvider(NAME, lambda: kms_client(GcpAccess("http://127.0.0.1:9")))
        with pytest.raises(UnavailableError):
            away.current_version()
        slow = world.provider(timeout_s=0.05)
        world.kms.faults.delay(0.3)
        with pytest.raises(UnavailableError, match="DEADLINE_EXCEEDED"):
            slow.current_version()

    def test_in_a_batch_a_refusal_is_its_item_s_own_and_another_error_ends_it(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        items = [(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)] * 100
        world.fail(
            StatusCode.INVALID_ARGUMENT,
            "Decryption failed: the ciphertext is invalid.",
            operation="Decrypt",
        )
        kinds = Counter(type(each) for each in provider.unwrap_many(items))
        assert kinds == {DataKey: 99, RefusedError: 1}
        world.kms.trail.clear()
        world.fail(StatusCode.PERMISSION_DENIED, times=1000)
        assert {type(each) for each in provider.unwrap_many(items)} == {DeniedError}
        assert len(world.asked()) <= gcp_client.DEFAULT_THREADS
        world.kms.faults.clear()
        provider.wrap(DATA_KEY, CONTEXT)
        world.fail(StatusCode.PERMISSION_DENIED, operation="Encrypt", times=1000)
        results = provider.wrap_many([(DATA_KEY, CONTEXT)] * 100)
        assert {type(each) for each in results} == {DeniedError}

    @pytest.mark.parametrize(
        ("error", "kind", "reason"),
        [
            (auth_errors.DefaultCredentialsError("x"), DeniedError, "credentials_missing"),
            (auth_errors.RefreshError("x"), DeniedError, "credentials_refused"),
            (auth_errors.RefreshError("x", retryable=True), UnavailableError, "kms_unavailable"),
            (auth_errors.TransportError("x"), UnavailableError, "kms_unavailable"),
            (OSError("x"), UnavailableError, "kms_unavailable"),
        ],
    )
    def test_trouble_with_credentials_is_one_of_the_kinds(
        self, error: Exception, kind: type[KmsError], reason: str
    ) -> None:
        translated = translate(error, "decrypt", f"gcp-kms://{NAME}")
        assert (type(translated), translated.reason_code) == (kind, reason)

    def test_a_token_that_is_refused_inside_grpc_blocks(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        text = "Getting metadata from plugin failed with error: ('invalid_grant: Bad Request', {})"
        world.fail(StatusCode.UNAVAILABLE, text)
        with pytest.raises(DeniedError) as denied:
            provider.current_version()
        assert denied.value.reason_code == "credentials_refused"


class TestVersions:
    @pytest.fixture(autouse=True)
    def _looks_are_quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gcp_versions, "FIRST_LOOK_S", 0.001)
        monkeypatch.setattr(gcp_versions, "ENABLED_WITHIN_S", 0.3)

    def numbers(self, world: World) -> list[int]:
        return sorted(world.kms.key(NAME).versions)

    @pytest.mark.parametrize(
        "operation",
        ["CreateCryptoKeyVersion", "UpdateCryptoKeyPrimaryVersion", "GetCryptoKeyVersion"],
    )
    def test_a_lost_reply_never_makes_two(
        self, world: World, provider: GcpKeyProvider, operation: str
    ) -> None:
        world.kms.faults.lose_next_reply(operation=operation)
        assert provider.create_version().version == "2"
        assert self.numbers(world) == [1, 2]
        assert world.kms.key(NAME).primary == 2
        assert world.asked().count("CreateCryptoKeyVersion") == 1

    def test_a_version_that_an_hsm_takes_its_time_for_is_waited_for(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.generation_polls = 3
        assert provider.create_version().version == "2"
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == "2"

    def test_one_that_does_not_come_in_time_is_gone_on_with_by_the_next_call(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.kms.generation_polls = 100_000
        with pytest.raises(UnavailableError) as unseen:
            provider.create_version()
        assert unseen.value.reason_code == "rotation_not_seen"
        assert provider.current_version().version == "1"
        version = world.kms.key(NAME).versions[2]
        version.state, version.pending_polls = VersionState.ENABLED, 0
        assert provider.create_version().version == "2"
        assert self.numbers(world) == [1, 2]

    @pytest.mark.usefixtures("_no_patience")
    def test_a_run_cut_off_between_its_two_requests_is_gone_on_with(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.fail(StatusCode.UNAVAILABLE, times=3, operation="UpdateCryptoKeyPrimaryVersion")
        with pytest.raises(UnavailableError):
            provider.create_version()
        world.kms.faults.clear()
        assert provider.create_version().version == "2"
        assert self.numbers(world) == [1, 2]

    def test_an_older_version_or_a_disabled_one_is_nobody_s_leftover(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        old = world.kms.key(NAME).add_version()
        old.created_at = time.time() - timedelta(minutes=31).total_seconds()
        assert provider.create_version().version == "3"
        world.kms.key(NAME).add_version().state = VersionState.DISABLED
        assert provider.create_version().version == "5"

    def test_a_service_that_never_made_it_is_not_reported_as_done(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.fail(StatusCode.UNAVAILABLE, operation="CreateCryptoKeyVersion")
        with pytest.raises(UnavailableError) as unseen:
            provider.create_version()
        assert unseen.value.reason_code == "rotation_not_seen"
        assert world.asked().count("CreateCryptoKeyVersion") == 1
        assert world.kms.key(NAME).primary == 1

    def test_many_versions_are_read_page_by_page(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        for _ in range(11):
            world.kms.rotate(NAME)
        world.kms.page_size = 5
        assert provider.create_version().version == "13"

    def test_who_may_not_is_told_what(self, world: World, provider: GcpKeyProvider) -> None:
        world.kms.deny("CreateCryptoKeyVersion")
        with pytest.raises(DeniedError, match="CreateCryptoKeyVersion"):
            provider.create_version()
        assert self.numbers(world) == [1]

    def test_a_disabled_version_opens_nothing_until_it_is_enabled(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        provider.create_version()
        for _ in range(2):  # done already is done
            provider.disable_version(wrapped.key_version)
        with pytest.raises(DeniedError, match="DISABLED"):
            provider.unwrap(wrapped, CONTEXT)
        for _ in range(2):
            provider.enable_version(wrapped.key_version)
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
        assert world.asked().count("UpdateCryptoKeyVersion") == 2

    def test_the_current_version_is_not_disabled(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        with pytest.raises(DeniedError) as denied:
            provider.disable_version(provider.current_version())
        assert denied.value.reason_code == "version_is_current"
        assert "UpdateCryptoKeyVersion" not in world.asked()

    def test_only_versions_of_this_key_are_switched(self, provider: GcpKeyProvider) -> None:
        for version, reason in (
            (KeyVersion(provider.key, "7"), "key_not_found"),
            (KeyVersion(provider.key, ""), "version_not_found"),
            (KeyVersion(provider.key + "-other", "1"), "version_not_found"),
        ):
            for switch in (provider.disable_version, provider.enable_version):
                with pytest.raises(DeniedError) as denied:
                    switch(version)
                assert denied.value.reason_code == reason

    def test_a_version_that_is_to_be_destroyed_counts_as_disabled_and_is_not_enabled(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        old = provider.current_version()
        provider.create_version()
        world.kms.key(NAME).versions[1].state = VersionState.DESTROY_SCHEDULED
        provider.disable_version(old)
        with pytest.raises(DeniedError, match="versions restore 1"):
            provider.enable_version(old)

    def test_a_lost_reply_of_a_switch_is_asked_for_again(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        old = provider.current_version()
        provider.create_version()
        world.kms.faults.lose_next_reply(operation="UpdateCryptoKeyVersion")
        provider.disable_version(old)
        assert world.kms.key(NAME).versions[1].state == VersionState.DISABLED


class TestThrottling:
    def test_a_batch_goes_on_at_the_quota(self, world: World, provider: GcpKeyProvider) -> None:
        items = [(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)] * 150
        world.kms.faults.limit_rate(100)
        world.kms.trail.clear()
        began = time.monotonic()
        made(provider.unwrap_many(items))
        assert 1.2 < time.monotonic() - began < 8
        throttled = sum(event.error == "RESOURCE_EXHAUSTED" for event in world.kms.trail)
        assert 0 < throttled < 75, "the threads keep running against the quota"

    @pytest.mark.usefixtures("_no_patience")
    def test_what_is_throttled_for_long_says_so(
        self, world: World, provider: GcpKeyProvider
    ) -> None:
        world.fail(StatusCode.RESOURCE_EXHAUSTED, times=10_000)
        results = provider.wrap_many([(DATA_KEY, CONTEXT)] * 20)
        assert {type(each) for each in results} == {ThrottledError}


def test_a_lost_reply_is_asked_for_again(world: World, provider: GcpKeyProvider) -> None:
    world.kms.faults.lose_next_reply(operation="Encrypt")
    world.kms.faults.lose_next_reply(operation="Decrypt")
    assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY
    assert Counter(world.asked()) == {"Encrypt": 2, "Decrypt": 2}


def test_threads_share_one_client_and_every_request_is_counted(world: World) -> None:
    provider = world.provider()
    made(provider.wrap_many([(DATA_KEY, CONTEXT)] * 200))
    assert world.clients == 1
    assert Counter(world.asked()) == {"Encrypt": 200, "GetCryptoKey": 1}
    assert provider.requests == 201


def test_nothing_logs_a_data_key_or_a_wrap_however_talkative_the_process_is(
    provider: GcpKeyProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()

    class Everything(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return repr(vars(record))

    handler = logging.StreamHandler(written)
    handler.setFormatter(Everything())
    names = [
        name for name in logging.root.manager.loggerDict if name.startswith(("google", "grpc"))
    ]
    assert any("key_management_service" in name for name in names)
    for name in ("", "google", *names):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        monkeypatch.setattr(logger, "handlers", [handler])
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    try:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        provider.unwrap(wrapped, CONTEXT)
        logging.getLogger("google.cloud.kms_v1").warning("still heard")
    finally:
        monkeypatch.undo()
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    shown_text = written.getvalue()
    assert "still heard" in shown_text
    for secret in (SECRET, wrapped.ciphertext):
        assert not [form for form in forms(secret) if form in shown_text]


class TestRoad:
    @pytest.fixture
    def roads(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        made: list[tuple[str, dict[str, Any]]] = []
        credentials = google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
        monkeypatch.setattr(google.auth, "default", lambda **_: (credentials, "my-project"))

        def create_channel(address: str, **options: Any) -> grpc.Channel:
            made.append((address, options))
            return grpc.insecure_channel("127.0.0.1:9")

        monkeypatch.setattr(gcp_client.grpc_helpers, "create_channel", create_channel)
        return made

    def test_no_environment_variable_chooses_the_road(
        self, roads: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "evil.example")
        monkeypatch.setenv("GOOGLE_API_USE_MTLS_ENDPOINT", "always")
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS", "https://evil.example")
        kms_client(GcpAccess()).transport.close()
        kms_client(GcpAccess("https://cloudkms-blobs.p.googleapis.com")).transport.close()
        assert [address for address, _ in roads] == [
            "cloudkms.googleapis.com:443",
            "cloudkms-blobs.p.googleapis.com:443",
        ]
        assert all(("grpc.enable_http_proxy", 0) in options["options"] for _, options in roads)

    def test_no_proxy_of_the_environment_is_asked(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        client = kms_client(GcpAccess(world.server.address))
        world.kms.create_key(NAME)
        provider = GcpKeyProvider(NAME, lambda: client)
        assert provider.current_version().version == "1"
        client.transport.close()

    def test_without_credentials_it_blocks(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(DeniedError) as denied:
            GcpKeyProvider(NAME, lambda: kms_client(GcpAccess())).current_version()
        assert denied.value.reason_code == "credentials_missing"


class TestTable:
    def test_a_table_may_be_empty_and_makes_a_provider(self) -> None:
        keys = read_keys({"gcp": {NAME: {}}, "primary": f"gcp-kms://{NAME}"})
        assert keys.open(f"gcp-kms://{NAME}", {}).key == f"gcp-kms://{NAME}"

    def test_a_loopback_endpoint_reaches_a_test_s_server_without_credentials(
        self, world: World
    ) -> None:
        world.kms.create_key(NAME)
        keys = read_keys({"gcp": {NAME: {"endpoint": world.server.address, "threads": 2}}})
        provider = keys.open(f"gcp-kms://{NAME}", {})
        assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY

    @pytest.mark.parametrize(
        ("name", "table", "said"),
        [
            ("blob-kek", {}, "a key of Cloud KMS is named"),
            (NAME + "/cryptoKeyVersions/1", {}, "a key of Cloud KMS is named"),
            (NAME, {"credentials": "SECRET-ONE"}, "unknown field"),
            (NAME, {"timeout_s": 0}, "timeout_s"),
            (NAME, {"threads": 0}, "threads"),
            (NAME, {"endpoint": "cloudkms.internal"}, "endpoint"),
            (NAME, {"endpoint": "http://cloudkms.internal"}, "in clear"),
            (NAME, {"endpoint": "https://user:pw@cloudkms.internal"}, "only"),
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

    @pytest.mark.parametrize("missing", ["google.cloud.kms_v1", "google_crc32c"])
    def test_a_missing_extra_is_named(self, without: Callable[..., None], missing: str) -> None:
        without(missing)
        with pytest.raises(ConfigError, match=r"keywrap\[gcp\]") as refused:
            open_provider(NAME, {NAME: read(NAME, {})}, {})
        assert refused.value.next_command == "pip install 'keywrap[gcp]'"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a module be missing, and what imports it be imported anew."""

    def leave_out(module: str) -> None:
        for name in [each for each in sys.modules if each.startswith("keywrap.providers.gcp")]:
            monkeypatch.delitem(sys.modules, name)
        import keywrap.providers  # noqa: PLC0415 - the package keeps its modules as attributes

        for name in ("gcp", "gcp_client"):
            monkeypatch.delattr(keywrap.providers, name, raising=False)
        monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]

    return leave_out
