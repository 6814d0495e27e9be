"""A strict key service in memory, and (from its own file) what every key provider must pass.

The service does real AES-GCM with the context as additional data, so a test that mixes up keys,
versions or contexts fails here as it would at a real one.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    Context,
    DeniedError,
    KmsError,
    RefusedError,
)
from keywrap.testing.provider_conformance import ProviderConformance

__all__ = ["MemoryKeyProvider", "MemoryKms", "ProviderConformance", "SimpleMemoryKeyProvider"]

_NONCE_BYTES = 12
_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Key:
    """A KEK of the service: its versions by number, and which are disabled."""

    versions: dict[int, AESGCM] = field(default_factory=dict)
    disabled: set[int] = field(default_factory=set)

    def rotate(self) -> int:
        number = len(self.versions) + 1
        self.versions[number] = AESGCM(AESGCM.generate_key(256))
        return number


class MemoryKms:
    """A key service in memory: KEKs with versions and states, server-side rewrap, faults on demand.

    Many providers, in many threads, may share it, as processes share a real service.

    Args:
        batch_limit: how many items one request may have.

    Attributes:
        operations: how many items were asked of each operation (`wrap`, `unwrap`, `rewrap`),
            failed ones included.
    """

    def __init__(self, batch_limit: int = 200) -> None:
        self.batch_limit = batch_limit
        self.operations: Counter[str] = Counter()
        self._keys: dict[str, _Key] = {}
        self._faults: list[KmsError] = []
        self._corrupt_wraps = 0
        self._stale_wraps = 0
        self._lock = threading.RLock()

    def create_key(self, key: str) -> KeyVersion:
        """Create a KEK with its first version; a KEK that is there stays as it is."""
        with self._lock:
            self._keys.setdefault(key, _Key())
            return self.current_version(key) if self._keys[key].versions else self.rotate(key)

    def delete_key(self, key: str) -> None:
        """Delete a KEK: everything under it is `key_not_found` from now on."""
        with self._lock:
            del self._keys[key]

    def disable_version(self, version: KeyVersion) -> None:
        """Disable one KEK version: its wraps are denied."""
        with self._lock:
            self._key(version.key).disabled.add(int(version.version))

    def enable_version(self, version: KeyVersion) -> None:
        """Enable one KEK version again."""
        with self._lock:
            self._key(version.key).disabled.discard(int(version.version))

    def fail_next(self, error: KmsError, times: int = 1) -> None:
        """Let the next requests, of whatever kind, raise `error`."""
        with self._lock:
            self._faults += [error] * times

    def corrupt_next_wrap(self) -> None:
        """Let the next wrap or rewrap return a sound wrap of another data key."""
        with self._lock:
            self._corrupt_wraps += 1

    def wrong_version_next(self) -> None:
        """Let the next wrap or rewrap come from the version before the current one.

        So does a service where a rotation is not seen everywhere at once. Where there is only
        one version, the wrap names version 0.
        """
        with self._lock:
            self._stale_wraps += 1

    def answer_request(self) -> None:
        """Begin a request.

        Raises:
            KmsError: one that `fail_next` asked for.
        """
        with self._lock:
            if self._faults:
                raise self._faults.pop(0)

    def current_version(self, key: str) -> KeyVersion:
        """Return the KEK's newest version."""
        with self._lock:
            return KeyVersion(key, str(len(self._key(key).versions)))

    def rotate(self, key: str) -> KeyVersion:
        """Give the KEK a new version and return it."""
        with self._lock:
            return KeyVersion(key, str(self._key(key).rotate()))

    def wrap(self, key: str, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap under the current version."""
        with self._lock:
            self.operations["wrap"] += 1
            return self._wrap(key, data_key, context)

    def unwrap(self, key: str, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap of any enabled version."""
        with self._lock:
            self.operations["unwrap"] += 1
            return self._unwrap(key, wrapped, context)

    def rewrap(self, key: str, wrapped: WrappedKey, context: Context) -> WrappedKey:
        """Move a wrap to the current version; the data key does not leave the service."""
        with self._lock:
            self.operations["rewrap"] += 1
            return self._wrap(key, self._unwrap(key, wrapped, context), context)

    def _wrap(self, key: str, data_key: DataKey, context: Context) -> WrappedKey:
        number = len(self._key(key).versions)
        if self._stale_wraps:
            self._stale_wraps -= 1
            number -= 1
        if self._corrupt_wraps:
            self._corrupt_wraps -= 1
            data_key = DataKey(os.urandom(len(data_key.reveal())))
        # Version 0 is never there: the label alone is wrong then.
        cipher = self._cipher(key, max(number, 1))
        nonce = os.urandom(_NONCE_BYTES)
        sealed = cipher.encrypt(nonce, data_key.reveal(), _bound(context))
        return WrappedKey(KeyVersion(key, str(number)), nonce + sealed)

    def _unwrap(self, key: str, wrapped: WrappedKey, context: Context) -> DataKey:
        version = wrapped.key_version
        known = {str(number) for number in self._key(key).versions}
        if version.key != key or version.version not in known:
            raise RefusedError.about(key, "the key has no such version", "wrap_version_unknown")
        cipher = self._cipher(key, int(version.version))
        nonce, sealed = wrapped.ciphertext[:_NONCE_BYTES], wrapped.ciphertext[_NONCE_BYTES:]
        try:
            return DataKey(cipher.decrypt(nonce, sealed, _bound(context)))
        except (InvalidTag, ValueError):
            raise RefusedError.about(key, "the wrap does not open", "wrap_does_not_open") from None

    def _cipher(self, key: str, number: int) -> AESGCM:
        if number in self._key(key).disabled:
            raise DeniedError.about(key, f"version {number} is disabled", "version_disabled")
        return self._key(key).versions[number]

    def _key(self, key: str) -> _Key:
        if key not in self._keys:
            raise DeniedError(f"{key}: no such key", key=key, reason_code="key_not_found")
        return self._keys[key]


def _bound(context: Context) -> bytes:
    return json.dumps(dict(context), sort_keys=True).encode()


class SimpleMemoryKeyProvider:
    """A provider that takes one item at a time and cannot rewrap, as Azure's or Google's.

    Args:
        kms: the service; a new one by default.
        key: URI of the KEK, which is created in the service.
    """

    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = False

    def __init__(
        self, kms: MemoryKms | None = None, key: str = "hcvault://memory/blob-kek"
    ) -> None:
        self.kms = kms or MemoryKms()
        self.key = key
        self.requests = 0
        self.kms.create_key(key)

    def current_version(self) -> KeyVersion:
        """Return the KEK's newest version."""
        self._request()
        return self.kms.current_version(self.key)

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap a data key under the current version."""
        self._request()
        return self.kms.wrap(self.key, data_key, context)

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap."""
        self._request()
        return self.kms.unwrap(self.key, wrapped, context)

    def create_version(self) -> KeyVersion:
        """Create the next version."""
        self._request()
        return self.kms.rotate(self.key)

    def _request(self) -> None:
        self.requests += 1
        self.kms.answer_request()


class MemoryKeyProvider(SimpleMemoryKeyProvider):
    """A provider that batches and rewraps in the service, as OpenBao's; arguments as above."""

    def wrap_many(
        self, items: Sequence[tuple[DataKey, Context]]
    ) -> list[WrappedKey | RefusedError]:
        """Wrap each data key."""
        return self._each(items, lambda item: self.kms.wrap(self.key, *item))

    def unwrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[DataKey | RefusedError]:
        """Open each wrap."""
        return self._each(items, lambda item: self.kms.unwrap(self.key, *item))

    def rewraps_from(self, key: str) -> bool:
        """Whether wraps of a KEK can be moved: those of the key itself."""
        return key == self.key

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | RefusedError]:
        """Move each wrap to the current version."""
        return self._each(items, lambda item: self.kms.rewrap(self.key, *item))

    def _each(
        self, items: Sequence[Any], do: Callable[[Any], _Result]
    ) -> list[_Result | RefusedError]:
        results: list[_Result | RefusedError] = []
        for place, item in enumerate(items):
            if place % self.kms.batch_limit == 0:
                self._request()
            try:
                results.append(do(item))
            except RefusedError as error:
                results.append(error)
        return results
