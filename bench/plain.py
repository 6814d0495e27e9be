"""What the naive way is made of: a store and KEKs as one writes them in a first version."""

import base64
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
import hvac
from botocore.exceptions import ClientError

from keywrap.config import KeywrapConfig
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, KeyProvider
from keywrap.providers.vault import canonical_context
from keywrap.stores import ChangedError, NotFoundError, Stored


class ProofError(Exception):
    """A new wrap does not open to its data key."""


class BotoStore:
    """S3 through boto3, with the same conditions on every write as ours.

    Args:
        config: names the bucket and its endpoint.
    """

    def __init__(self, config: KeywrapConfig) -> None:
        self._endpoint = config.store.endpoint
        self._region = config.store.region
        self._bucket = urlsplit(config.store.url).netloc

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        return boto3.client("s3", region_name=self._region, endpoint_url=self._endpoint)

    def read(self, name: str, *, limit: int | None = None) -> Stored:  # noqa: ARG002 - a Store has it
        """Read an object whole."""
        answer = self._get(name)
        return Stored(answer["Body"].read(), answer["ETag"])

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object."""
        try:
            answer = self._get(name, Range=f"bytes={start}-{start + length - 1}")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:  # noqa: PLR2004
                return b""
            raise
        return bytes(answer["Body"].read())

    def _get(self, name: str, **options: str) -> Any:  # noqa: ANN401 - as the client
        try:
            return self._client.get_object(Bucket=self._bucket, Key=name, **options)
        except self._client.exceptions.NoSuchKey:
            raise NotFoundError(name, name=name) from None

    def create(self, name: str, data: bytes) -> None:
        """Create an object, only if there is none."""
        self._put(name, data, IfNoneMatch="*")

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, only if it is what was read."""
        self._put(name, data, IfMatch=expected.tag)

    def _put(self, name: str, data: bytes, **condition: str) -> None:
        try:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=data, **condition)
        except ClientError as error:
            raise ChangedError(name, name=name) from error


def wrapping(config: KeywrapConfig, primary: KeyProvider) -> Callable[..., WrappedKey]:
    """Return the function that wraps a data key under the primary KEK and proves it."""
    kind = KeyVersion(primary.key).provider
    if kind == "vault":
        return _Transit(config).wrap
    if kind == "aws":
        return _Kms(config).wrap
    return _local(primary)


def _local(provider: KeyProvider) -> Callable[[DataKey, Context], WrappedKey]:
    def wrap(data_key: DataKey, context: Context) -> WrappedKey:
        wrapped = provider.wrap(data_key, context)
        if provider.unwrap(wrapped, context) != data_key:
            raise ProofError
        return wrapped

    return wrap


class _Transit:
    """Two calls of hvac a blob."""

    def __init__(self, config: KeywrapConfig) -> None:
        ((path, table),) = config.keys.vault.items()
        self._name = path.rpartition("/")[2]
        self._key = f"hcvault://{path}"
        client = hvac.Client(url=table.address, token=os.environ["BAO_TOKEN"], timeout=10)
        client.adapter.session.trust_env = False  # as ours, which saves a look at the environment
        self._transit = client.secrets.transit

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        bound = base64.b64encode(canonical_context(context)).decode()
        plaintext = base64.b64encode(data_key.reveal()).decode()
        made = self._transit.encrypt_data(name=self._name, plaintext=plaintext, context=bound)
        text = made["data"]["ciphertext"]
        opened = self._transit.decrypt_data(name=self._name, ciphertext=text, context=bound)
        if opened["data"]["plaintext"] != plaintext:
            raise ProofError
        version = KeyVersion(self._key, str(made["data"]["key_version"]))
        return WrappedKey(version, base64.b64decode(text.rpartition(":")[2]))


class _Kms:
    """Two calls of boto3 a blob."""

    def __init__(self, config: KeywrapConfig) -> None:
        ((self._arn, table),) = config.keys.aws.items()
        region = self._arn.split(":")[3]
        self._client = boto3.client("kms", region_name=region, endpoint_url=table.endpoint)

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        plaintext = data_key.reveal()
        bound = dict(context)
        made = self._client.encrypt(KeyId=self._arn, Plaintext=plaintext, EncryptionContext=bound)[
            "CiphertextBlob"
        ]
        opened = self._client.decrypt(KeyId=self._arn, CiphertextBlob=made, EncryptionContext=bound)
        if opened["Plaintext"] != plaintext:
            raise ProofError
        return WrappedKey(KeyVersion(f"aws-kms://{self._arn}", opened["KeyMaterialId"]), made)
