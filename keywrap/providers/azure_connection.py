"""One road to one key of a vault: answers are believed only where they fit; errors are ours."""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from azure.keyvault.keys import KeyProperties, KeyVaultKey

from keywrap.kms import DeniedError
from keywrap.providers.azure_client import VaultClient
from keywrap.providers.azure_errors import CorruptAnswerError, translate
from keywrap.providers.azure_names import AzureKeyName
from keywrap.providers.calls import Batch, Road

_Result = TypeVar("_Result")


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
        super().__init__(make_client, threads, "azure-kv", _not_counted)
        self._uri = uri
        self.name = name

    def send(
        self,
        operation: str,
        ask: Callable[[VaultClient], _Result],
        *,
        batch: Batch | None = None,
        again: bool = True,
    ) -> _Result:
        """Ask the vault.

        Args:
            operation: for errors: what needs the permission, such as `unwrapkey`.
            ask: asks; returns no bytes of a data key, and raises a `CorruptAnswerError` where the
                answer is not to be believed, upon which it is asked again.
            batch: the call that it is a part of; None: it is one of its own.
            again: whether asking twice does no harm, so that a hiccup is retried.

        Raises:
            KmsError: one of the four kinds.
            BatchOverError: the batch ended, and the request was not sent (again).
        """
        return self.call(
            ask,
            lambda error: translate(error, operation, self._uri),
            operation=operation,
            batch=batch,
            again=again,
        )

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

        return self.send("get", ask)

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

    def denied(self, message: str, reason_code: str) -> DeniedError:
        """Return the error for a key that refuses as a whole."""
        return DeniedError(f"{self._uri}: {message}", key=self._uri, reason_code=reason_code)


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
