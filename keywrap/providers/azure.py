"""KEKs in Azure Key Vault and Managed HSM, reached through azure-keyvault-keys.

A KEK is one key; its versions are the 32 hexadecimal digits that the vault names them by, which
tell no order. Every request names its version.

No algorithm of a vault authenticates a context, so what is wrapped holds a digest of it beside the
data key (see `azure_payload`); A256GCM of a Managed HSM takes it as additional data. With
RSA-OAEP-256 a wrap is made in this process, with the public key: nobody but the vault can open it,
but who knows the public key can make one, of a data key of his own.

A vault answers alike to a bad wrap and to a key that opens none: a canary decides (see
`azure_canary`).
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, DeniedError, RefusedError, UnavailableError
from keywrap.providers.azure_canary import Canaries
from keywrap.providers.azure_client import DEFAULT_THREADS, VaultClient
from keywrap.providers.azure_connection import AzureConnection
from keywrap.providers.azure_names import SCHEME, Algorithm, AzureKeyName, is_version
from keywrap.providers.azure_wrapping import ALGORITHMS, Wrap
from keywrap.providers.calls import Batch, CorruptAnswerError
from keywrap.providers.onebyone import OneByOne
from keywrap.providers.version_history import VersionHistory

if TYPE_CHECKING:
    from azure.keyvault.keys import KeyVaultKey  # `azure_client` tells of a missing extra

MAX_CIPHERTEXT_BYTES = 512
"""The longest wrap: of RSA with 4,096 bits."""

_CANARY_CONTEXT = {"canary": "rewrap"}
_REASONS = {
    "inner_malformed": "what the wrap holds is not what this program wraps",
    "wrap_bound_elsewhere": "the wrap is bound to another blob or KEK version",
}


@dataclass(frozen=True, slots=True)
class _Target:
    """What new wraps are made under."""

    version: KeyVersion
    wrap: Wrap


class AzureKeyProvider(OneByOne[_Target]):
    """Wraps and unwraps with one key of a vault or Managed HSM.

    May be used from many threads, and made before a fork. Azure rewraps nothing by itself: a move
    is an unwrap and a wrap.

    Args:
        name: `<host>/keys/<name>`.
        make_client: makes a client of the vault, once in each process; takes what counts requests.
            See `azure_client.VaultClient`.
        algorithm: how data keys are wrapped; not to be changed while there are wraps.
        threads: how many requests a batch has in flight.

    Raises:
        ValueError: `name` is no key's, or the algorithm is one that a vault has not.
    """

    _connection: AzureConnection

    def __init__(
        self,
        name: str,
        make_client: Callable[[Callable[[], None]], VaultClient],
        *,
        algorithm: Algorithm = "RSA-OAEP-256",
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self._name = AzureKeyName.parse(name)
        if algorithm != "RSA-OAEP-256" and not self._name.is_managed_hsm:
            raise ValueError(f"{algorithm} is for a Managed HSM; a vault has RSA-OAEP-256")
        self.key = f"{SCHEME}{self._name}"
        self._algorithm = ALGORITHMS[algorithm]
        self._connection = AzureConnection(
            self.key, self._name, lambda: make_client(self._count_request), threads
        )
        self._history = VersionHistory(self._read_versions, lambda: self._read_current()[1])
        self._canaries = Canaries(self._fly_canary)

    def current_version(self) -> KeyVersion:
        """Ask for the newest version, which the vault takes for the current one.

        Never remembered: a campaign must see a rotation.

        Raises:
            DeniedError: there is no such key, it cannot wrap, or may not be looked at (the
                permission is keys/get).
            UnavailableError, ThrottledError: see `keywrap.kms`.
        """
        return KeyVersion(self.key, self._read_current()[1])

    def is_newer(self, version: str, than: str) -> bool:
        """Whether both are versions of this key, and the first was created after the second.

        The vault counts in seconds: of two that one second made, only the newest of all is newer.

        Raises:
            KmsError: the versions must be asked for (keys/list), and cannot be.
        """
        return self._history.is_newer(version, than)

    def create_version(self) -> KeyVersion:
        """Rotate the key, and return the new version, which is current at once.

        Raises:
            DeniedError: this principal may not (keys/rotate), or the key has as many versions as
                it may have: 100 in a Managed HSM.
            UnavailableError: no answer, and no new version is seen. The key may be rotated yet:
                read `current_version` before trying again. It is never asked twice here.
        """
        before = self._newest()  # one that has expired, or is disabled, is rotated as well
        try:
            made = self._connection.call(
                "rotate",
                lambda vault: self._version_of(vault.keys.rotate_key(self._name.name)),
                again=False,
            )
        except UnavailableError:
            made = before  # it may be rotated all the same: look
        if made == before:
            made = self._newest()
        if made == before:
            raise self.unavailable(
                "a rotation was asked for, and no new version is seen yet", "rotation_not_seen"
            )
        return KeyVersion(self.key, self._history.saw(made))

    def disable_version(self, version: KeyVersion) -> None:
        """Disable a version.

        Raises:
            DeniedError: it is the current version, or none of this key; or not allowed
                (keys/update).
            UnavailableError, ThrottledError: see `keywrap.kms`.
        """
        self._require_mine(version)
        if version.version == self._newest():
            raise self.denied(
                f"version {version.version} is the current one: new wraps need it",
                "version_is_current",
            )
        self._switch(version.version, enabled=False)

    def enable_version(self, version: KeyVersion) -> None:
        """Enable a version again; errors as in `disable_version`."""
        self._require_mine(version)
        self._switch(version.version, enabled=True)

    def _wrap(
        self, target: _Target, data_key: DataKey, context: Context, batch: Batch
    ) -> WrappedKey:
        def ask(vault: VaultClient) -> bytes:
            wrap = target.wrap(vault, data_key, context)
            if not 0 < len(wrap) <= MAX_CIPHERTEXT_BYTES:
                raise CorruptAnswerError("is no wrap")
            return wrap

        ciphertext = self._connection.call(self._algorithm.wrapping, ask, batch=batch)
        return WrappedKey(target.version, ciphertext)

    def _unwrap(self, item: tuple[WrappedKey, Context], batch: Batch) -> DataKey:
        wrapped, context = item
        version = wrapped.key_version.version
        self._require_own(wrapped, names_version=is_version(version), most=MAX_CIPHERTEXT_BYTES)
        try:
            return self._open(wrapped, context, batch)
        except RefusedError as error:
            if error.reason_code != "wrap_does_not_open":
                raise
        except DeniedError as error:
            if error.reason_code != "key_not_found" or not self._is_unknown(version):
                raise
            raise self.refused("the key has no such version", "wrap_version_unknown") from None
        self._canaries.require_sound(version)
        raise self.refused(
            "the wrap does not open, while a new one of its KEK version does", "wrap_does_not_open"
        )

    def _open(self, wrapped: WrappedKey, context: Context, batch: Batch) -> DataKey:
        opened = self._connection.call(
            self._algorithm.opening,
            lambda vault: self._algorithm.open(
                vault, self._name, wrapped.key_version, wrapped.ciphertext, context
            ),
            batch=batch,
        )
        if isinstance(opened, str):
            raise self.refused(_REASONS[opened], opened)
        return opened

    def _fly_canary(self, version: str) -> None:
        """Make a wrap under a version and open it.

        Raises:
            DeniedError: it does not open.
        """
        data_key = DataKey(os.urandom(32))
        named = KeyVersion(self.key, version)
        key = self._connection.read_key(version)
        self._require_kind(key)
        target = _Target(named, self._algorithm.wrapper(self._name, key, named))
        wrapped = self._wrap(target, data_key, _CANARY_CONTEXT, Batch())
        opens = False
        with suppress(RefusedError):
            opens = self._open(wrapped, _CANARY_CONTEXT, Batch()) == data_key
        if not opens:
            raise self.denied(
                f"version {version} opens no wrap, not even one that was just made: "
                "compare `algorithm` with the key",
                "key_opens_nothing",
            )

    def _is_unknown(self, version: str) -> bool:
        """Whether the key is there, and a version that a sidecar names is none of its."""
        return not self._history.had(version) and bool(self._newest())

    def _target(self) -> _Target:
        key, version = self._read_current()
        named = KeyVersion(self.key, version)
        return _Target(named, self._algorithm.wrapper(self._name, key, named))

    def _read_current(self) -> "tuple[KeyVaultKey, str]":
        key = self._connection.read_key()
        self._require_kind(key)
        self._connection.require_usable(key.properties)
        return key, self._history.saw(self._version_of(key))

    def _newest(self) -> str:
        """Return the newest version, whether it can wrap or not."""
        return self._version_of(self._connection.read_key())

    def _read_versions(self) -> Mapping[str, int]:
        """Return the versions, ranked by when they were created."""
        newest = self._newest()
        listed = self._connection.call(
            "list",
            lambda vault: list(vault.keys.list_properties_of_key_versions(self._name.name)),
        )
        ranks = {
            self._name.version_of(each.id): int(each.created_on.timestamp())
            for each in listed
            if self._name.version_of(each.id) and isinstance(each.created_on, datetime)
        }
        return {**ranks, newest: max(ranks.values(), default=0) + 1}

    def _switch(self, version: str, *, enabled: bool) -> None:
        def ask(vault: VaultClient) -> None:
            key = vault.keys.update_key_properties(self._name.name, version, enabled=enabled)
            if self._version_of(key) != version or key.properties.enabled is not enabled:
                raise CorruptAnswerError("does not say that it was done")

        self._connection.call("update", ask)

    def _require_kind(self, key: "KeyVaultKey") -> None:
        operations = {str(getattr(each, "value", each)) for each in key.key_operations or ()}
        kind = str(getattr(key.key_type, "value", key.key_type))
        if kind not in self._algorithm.key_types:
            wanted = " or ".join(sorted(self._algorithm.key_types))
            raise self.denied(
                f"its algorithm needs a key of type {wanted}, and this is {kind}", "key_kind"
            )
        if missing := sorted(self._algorithm.key_operations - operations):
            raise self.denied(f"the key is not for {' and '.join(missing)}", "key_usage")

    def _require_mine(self, version: KeyVersion) -> None:
        if version.key != self.key or not is_version(version.version):
            raise self.denied("the key has no such version", "version_not_found")

    def _version_of(self, key: "KeyVaultKey") -> str:
        return self._connection.require_version(key.id)
