"""What stands behind HTTP: moto with its gaps, each named, and our strict reference without any."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from keywrap.datakey import DataKey
from keywrap.kms import DeniedError, KeyProvider, UnavailableError
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.providers.aws_wire import lean_client
from keywrap.testing.aws_conformance import AwsKmsConformance
from keywrap.testing.aws_server import AwsServer
from keywrap.testing.kms import ProviderConformance


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-sent")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    with AwsServer.start() as server:
        yield server.address


def client_at(endpoint: str) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": 1}, proxies={})
    return boto3.client("kms", region_name="eu-west-1", endpoint_url=endpoint, config=config)


class TestStrictKmsBehindHttp(AwsKmsConformance):
    @pytest.fixture
    def client(self, strict: str) -> Iterator[Any]:
        client = client_at(strict)
        yield client
        client.close()


class TestMoto(AwsKmsConformance):
    """No green test on moto says that a rewrap is right: see the list."""

    known_gaps: ClassVar = {
        "test_an_altered_wrap_is_refused_at_every_byte": (
            "the wrap begins with its key's id, in clear: altered there, AccessDeniedException"
        ),
        "test_what_is_no_wrap_is_refused": "AccessDeniedException, since it names no known key",
        "test_a_wrap_of_another_key_is_refused_by_name": "AccessDeniedException",
        "test_a_wrong_source_key_is_refused_by_name": "accepted: SourceKeyId is ignored",
        "test_a_disabled_key_neither_wraps_nor_opens": "it still wraps and opens",
        "test_a_key_that_waits_for_deletion_neither_wraps_nor_opens": "it still wraps and opens",
        "test_a_dry_run_does_nothing_and_says_what_would_be": "ignored: it is performed",
        "test_a_dry_run_needs_no_wrap": "unknown: Decrypt without a wrap is a refused wrap",
        "test_a_wrap_has_6144_bytes_at_most": "there is no limit",
        "test_decrypt_rewrap_and_new_data_keys_name_the_key_material": "there are no material ids",
        "test_a_rotation_moves_new_wraps_to_new_material_and_old_ones_still_open": (
            "a rotation is listed, and changes no key"
        ),
        "test_every_material_is_listed_only_where_that_is_asked_for": "there are no material ids",
        "test_the_list_of_rotations_comes_in_pages": "there are no material ids",
    }

    @pytest.fixture
    def client(self, moto: str) -> Iterator[Any]:
        client = client_at(moto)
        yield client
        client.close()


class TestAwsKeyProviderBehindHttp(ProviderConformance):
    items = 200

    @pytest.fixture(params=[kms_client, lean_client])
    def provider(self, strict: str, request: pytest.FixtureRequest) -> KeyProvider:
        return provider_at(strict, request.param)


def provider_at(
    endpoint: str, make_client: Callable[[str, AwsAccess], Any] = kms_client
) -> AwsKeyProvider:
    key = client_at(endpoint).create_key(KeyUsage="ENCRYPT_DECRYPT")
    access = AwsAccess(endpoint=endpoint)
    return AwsKeyProvider(key["KeyMetadata"]["Arn"], lambda: make_client("eu-west-1", access))


def test_a_service_that_names_no_key_material_gets_no_wrap_from_us(moto: str) -> None:
    provider = provider_at(moto)
    with pytest.raises(DeniedError) as denied:
        provider.current_version()
    assert denied.value.reason_code == "key_without_material_id"
    with pytest.raises(UnavailableError) as malformed:
        provider.wrap(DataKey.generate(), {"blob_id": "a"})
    assert malformed.value.reason_code == "answer_malformed"
