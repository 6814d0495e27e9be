"""KEKs in Google Cloud KMS, reached through google-cloud-kms.

A KEK is one symmetric CryptoKey; its versions are the numbers of its CryptoKeyVersions. A wrap is
made under an explicitly named version: which version `Encrypt` takes by itself lags behind a
change of the primary, for a minute and at worst for hours (cloud.google.com/kms/docs/consistency).

`Decrypt` takes no version, and its answer names none. So the version's number is a part of the
additional authenticated data, behind the context: a wrap under a wrong label does not open. What
is proved is that `wrap` made it under that label, when the answer of `Encrypt` named that version;
which version's key material opens it, nobody but KMS knows. Wraps that other software made under
the same key, as Tink does, were made without it and are refused.

Cloud KMS tells *refused* from *denied* by code and text, so the canary wrap that other services
need is not needed here. Limits and fields: https://cloud.google.com/kms/docs/reference/rpc.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, KmsError
from keywrap.providers.calls import Batch, CorruptAnswerError
from keywrap.providers.gcp_client import DEFAULT_THREADS, DEFAULT_TIMEOUT_S
from keywrap.providers.gcp_connection import GcpConnection, checked
from keywrap.providers.gcp_names import SCHEME, check_key_name, is_version, version_name
from keywrap.providers.gcp_versions import GcpVersions
from keywrap.providers.onebyone import OneByOne

if TYPE_CHECKING:  # `gcp_client` tells of a missing extra
    from google.cloud.kms_v1 import DecryptResponse, EncryptResponse, KeyManagementServiceClient

MAX_CIPHERTEXT_BYTES = 8192
"""Far above any wrap of an AES key: about a hundred bytes more than the key."""

PRIMARY_FOR_S = 10.0
"""How long `wrap` takes a version for the primary one. Reads of a key have a quota of their own,
300 a minute and project by default (cloud.google.com/kms/quotas): one for each wrap is too many."""


class GcpKeyProvider(OneByOne[str]):
    """Wraps and unwraps with one CryptoKey.

    May be used from many threads, and made before a fork. Cloud KMS rewraps nothing by itself: a
    move is an unwrap and a wrap.

    Args:
        name: `projects/…/locations/…/keyRings/…/cryptoKeys/…`.
        make_client: makes a client, once in each process; see `gcp_client.kms_client`.
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.

    Raises:
        ValueError: `name` is no CryptoKey's.
    """

    _connection: GcpConnection

    def __init__(
        self,
        name: str,
        make_client: "Callable[[], KeyManagementServiceClient]",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self._name = check_key_name(name)
        self.key = f"{SCHEME}{name}"
        self._primary: tuple[str, float] | None = None
        self._connection = GcpConnection(
            self.key, make_client, timeout_s=timeout_s, threads=threads, count=self._count_request
        )
        self._versions = GcpVersions(self._connection, self.key, name)

    def current_version(self) -> KeyVersion:
        """Ask for the primary version. Never remembered here: a campaign must see a rotation.

        Raises:
            DeniedError: there is no such key, it cannot wrap, or may not be looked at.
            UnavailableError, ThrottledError: see `keywrap.kms`.
        """
        return self._found(self._versions.primary())

    def create_version(self) -> KeyVersion:
        """Create a version, wait until it is enabled, and make it the primary one.

        A younger version that was never made primary (see `TAKEN_UP_WITHIN`) is taken up instead,
        so a run that was cut off half way is gone on with. Who goes back to an older primary
        because a new version is not to be used disables that one: disabled ones are never taken.

        Raises:
            DeniedError: the principal may not, or the version could not be generated.
            UnavailableError: no answer, or the version is not there yet. What was begun stays and
                is taken up by the next call; the primary version is as it was, or the new one.
        """
        return self._found(self._versions.create())

    def disable_version(self, version: KeyVersion) -> None:
        """Disable a version. KMS may open wraps with it for some time yet, at worst for hours.

        Raises:
            DeniedError: it is the primary version, or none of this key; or not allowed.
            UnavailableError, ThrottledError: see `keywrap.kms`.
        """
        self._switch(version, enabled=False)

    def enable_version(self, version: KeyVersion) -> None:
        """Enable a version again; errors as in `disable_version`.

        Raises:
            DeniedError: it is to be destroyed, or was.
        """
        self._switch(version, enabled=True)

    def _wrap(self, target: str, data_key: DataKey, context: Context, batch: Batch) -> WrappedKey:
        name = version_name(self._name, target)

        def read(answer: "EncryptResponse") -> bytes:
            if answer.name != name:
                raise CorruptAnswerError("names another version than was asked for")
            if not (
                answer.verified_plaintext_crc32c
                and answer.verified_additional_authenticated_data_crc32c
            ):
                raise CorruptAnswerError("does not confirm what was received")
            return checked(answer, "ciphertext")

        request = {
            "name": name,
            "plaintext": data_key,
            "additional_authenticated_data": _bound(context, target),
        }
        try:
            ciphertext = self._connection.send("encrypt", request, read, batch=batch)
        except KmsError:
            self._primary = None  # it may be another by now
            raise
        return WrappedKey(KeyVersion(self.key, target), ciphertext)

    def _unwrap(self, item: tuple[WrappedKey, Context], batch: Batch) -> DataKey:
        wrapped, context = item
        version = wrapped.key_version.version
        self._require_own(wrapped, names_version=is_version(version), most=MAX_CIPHERTEXT_BYTES)
        request = {
            "name": self._name,
            "ciphertext": wrapped.ciphertext,
            "additional_authenticated_data": _bound(context, version),
        }
        inner = self._connection.send("decrypt", request, _opened, batch=batch)
        if isinstance(inner, int):
            raise self.refused(
                f"the wrap holds {inner} bytes, which is no AES key", "inner_key_length"
            )
        return inner

    def _target(self) -> str:
        """Return the version to wrap under: the primary, or what was that `PRIMARY_FOR_S` ago."""
        known = self._primary
        if known is not None and time.monotonic() - known[1] < PRIMARY_FOR_S:
            return known[0]
        return self.current_version().version

    def _found(self, version: str) -> KeyVersion:
        self._primary = version, time.monotonic()
        return KeyVersion(self.key, version)

    def _switch(self, version: KeyVersion, *, enabled: bool) -> None:
        number = version.version if version.key == self.key else ""
        self._versions.switch(number, enabled=enabled)


def _bound(context: Context, version: str) -> bytes:
    """Encode what a wrap is bound to: the context as JSON, which has no line end, and the version.

    Every wrap depends on these bytes: they never change.
    """
    return canonical_context(context) + b"\n" + version.encode("ascii")


def _opened(answer: "DecryptResponse") -> DataKey | int:
    """Read a data key, or the length of what is none."""
    plaintext = checked(answer, "plaintext")
    return DataKey(plaintext) if len(plaintext) in KEY_BYTES else len(plaintext)
