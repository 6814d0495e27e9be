"""One road to one key of a vault: answers are believed only where they fit; errors are ours."""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from azure.keyvault.keys import KeyProperties, KeyVaultKey

from keywrap.providers.azure_client import VaultClient
from keywrap.providers.azure_errors import translate
from keywrap.providers.azure_names import AzureKeyName
from keywrap.providers.calls import CorruptAnswerError, Road


def _not_counted() -> None:
    """The vault's session counts: some requests, as for a challenge, are not ours to see."""


class AzureConnection(Road[VaultClient]):
    """Sends requests for one key and turns each failure into one of the four kinds.

    Args:
        uri: URI of the KEK, for errors.
        name: the key.
        make_client: makes a client of its vault; called once in each process.
        threads: how many requests a batch has in flight.
    """

    def __init__(
        self,
        uri: str,
        name: AzureKeyName,
        make_client: Callable[[], VaultClient],
        threads: int,
    ) -> None:
        super().__init__(
            uri, make_client, translate, threads=threads, name="azure-kv", count=_not_counted
        )
        self.name = name

    def read_key(self, version: str = "") -> KeyVaultKey:
        """Return a version of the key, the newest if none is named.

        Raises:
            KmsError: it cannot be had.
        """

        def ask(vault: VaultClient) -> KeyVaultKey:
            key = vault.keys.get_key(self.name.name, version or None)
            if self.require_version(key.id) != version and version:
                raise CorruptAnswerError("is about another version")
            return key

        return self.call("get", ask)

    def require_version(self, kid: object) -> str:
        """Return the version in an answer's key identifier, which must be one of this key.

        Raises:
            CorruptAnswerError: it is not.
        """
        version = self.name.version_of(kid)
        if not version:
            raise CorruptAnswerError("names no version of the key")
        return version

    def require_usable(self, properties: KeyProperties) -> None:
        """See that a version may wrap now.

        Raises:
            DeniedError: it may not.
        """
        now = datetime.now(UTC)
        if properties.enabled is False:
            raise self.denied("the newest KEK version is disabled", "version_disabled")
        if properties.expires_on and properties.expires_on <= now:
            raise self.denied(
                f"the newest KEK version expired on {properties.expires_on:%Y-%m-%d}",
                "key_expired",
            )
        if properties.not_before and properties.not_before > now:
            raise self.denied(
                f"the newest KEK version is not valid before {properties.not_before:%Y-%m-%d}",
                "key_not_yet_valid",
            )


def post(
    vault: VaultClient,
    name: AzureKeyName,
    version: str,
    operation: str,
    fields: Mapping[str, str | bytes],
) -> dict[str, bytes]:
    """Let a version of a key do something to bytes.

    The version stands in the path, always: one that is left out is the newest, by the vault's
    word of that moment.

    Args:
        vault: the vault.
        name: the key.
        version: its version.
        operation: such as `unwrapkey`.
        fields: of the request; bytes are sent as base64url (RFC 4648, without padding).

    Returns:
        The bytes of the answer: `value`, and `iv` and `tag` where it has them.

    Raises:
        CorruptAnswerError: it names another version, or holds something else.
        azure.core.exceptions.AzureError: no answer, or one that says no.
    """
    body = {
        field: value if isinstance(value, str) else _encode(value)
        for field, value in fields.items()
    }
    answer = vault.post(f"/keys/{name.name}/{version}/{operation}", body)
    if not isinstance(answer, dict) or name.version_of(answer.get("kid")) != version:
        raise CorruptAnswerError("names another key or version than it was sent to")
    return {
        field: _decode(field, answer[field])
        for field in ("value", "iv", "tag")
        if answer.get(field) is not None
    }


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(field: str, text: Any) -> bytes:  # noqa: ANN401 - whatever JSON has
    try:
        padded = str(text) + "=" * (-len(str(text)) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise CorruptAnswerError(f"has a {field} that is not base64url") from None
