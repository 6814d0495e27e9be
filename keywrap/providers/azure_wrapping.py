"""How a version of a key of Azure wraps a data key, by each algorithm that is offered.

https://learn.microsoft.com/azure/key-vault/keys/about-keys-details. Each returns no plaintext but
as a `DataKey`, and is called inside an `ask` alone (see `calls`).
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from azure.keyvault.keys import KeyType, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion
from keywrap.kms import Context
from keywrap.providers.azure_client import VaultClient
from keywrap.providers.azure_connection import post
from keywrap.providers.azure_names import Algorithm, AzureKeyName
from keywrap.providers.azure_payload import MALFORMED, open_payload, seal
from keywrap.providers.calls import CorruptAnswerError

_IV_BYTES = 12
_TAG_BYTES = 16

Wrap = Callable[[VaultClient, DataKey, Context], bytes]
"""Wraps a data key under one version, bound to a context."""


class WrapAlgorithm(Protocol):
    """An algorithm.

    Attributes:
        key_types: the kinds of key that have it.
        key_operations: what the key must be for.
        wrapping: the operation that wraps, for errors.
        opening: the operation that opens.
    """

    key_types: ClassVar[frozenset[str]]
    key_operations: ClassVar[frozenset[str]]
    wrapping: ClassVar[str]
    opening: ClassVar[str]

    def wrapper(self, name: AzureKeyName, key: KeyVaultKey, version: KeyVersion) -> Wrap:
        """Return what wraps under a version of a key."""

    def open(
        self,
        vault: VaultClient,
        name: AzureKeyName,
        version: KeyVersion,
        wrap: bytes,
        context: Context,
    ) -> DataKey | str:
        """Return the data key of a wrap, or the reason code of what is wrong with it."""


class _Sealed:
    """An algorithm that authenticates no context: what it wraps holds a digest of it."""

    name: ClassVar[Algorithm]
    key_operations: ClassVar[frozenset[str]] = frozenset({"wrapKey", "unwrapKey"})
    opening: ClassVar[str] = "unwrapkey"

    def open(
        self,
        vault: VaultClient,
        name: AzureKeyName,
        version: KeyVersion,
        wrap: bytes,
        context: Context,
    ) -> DataKey | str:
        """Open a wrap."""
        fields: dict[str, str | bytes] = {"alg": self.name, "value": wrap}
        payload = _value(post(vault, name, version.version, "unwrapkey", fields))
        return open_payload(payload, version, context)


class RsaOaep256(_Sealed):
    """RSA-OAEP with SHA-256: wrapped in this process with the public key, opened by the vault.

    So the vault never sees a wrap being made: no quota, no cost, and no entry in its log.
    """

    name: ClassVar[Algorithm] = "RSA-OAEP-256"
    key_types: ClassVar[frozenset[str]] = frozenset({KeyType.rsa, KeyType.rsa_hsm})
    wrapping: ClassVar[str] = "get"

    def wrapper(self, name: AzureKeyName, key: KeyVaultKey, version: KeyVersion) -> Wrap:
        """Return what wraps under a version of a key; needs its public part and nothing else."""
        del name
        # Of the key itself, it never asks the vault: not on a failure either, unlike a client of
        # an identifier, which would wrap somewhere else then.
        client = CryptographyClient.from_jwk(key.key)

        def wrap(_: VaultClient, data_key: DataKey, context: Context) -> bytes:
            payload = seal(data_key, version, context)
            result = client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, payload)
            if result.key_id != key.id:
                raise CorruptAnswerError("is of another key than was asked for")
            return result.encrypted_key

        return wrap


class AesKeyWrap256(_Sealed):
    """AES key wrap (RFC 3394) in a Managed HSM."""

    name: ClassVar[Algorithm] = "A256KW"
    key_types: ClassVar[frozenset[str]] = frozenset({KeyType.oct_hsm})
    wrapping: ClassVar[str] = "wrapkey"

    def wrapper(self, name: AzureKeyName, key: KeyVaultKey, version: KeyVersion) -> Wrap:
        """Return what wraps under a version of a key."""
        del key

        def wrap(vault: VaultClient, data_key: DataKey, context: Context) -> bytes:
            payload = seal(data_key, version, context)
            fields: dict[str, str | bytes] = {"alg": "A256KW", "value": payload}
            return _value(post(vault, name, version.version, "wrapkey", fields))

        return wrap


class AesGcm256:
    """AES-256-GCM in a Managed HSM, which makes the nonce; the context is additional data.

    A wrap is nonce (12 bytes), ciphertext, tag (16 bytes).
    """

    key_types: ClassVar[frozenset[str]] = frozenset({KeyType.oct_hsm})
    key_operations: ClassVar[frozenset[str]] = frozenset({"encrypt", "decrypt"})
    wrapping: ClassVar[str] = "encrypt"
    opening: ClassVar[str] = "decrypt"

    def wrapper(self, name: AzureKeyName, key: KeyVaultKey, version: KeyVersion) -> Wrap:
        """Return what wraps under a version of a key."""
        del key

        def wrap(vault: VaultClient, data_key: DataKey, context: Context) -> bytes:
            fields: dict[str, str | bytes] = {
                "alg": "A256GCM",
                "value": data_key.reveal(),
                "aad": canonical_context(context),
            }
            answer = post(vault, name, version.version, "encrypt", fields)
            iv, tag, value = answer.get("iv", b""), answer.get("tag", b""), _value(answer)
            sizes = len(iv), len(value), len(tag)
            if sizes != (_IV_BYTES, len(data_key.reveal()), _TAG_BYTES):
                raise CorruptAnswerError("is not nonce, ciphertext and tag of AES-GCM")
            return iv + value + tag

        return wrap

    def open(
        self,
        vault: VaultClient,
        name: AzureKeyName,
        version: KeyVersion,
        wrap: bytes,
        context: Context,
    ) -> DataKey | str:
        """Open a wrap."""
        if len(wrap) - _IV_BYTES - _TAG_BYTES not in KEY_BYTES:
            return MALFORMED
        fields: dict[str, str | bytes] = {
            "alg": "A256GCM",
            "iv": wrap[:_IV_BYTES],
            "value": wrap[_IV_BYTES:-_TAG_BYTES],
            "tag": wrap[-_TAG_BYTES:],
            "aad": canonical_context(context),
        }
        inner = _value(post(vault, name, version.version, "decrypt", fields))
        return DataKey(inner) if len(inner) in KEY_BYTES else MALFORMED


ALGORITHMS: Mapping[Algorithm, WrapAlgorithm] = {
    "RSA-OAEP-256": RsaOaep256(),
    "A256KW": AesKeyWrap256(),
    "A256GCM": AesGcm256(),
}


def _value(answer: Mapping[str, bytes]) -> bytes:
    """Return the value of an answer, which may be empty: anybody can wrap no bytes."""
    if "value" not in answer:
        raise CorruptAnswerError("has no value")
    return answer["value"]
