import base64
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
)
from botocore.loaders import Loader

from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    BatchingKeyProvider,
    DataKeyGenerator,
    DeniedError,
    KeyProvider,
    KmsError,
    ProofFailedError,
    RefusedError,
    ServerSideRewrap,
    ThrottledError,
    UnavailableError,
    VersionCreator,
    VersionOrder,
)
from keywrap.providers import aws_rotation, calls, version_history
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.tables.aws import open_provider, read
from keywrap.tables.common import ConfigError
from keywrap.testing.aws_kms import Corruption, StrictKms
from keywrap.testing.aws_kms_hook import attach
from keywrap.testing.aws_kms_keys import KeyState
from keywrap.testing.kms import ProviderConformance
from tests.forks import holds_in_fork
from tests.kmschecks import CONTEXT, DATA_KEY, SECRET

MATERIAL = "ab" * 32


LOADER = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)


class SharedLoader(Loader):
    """Each client would read the same files of botocore again: half of these tests' time."""

    def __new__(cls, **_: object) -> Loader:  # type: ignore[misc]
        return LOADER


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keywrap.awssession.Loader", SharedLoader)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-sent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


class World:
    """A reference KMS, and providers that ask it through real clients."""

    def __init__(self) -> None:
        self.kms = StrictKms()
        self.clients: list[int] = []

    def client(self) -> Any:
        self.clients.append(os.getpid())
        client = kms_client("eu-west-1", AwsAccess())
        attach(client, self.kms)
        return client

    def provider(self, arn: str = "", **options: Any) -> AwsKeyProvider:
        return AwsKeyProvider(arn or self.kms.create_key(), self.client, **options)

    def asked(self) -> list[str]:
        return [event.name for event in self.kms.trail]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def provider(world: World) -> AwsKeyProvider:
    provider = world.provider()
    provider.current_version()
    world.kms.trail.clear()
    return provider


def arn_of(provider: AwsKeyProvider) -> str:
    return provider.key.removeprefix("aws-kms://")


def made(results: Sequence[Any]) -> Sequence[Any]:
    """Return what a batch made; raise the first error in it that concerns more than one item."""
    for each in results:
        if isinstance(each, KmsError) and not isinstance(each, RefusedError):
            raise each
    return results


def hides_secrets(error: BaseException, *more: bytes) -> None:
    """See that neither the error nor anything that hangs on it shows or holds a secret."""
    assert error.__cause__ is None
    # botocore's own errors hold the request: none may hang on ours, not even suppressed.
    assert error.__context__ is None or isinstance(error.__context__, RefusedError)
    shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.__context__)
    for secret in (SECRET, *more):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)):
            assert form not in shown


class TestAwsKeyProvider(ProviderConformance):
    items = 200

    @pytest.fixture
    def world(self) -> World:
        return World()

    @pytest.fixture
    def provider(self, world: World) -> KeyProvider:
        self.world = world
        return world.provider()

    def corrupt_next_wrap(self, provider: KeyProvider) -> None:
        del provider
        self.world.kms.faults.corrupt_next(Corruption.ANOTHER_DATA_KEY, operation="Encrypt")


def test_it_is_all_that_a_provider_can_be(provider: AwsKeyProvider) -> None:
    for kind in (
        BatchingKeyProvider,
        DataKeyGenerator,
        ServerSideRewrap,
        VersionCreator,
        VersionOrder,
    ):
        assert isinstance(provider, kind)


class TestNames:
    @pytest.mark.parametrize(
        "arn",
        [
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-" + "0f" * 16,
            "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        ],
    )
    def test_a_key_arn_names_a_key(self, world: World, arn: str) -> None:
        key = world.provider(arn).key
        assert key == f"aws-kms://{arn}"
        assert KeyVersion.parse(f"{key}?version={MATERIAL}") == KeyVersion(key, MATERIAL)

    @pytest.mark.parametrize(
        "arn",
        [
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab/..",
            "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab\n",
            "arn:aws:kms:EU-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:kms::111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "arn:aws:s3:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        ],
    )
    def test_anything_else_does_not(self, world: World, arn: str) -> None:
        with pytest.raises(ValueError, match="named by its key ARN"):
            AwsKeyProvider(arn, world.client)

    @pytest.mark.parametrize("name", ["alias/blobs", "arn:aws:kms:eu-west-1:1:alias/blobs"])
    def test_an_alias_is_refused_with_the_reason(self, world: World, name: str) -> None:
        with pytest.raises(ValueError, match="pointed at another key"):
            AwsKeyProvider(name, world.client)

    def test_a_sibling_is_of_the_same_region(self, world: World) -> None:
        other = f"aws-kms://{StrictKms('us-east-1').create_key()}"
        with pytest.raises(ValueError, match="from one Region to another"):
            world.provider(siblings=frozenset({other}))


class TestWrapping:
    def test_a_new_wrap_is_opened_with_its_key_named_before_it_is_returned(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        assert world.asked() == ["Encrypt", "Decrypt"]
        assert all(event.keys == (arn_of(provider),) for event in world.kms.trail)
        assert all(event.contexts == (CONTEXT,) for event in world.kms.trail)
        assert wrapped.key_version.version == world.kms.key(arn_of(provider)).materials[-1].id

    @pytest.mark.parametrize(
        ("corruption", "operation", "kind"),
        [
            (Corruption.ANOTHER_DATA_KEY, "Encrypt", ProofFailedError),
            (Corruption.ALTERED_CIPHERTEXT, "Encrypt", ProofFailedError),
            (Corruption.WRONG_KEY, "Encrypt", UnavailableError),
            (Corruption.ANOTHER_PLAINTEXT, "Decrypt", ProofFailedError),
            (Corruption.WRONG_MATERIAL, "Decrypt", UnavailableError),
            (Corruption.WRONG_KEY, "Decrypt", UnavailableError),
        ],
    )
    def test_a_corrupt_answer_gives_no_wrap(
        self,
        world: World,
        provider: AwsKeyProvider,
        corruption: Corruption,
        operation: str,
        kind: type[Exception],
    ) -> None:
        for wrap in (
            lambda: provider.wrap(DATA_KEY, CONTEXT),
            lambda: made(provider.wrap_many([(DATA_KEY, CONTEXT)] * 3)),
        ):
            world.kms.faults.corrupt_next(corruption, times=3, operation=operation)
            with pytest.raises(kind) as refused:
                wrap()
            hides_secrets(refused.value)
            world.kms.faults.clear()
        provider.wrap(DATA_KEY, CONTEXT)

    def test_a_wrap_under_stale_material_is_named_by_the_material_that_it_is_under(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        old = provider.current_version()
        new = provider.create_version()
        world.kms.faults.corrupt_next(Corruption.STALE_MATERIAL, operation="Encrypt")
        stale = provider.wrap(DATA_KEY, CONTEXT)
        assert stale.key_version == old
        assert provider.unwrap(stale, CONTEXT) == DATA_KEY
        assert provider.wrap(DATA_KEY, CONTEXT).key_version == new
        assert not KeyRing([provider]).reaches(stale.key_version, new)

    def test_a_rotation_that_others_made_is_met_in_a_wrap_and_believed(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        new = world.kms.rotate(arn_of(provider))
        # DescribeKey may be stale still, where the rotation shows in the wrap already.
        world.kms.faults.corrupt_next(Corruption.STALE_MATERIAL, operation="DescribeKey")
        assert provider.wrap(DATA_KEY, CONTEXT).key_version.version == new

    @pytest.mark.parametrize(
        ("corruption", "kind"),
        [
            (Corruption.WRONG_KEY, UnavailableError),
            (Corruption.WRONG_MATERIAL, UnavailableError),
        ],
    )
    def test_a_generated_data_key_with_a_corrupt_answer_is_none(
        self,
        world: World,
        provider: AwsKeyProvider,
        corruption: Corruption,
        kind: type[Exception],
    ) -> None:
        world.kms.faults.corrupt_next(corruption, operation="GenerateDataKey")
        with pytest.raises(kind):
            provider.generate_data_key(CONTEXT)


class TestUnwrapping:
    def test_a_wrap_under_another_version_than_it_names_is_refused(
        self, provider: AwsKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        relabelled = WrappedKey(KeyVersion(provider.key, MATERIAL), wrapped.ciphertext)
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(relabelled, CONTEXT)
        assert refused.value.reason_code == "wrap_of_another_version"
        hides_secrets(refused.value, wrapped.ciphertext)

    @pytest.mark.parametrize("version", ["", "1", MATERIAL.upper(), MATERIAL[1:], MATERIAL + "0"])
    def test_a_wrap_that_names_no_version_is_refused_without_a_request(
        self, world: World, provider: AwsKeyProvider, version: str
    ) -> None:
        wrapped = WrappedKey(KeyVersion(provider.key, version), bytes(184))
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(wrapped, CONTEXT)
        (moved,) = provider.rewrap_many([(wrapped, CONTEXT)])
        assert isinstance(moved, RefusedError)
        assert refused.value.reason_code == moved.reason_code == "wrap_version_unknown"
        assert not world.kms.trail

    @pytest.mark.parametrize("size", [0, 6145])
    def test_what_kms_would_not_read_is_refused_without_a_request(
        self, world: World, provider: AwsKeyProvider, size: int
    ) -> None:
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(WrappedKey(KeyVersion(provider.key, MATERIAL), bytes(size)), CONTEXT)
        assert refused.value.reason_code == "wrap_length"
        assert not world.kms.trail

    def test_a_wrap_of_another_listed_key_is_refused_even_where_both_could_open_it(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        other = world.provider()
        foreign = other.wrap(DATA_KEY, CONTEXT)
        relabelled = WrappedKey(provider.current_version(), foreign.ciphertext)
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(relabelled, CONTEXT)
        assert refused.value.reason_code == "wrap_of_another_key"

    @pytest.mark.parametrize("size", [1, 15, 31, 33, 64])
    def test_a_wrap_of_what_is_no_aes_key_is_refused(
        self, world: World, provider: AwsKeyProvider, size: int
    ) -> None:
        answer = world.client().encrypt(
            KeyId=arn_of(provider), Plaintext=bytes(size), EncryptionContext=CONTEXT
        )
        wrapped = WrappedKey(provider.current_version(), answer["CiphertextBlob"])
        with pytest.raises(RefusedError) as refused:
            provider.unwrap(wrapped, CONTEXT)
        assert refused.value.reason_code == "inner_key_length"

    @pytest.mark.parametrize(
        ("corruption", "kind"),
        [
            (Corruption.WRONG_KEY, UnavailableError),
            (Corruption.WRONG_MATERIAL, RefusedError),
        ],
    )
    def test_a_corrupt_answer_gives_no_data_key(
        self,
        world: World,
        provider: AwsKeyProvider,
        corruption: Corruption,
        kind: type[KmsError],
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.faults.corrupt_next(corruption, operation="Decrypt")
        with pytest.raises(kind) as refused:
            provider.unwrap(wrapped, CONTEXT)
        hides_secrets(refused.value, wrapped.ciphertext)


class TestMoving:
    def test_source_and_destination_and_one_context_are_named(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        new = world.provider(siblings=frozenset({provider.key}))
        old = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.trail.clear()
        (moved,) = new.rewrap_many([(old, CONTEXT)])
        assert isinstance(moved, WrappedKey)
        event = world.kms.trail[0]
        assert event.name == "ReEncrypt"
        assert event.keys == (arn_of(provider), arn_of(new))
        assert event.contexts == (CONTEXT, CONTEXT)
        assert "Decrypt" not in world.asked()
        assert moved.key_version == new.current_version()
        assert new.unwrap(moved, CONTEXT) == DATA_KEY

    def test_a_key_that_is_no_sibling_is_not_moved_from(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        other = world.provider()
        (refused,) = other.rewrap_many([(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)])
        assert isinstance(refused, RefusedError)
        assert refused.reason_code == "wrap_of_another_key"
        assert "ReEncrypt" not in world.asked()

    def test_a_relabelled_wrap_is_not_moved(self, world: World, provider: AwsKeyProvider) -> None:
        new = world.provider(siblings=frozenset({provider.key}))
        mine, theirs = new.wrap(DATA_KEY, CONTEXT), provider.wrap(DATA_KEY, CONTEXT)
        wrong_key = WrappedKey(theirs.key_version, mine.ciphertext)
        wrong_version = WrappedKey(KeyVersion(provider.key, MATERIAL), theirs.ciphertext)
        refused = new.rewrap_many([(wrong_key, CONTEXT), (wrong_version, CONTEXT)])
        codes = [each.reason_code for each in refused if isinstance(each, RefusedError)]
        assert codes == ["wrap_of_another_key", "wrap_of_another_version"]

    def test_the_key_that_refuses_is_named_and_not_the_other(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        new = world.provider(siblings=frozenset({provider.key}))
        old = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.set_state(arn_of(provider), KeyState.DISABLED)
        with pytest.raises(DeniedError) as denied:
            made(new.rewrap_many([(old, CONTEXT)]))
        assert str(denied.value).startswith(f"{provider.key}: the key is disabled")

    @pytest.mark.parametrize("corruption", [Corruption.WRONG_KEY, Corruption.WRONG_MATERIAL])
    def test_a_corrupt_answer_gives_no_wrap(
        self, world: World, provider: AwsKeyProvider, corruption: Corruption
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.faults.corrupt_next(corruption, operation="ReEncrypt")
        with pytest.raises(UnavailableError) as malformed:
            made(provider.rewrap_many([(wrapped, CONTEXT)]))
        assert malformed.value.reason_code == "answer_malformed"

    def test_a_move_under_stale_material_is_named_so(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        new = provider.create_version()
        world.kms.faults.corrupt_next(Corruption.STALE_MATERIAL, operation="ReEncrypt")
        (stale,) = provider.rewrap_many([(wrapped, CONTEXT)])
        (moved,) = provider.rewrap_many([(wrapped, CONTEXT)])
        assert isinstance(stale, WrappedKey)
        assert isinstance(moved, WrappedKey)
        assert stale.key_version == wrapped.key_version
        assert moved.key_version == new


ERRORS = [
    ("InvalidCiphertextException", RefusedError, "wrap_does_not_open"),
    ("IncorrectKeyException", RefusedError, "wrap_of_another_key"),
    ("DisabledException", DeniedError, "key_disabled"),
    ("KMSInvalidStateException", DeniedError, "key_invalid_state"),
    ("NotFoundException", DeniedError, "key_not_found"),
    ("InvalidKeyUsageException", DeniedError, "key_usage"),
    ("AccessDeniedException", DeniedError, "permission_denied"),
    ("UnrecognizedClientException", DeniedError, "credentials_refused"),
    ("InvalidSignatureException", DeniedError, "credentials_refused"),
    ("ExpiredTokenException", DeniedError, "credentials_expired"),
    ("ValidationException", DeniedError, "request_refused"),
    ("SomethingNewException", DeniedError, "request_refused"),
    ("ThrottlingException", ThrottledError, "kms_throttled"),
    ("KMSInternalException", UnavailableError, "kms_unavailable"),
    ("DependencyTimeoutException", UnavailableError, "kms_unavailable"),
    ("KeyUnavailableException", UnavailableError, "kms_unavailable"),
]


class TestErrors:
    @pytest.fixture(autouse=True)
    def _no_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.05)
        monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)

    @pytest.mark.parametrize(("code", "kind", "reason"), ERRORS)
    def test_each_code_is_one_of_the_four_kinds(
        self,
        world: World,
        provider: AwsKeyProvider,
        code: str,
        kind: type[KmsError],
        reason: str,
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.trail.clear()
        world.kms.faults.fail_next(code, times=50)
        with pytest.raises(kind) as refused:
            provider.unwrap(wrapped, CONTEXT)
        assert refused.value.reason_code == reason
        assert refused.value.key == provider.key
        assert world.kms.trail[-1].request_id in str(refused.value)
        assert "Decrypt" in str(refused.value)
        hides_secrets(refused.value, wrapped.ciphertext)
        if kind in {DeniedError, RefusedError}:
            assert world.asked() == ["Decrypt"]
        if kind is UnavailableError:
            assert len(world.asked()) <= calls.ATTEMPTS

    def test_in_a_batch_a_refusal_is_its_item_s_own_and_another_error_every_item_s(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        items = [(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)] * 5
        world.kms.faults.fail_next("InvalidCiphertextException", operation="Decrypt")
        kinds = Counter(type(each) for each in provider.unwrap_many(items))
        assert kinds == {DataKey: 4, RefusedError: 1}
        for code, kind in (
            ("AccessDeniedException", DeniedError),
            ("KMSInternalException", UnavailableError),
        ):
            world.kms.faults.fail_next(code, times=50)
            assert {type(each) for each in provider.unwrap_many(items)} == {kind}
            world.kms.faults.clear()

    def test_a_missing_permission_is_named_with_who_lacks_it(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.deny("ReEncryptTo")
        with pytest.raises(DeniedError, match=r"rewrap-worker/test .* kms:ReEncryptTo"):
            made(provider.rewrap_many([(wrapped, CONTEXT)]))

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            (KeyState.DISABLED, "key_disabled"),
            (KeyState.PENDING_DELETION, "key_pending_deletion"),
        ],
    )
    def test_a_key_in_another_state_denies_everything(
        self, world: World, provider: AwsKeyProvider, state: KeyState, reason: str
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        world.kms.set_state(arn_of(provider), state)
        for act in (
            provider.current_version,
            lambda: provider.wrap(DATA_KEY, CONTEXT),
            lambda: provider.unwrap(wrapped, CONTEXT),
            lambda: made(provider.rewrap_many([(wrapped, CONTEXT)])),
            lambda: provider.generate_data_key(CONTEXT),
            provider.create_version,
        ):
            with pytest.raises(DeniedError) as denied:
                act()
            assert denied.value.reason_code == reason

    def test_an_asymmetric_key_is_turned_down(self, world: World) -> None:
        provider = world.provider(world.kms.create_key(spec="RSA_2048"))
        with pytest.raises(DeniedError) as denied:
            provider.current_version()
        assert denied.value.reason_code == "key_not_symmetric"

    def test_a_description_of_another_key_is_not_believed(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.faults.corrupt_next(Corruption.WRONG_KEY, operation="DescribeKey")
        with pytest.raises(UnavailableError):
            provider.current_version()

    def test_no_credentials_block_and_name_the_key(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(DeniedError) as denied:
            world.provider().wrap(DATA_KEY, CONTEXT)
        assert denied.value.reason_code == "credentials_missing"
        assert NoCredentialsError.__name__ in str(denied.value)
        hides_secrets(denied.value)

    def test_a_profile_that_is_not_there_blocks(self, world: World) -> None:
        access = AwsAccess(profile="nobody")
        provider = AwsKeyProvider(world.kms.create_key(), lambda: kms_client("eu-west-1", access))
        with pytest.raises(DeniedError, match=ProfileNotFound.__name__):
            provider.current_version()

    @pytest.mark.parametrize("kind", [EndpointConnectionError, ConnectionClosedError, OSError])
    def test_a_broken_connection_waits_and_its_error_holds_no_request(
        self, world: World, kind: type[Exception]
    ) -> None:
        def broken(request: Any, **_: object) -> None:
            raise kind(endpoint_url=request.url, request=request) if kind is not OSError else kind

        def client() -> Any:
            client = kms_client("eu-west-1", AwsAccess())
            client.meta.events.register("before-send.kms", broken)
            return client

        with pytest.raises(UnavailableError) as away:
            AwsKeyProvider(world.kms.create_key(), client).wrap(DATA_KEY, CONTEXT)
        assert away.value.reason_code == "kms_unavailable"
        hides_secrets(away.value)


def answering(status: int, body: bytes) -> Callable[[], Any]:
    """A client that gets one and the same answer to everything."""

    class Raw(io.BytesIO):
        def stream(self, *_: object, **__: object) -> Any:
            yield self.getvalue()

    def client() -> Any:
        client = kms_client("eu-west-1", AwsAccess())
        client.meta.events.register(
            "before-send.kms",
            lambda request, **_: AWSResponse(request.url, status, HTTPHeaders(), Raw(body)),
        )
        return client

    return client


SECRET_TEXT = base64.b64encode(SECRET).decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>a proxy</html>",
        b"\xff\xfe" + SECRET,
        json.dumps({"Plaintext": SECRET_TEXT}).encode(),
        json.dumps({"Plaintext": SECRET_TEXT + "*", "CiphertextBlob": "A"}).encode(),
        json.dumps({"KeyMetadata": "x", "Plaintext": [SECRET_TEXT]}).encode(),
        json.dumps({"KeyMetadata": {"Arn": SECRET_TEXT}}).encode(),
    ],
)
def test_an_answer_that_is_none_gives_nothing_and_is_not_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)
    provider = AwsKeyProvider(world.kms.create_key(), answering(200, body))
    wrapped = WrappedKey(KeyVersion(provider.key, MATERIAL), bytes(184))
    for act in (
        provider.current_version,
        lambda: provider.wrap(DATA_KEY, CONTEXT),
        lambda: provider.unwrap(wrapped, CONTEXT),
        lambda: made(provider.rewrap_many([(wrapped, CONTEXT)])),
        lambda: provider.generate_data_key(CONTEXT),
    ):
        with pytest.raises(UnavailableError) as malformed:
            act()
        hides_secrets(malformed.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, UnavailableError),
        (400, DeniedError),
        (403, DeniedError),
        (408, UnavailableError),
        (429, ThrottledError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_a_status_without_a_code_is_one_of_the_kinds_and_its_text_is_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[KmsError]
) -> None:
    monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.05)
    monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)
    echo = json.dumps({"message": SECRET_TEXT, "__type": SECRET_TEXT}).encode()
    for body in (b"<html></html>", echo):
        provider = AwsKeyProvider(world.kms.create_key(), answering(status, body))
        with pytest.raises(kind) as refused:
            provider.wrap(DATA_KEY, CONTEXT)
        hides_secrets(refused.value)


class TestLostReplies:
    def test_a_lost_reply_is_asked_for_again(self, world: World, provider: AwsKeyProvider) -> None:
        for operation in ("Encrypt", "Decrypt"):
            world.kms.faults.lose_next_reply(operation=operation)
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        assert Counter(world.asked()) == {"Encrypt": 2, "Decrypt": 2}
        world.kms.faults.lose_next_reply(operation="ReEncrypt")
        (moved,) = provider.rewrap_many([(wrapped, CONTEXT)])
        assert isinstance(moved, WrappedKey)

    def test_a_service_that_stays_away_is_not_asked_for_ever(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.faults.lose_next_reply(times=100)
        with pytest.raises(UnavailableError, match="ReadTimeoutError") as away:
            provider.wrap(DATA_KEY, CONTEXT)
        hides_secrets(away.value)
        assert world.asked() == ["Encrypt"] * 3


class TestRotation:
    @pytest.fixture(autouse=True)
    def _looks_are_quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(aws_rotation, "FIRST_LOOK_S", 0.001)
        monkeypatch.setattr(aws_rotation, "SEEN_WITHIN_S", 0.3)

    def rotations(self, world: World, provider: AwsKeyProvider) -> int:
        return world.kms.key(arn_of(provider)).on_demand_rotations

    def test_it_returns_when_the_new_material_is_in_use(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        old = provider.current_version()
        world.kms.rotation_polls = 5
        new = provider.create_version()
        assert new != old
        assert provider.wrap(DATA_KEY, CONTEXT).key_version == new
        assert self.rotations(world, provider) == 1

    def test_a_rotation_in_progress_is_waited_for_and_no_second_one_begun(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.rotation_polls = 5
        world.client().rotate_key_on_demand(KeyId=arn_of(provider))
        new = provider.create_version()
        assert new.version == world.kms.key(arn_of(provider)).materials[1].id
        assert world.asked().count("RotateKeyOnDemand") == 1

    def test_a_rotation_that_ends_between_two_looks_is_the_one_that_was_wanted(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.rotation_polls = 2  # DescribeKey, then GetKeyRotationStatus: over
        world.client().rotate_key_on_demand(KeyId=arn_of(provider))
        new = provider.create_version()
        assert new.version == world.kms.key(arn_of(provider)).materials[1].id
        assert self.rotations(world, provider) == 1

    def test_one_that_another_began_just_now_is_waited_for(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.faults.fail_next("ConflictException", operation="RotateKeyOnDemand")
        timer = threading.Timer(0.05, world.kms.rotate, [arn_of(provider)])
        timer.start()
        new = provider.create_version()
        timer.join()
        assert new.version == world.kms.key(arn_of(provider)).materials[-1].id
        assert self.rotations(world, provider) == 0

    def test_a_lost_reply_never_rotates_twice(self, world: World, provider: AwsKeyProvider) -> None:
        world.kms.rotation_polls = 3
        world.kms.faults.lose_next_reply(operation="RotateKeyOnDemand")
        new = provider.create_version()
        assert new.version == world.kms.key(arn_of(provider)).materials[1].id
        assert world.asked().count("RotateKeyOnDemand") == 1

    @pytest.mark.parametrize("code", ["KMSInternalException", "DependencyTimeoutException"])
    def test_a_rotation_that_is_not_seen_is_not_reported_as_done(
        self, world: World, provider: AwsKeyProvider, code: str
    ) -> None:
        world.kms.faults.fail_next(code, operation="RotateKeyOnDemand")
        with pytest.raises(UnavailableError) as unseen:
            provider.create_version()
        assert unseen.value.reason_code == "rotation_not_seen"
        assert world.asked().count("RotateKeyOnDemand") == 1

    def test_after_25_rotations_the_error_says_what_to_do(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.key(arn_of(provider)).on_demand_rotations = 25
        with pytest.raises(DeniedError, match="rewrap start rotate --to") as denied:
            provider.create_version()
        assert denied.value.reason_code == "rotation_limit"

    def test_who_may_not_rotate_is_told_so(self, world: World, provider: AwsKeyProvider) -> None:
        world.kms.deny("RotateKeyOnDemand")
        with pytest.raises(DeniedError, match="kms:RotateKeyOnDemand"):
            provider.create_version()


class TestOrder:
    def test_the_order_is_read_once_and_again_after_a_rotation(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        first = provider.current_version().version
        second = provider.create_version().version
        world.kms.trail.clear()
        for _ in range(5):
            assert provider.is_newer(second, than=first)
        assert world.asked() == ["ListKeyRotations"]
        third = provider.create_version().version
        assert provider.is_newer(third, than=second)

    def test_unknown_ids_cost_one_request_in_30_seconds(
        self, world: World, provider: AwsKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        current = provider.current_version().version
        world.kms.trail.clear()
        for number in range(50):
            assert not provider.is_newer(f"{number:064x}", than=current)
        assert world.asked() == ["ListKeyRotations"]
        unseen = world.kms.rotate(arn_of(provider))
        assert not provider.is_newer(unseen, than=current)
        monkeypatch.setattr(version_history, "ASK_AGAIN_S", 0.0)
        assert provider.is_newer(unseen, than=current)

    def test_a_current_version_that_is_news_lets_the_order_be_read_again(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        old = provider.current_version().version
        assert not provider.is_newer(MATERIAL, than=old)
        world.kms.rotate(arn_of(provider))
        assert provider.is_newer(provider.current_version().version, than=old)

    def test_a_long_history_is_read_page_by_page(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        materials = [provider.current_version().version]
        materials += [world.kms.rotate(arn_of(provider)) for _ in range(250)]
        world.kms.trail.clear()
        for older, newer in pairwise(materials):
            assert provider.is_newer(newer, than=older)
        assert world.asked() == ["ListKeyRotations"] * 3

    def test_a_key_that_cannot_be_asked_gives_no_order(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        world.kms.deny("ListKeyRotations")
        with pytest.raises(DeniedError, match="kms:ListKeyRotations"):
            provider.is_newer(MATERIAL, than=MATERIAL[::-1])

    def test_the_current_version_is_never_remembered(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        provider.current_version()
        new = world.kms.rotate(arn_of(provider))
        assert provider.current_version().version == new


class TestThrottling:
    def test_a_batch_goes_on_at_the_quota(self, world: World, provider: AwsKeyProvider) -> None:
        items = [(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)] * 150
        world.kms.faults.limit_rate(100)
        world.kms.trail.clear()
        began = time.monotonic()
        moved = provider.rewrap_many(items)
        took = time.monotonic() - began
        assert all(isinstance(each, WrappedKey) for each in moved)
        assert 1.2 < took < 6
        throttled = sum(event.error == "ThrottlingException" for event in world.kms.trail)
        assert 0 < throttled < 75, "the threads keep running against the quota"

    def test_what_is_throttled_for_long_says_so(
        self, world: World, provider: AwsKeyProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.2)
        world.kms.faults.fail_next("ThrottlingException", times=10_000)
        began = time.monotonic()
        results = provider.wrap_many([(DATA_KEY, CONTEXT)] * 20)
        assert {type(each) for each in results} == {ThrottledError}
        assert 0.2 < time.monotonic() - began < 3
        assert len(world.kms.trail) < 100

    def test_once_the_quota_is_free_again_so_is_the_pace(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        items = [(provider.wrap(DATA_KEY, CONTEXT), CONTEXT)] * 200
        world.kms.faults.fail_next("ThrottlingException", times=3)
        provider.unwrap_many(items)
        began = time.monotonic()
        provider.unwrap_many(items)
        assert time.monotonic() - began < 1


class TestProcesses:
    def test_many_threads_share_one_client_and_every_request_is_counted(self, world: World) -> None:
        provider = world.provider()
        provider.wrap_many([(DATA_KEY, CONTEXT)] * 200)
        assert len(world.clients) == 1
        assert Counter(world.asked()) == {"Encrypt": 200, "Decrypt": 200, "DescribeKey": 1}
        assert provider.requests == 401

    def test_a_forked_child_has_a_client_threads_and_locks_of_its_own(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        items = [(wrapped, CONTEXT)] * 8
        provider.unwrap_many(items)
        made = len(world.clients)
        # Held while the process forks, as another thread would: in the child, for ever.
        process = provider._connection._process.get()
        with process.lock, provider._history._lock.get():
            assert holds_in_fork(
                lambda: (
                    provider.unwrap_many(items) == [DATA_KEY] * 8
                    and world.clients[made:] == [os.getpid()]
                    and not provider.is_newer(MATERIAL, MATERIAL[::-1])
                )
            )
        provider.unwrap_many(items)
        assert len(world.clients) == made


def test_nothing_logs_a_data_key_or_a_wrap_however_talkative_the_process_is(world: World) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    try:
        provider = world.provider()
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        root.setLevel(logging.DEBUG)
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(("boto", "urllib3")):
                logging.getLogger(name).setLevel(logging.DEBUG)
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        provider.unwrap(wrapped, CONTEXT)
        provider.rewrap_many([(wrapped, CONTEXT)])
        generated, _ = provider.generate_data_key(CONTEXT)
        logging.getLogger("botocore.endpoint").warning("still heard")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(("boto", "urllib3")):
                logging.getLogger(name).setLevel(logging.NOTSET)
    shown = written.getvalue()
    assert "still heard" in shown
    for secret in (SECRET, generated.reveal(), wrapped.ciphertext):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)):
            assert form not in shown


class TestRoad:
    def sent(self, access: AwsAccess, region: str = "eu-west-1") -> tuple[str, Any]:
        client = kms_client(region, access)
        urls: list[str] = []

        def send(request: Any, **_: object) -> AWSResponse:
            urls.append(request.url)
            raise ConnectionClosedError(endpoint_url=request.url)

        client.meta.events.register("before-send.kms", send)
        with pytest.raises(ConnectionClosedError):
            client.list_keys()
        assert len(urls) == 1, "botocore retries by itself"
        return urls[0], client

    def test_no_environment_variable_chooses_the_road(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        files = tmp_path / "config"
        files.write_text("[default]\nendpoint_url = http://10.0.0.1:1\nca_bundle = /nowhere\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(files))
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
            monkeypatch.setenv(name, "http://10.0.0.1:2")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, "http://10.0.0.1:3")
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(name, "/nowhere")
        for name in ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"):
            monkeypatch.setenv(name, "true")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
        url, client = self.sent(AwsAccess())
        assert url == "https://kms.eu-west-1.amazonaws.com/"
        session = client._endpoint.http_session
        assert session._verify is True
        assert not session._proxy_config._proxies

    def test_each_partition_has_its_own_address(self) -> None:
        url, _ = self.sent(AwsAccess(), "cn-north-1")
        assert url == "https://kms.cn-north-1.amazonaws.com.cn/"

    def test_the_configuration_does(self) -> None:
        url, client = self.sent(AwsAccess(endpoint="https://kms.internal:8443", timeout_s=2.0))
        assert url == "https://kms.internal:8443/"
        assert client.meta.config.connect_timeout == client.meta.config.read_timeout == 2.0


class TestPreflight:
    def test_what_is_allowed_is_none_and_what_is_not_says_why(
        self, world: World, provider: AwsKeyProvider
    ) -> None:
        assert provider.preflight() == {"Encrypt": None, "Decrypt": None, "ReEncrypt": None}
        world.kms.deny("ReEncryptTo")
        world.kms.deny("Decrypt")
        result = provider.preflight()
        assert result["Encrypt"] is None
        assert "kms:Decrypt" in str(result["Decrypt"])
        assert "kms:ReEncryptTo" in str(result["ReEncrypt"])

    def test_a_service_that_performs_dry_runs_passes_none(self, world: World) -> None:
        body = json.dumps({"Plaintext": "AAAA"}).encode()
        provider = AwsKeyProvider(world.kms.create_key(), answering(200, body))
        assert all(isinstance(each, UnavailableError) for each in provider.preflight().values())


def test_stream_logging_of_boto3_does_not_undo_the_silence(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = world.provider()
    provider.wrap(DATA_KEY, CONTEXT)
    logger = logging.getLogger("botocore")
    before = logger.level, list(logger.handlers)
    boto3.set_stream_logger("botocore", logging.DEBUG)
    try:
        provider.wrap(DATA_KEY, CONTEXT)
    finally:
        logger.level, logger.handlers = before[0], before[1]
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    assert SECRET_TEXT not in capsys.readouterr().err


ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER = ARN[:-2] + "00"


class TestTable:
    def test_a_table_may_be_empty_and_makes_a_provider(self) -> None:
        provider = open_provider(ARN, {ARN: read(ARN, {})}, {})
        assert provider.key == f"aws-kms://{ARN}"

    def test_keys_that_one_client_reaches_are_siblings(self) -> None:
        far = ARN.replace("eu-west-1", "us-east-1")
        profiled, behind = ARN[:-2] + "01", ARN[:-2] + "02"
        tables = {arn: read(arn, {}) for arn in (ARN, OTHER, far)}
        tables[profiled] = read(profiled, {"profile": "other"})
        tables[behind] = read(behind, {"endpoint": "https://kms.internal"})
        provider = open_provider(ARN, tables, {})
        assert isinstance(provider, ServerSideRewrap)
        moved = [arn for arn in tables if provider.rewraps_from(f"aws-kms://{arn}")]
        assert moved == [ARN, OTHER]

    @pytest.mark.parametrize(
        ("name", "table", "said"),
        [
            ("alias/blobs", {}, "pointed at another key"),
            ("1234", {}, "key ARN"),
            (ARN, {"access_key": "AKIA-SECRET"}, "unknown field"),
            (ARN, {"timeout_s": 0}, "timeout_s"),
            (ARN, {"threads": 0}, "threads"),
            (ARN, {"endpoint": "kms.internal"}, "endpoint"),
            (ARN, {"endpoint": "http://kms.internal"}, "in clear"),
            (ARN, {"endpoint": "https://user:pw@kms.internal"}, "only"),
        ],
    )
    def test_a_mistake_is_named_and_no_value_repeated(
        self, name: str, table: dict[str, object], said: str
    ) -> None:
        with pytest.raises(ConfigError, match=said) as refused:
            read(name, table)
        assert "AKIA-SECRET" not in str(refused.value)

    @pytest.mark.parametrize(
        "table",
        [
            {"endpoint": "http://127.0.0.1:5000"},
            {"endpoint": "http://kms.internal", "allow_http": True},
            {"endpoint": "https://vpce-1.kms.eu-west-1.vpce.amazonaws.com", "threads": 64},
        ],
    )
    def test_an_endpoint_may_be_given(self, table: dict[str, object]) -> None:
        open_provider(ARN, {ARN: read(ARN, table)}, {})

    def test_a_certificate_file_that_is_not_there_is_found_at_the_start(self) -> None:
        with pytest.raises(ConfigError, match="ca_file"):
            open_provider(ARN, {ARN: read(ARN, {"ca_file": "/nowhere"})}, {})


WITHOUT = """
import sys
missing, arn = sys.argv[1:]
sys.modules[missing] = None
from keywrap.tables.aws import open_provider, read
from keywrap.tables.common import ConfigError
try:
    open_provider(arn, {arn: read(arn, {})}, {})
except ConfigError as error:
    print(error, "next:", error.next_command)
"""


@pytest.mark.parametrize("missing", ["boto3", "botocore"])
def test_a_missing_extra_is_named_with_the_line_to_type(world: World, missing: str) -> None:
    arn = world.kms.create_key()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, arn],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f'[keys.aws."{arn}"]: a key in AWS KMS needs' in done.stdout, done.stderr
    assert done.stdout.endswith("next: pip install 'keywrap[aws]'\n")
