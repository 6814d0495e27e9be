"""KEKs kept in a file of ours, for those who have no key service.

Whoever can read the file opens every wrap, so it belongs on another disk than the blobs and into
a backup of its own. A wrap is AES-256-GCM (NIST SP 800-38D): nonce of 12 random bytes, ciphertext,
tag of 16. Its additional data is the key's URI with the version, a NUL, and the context: under
the label of another version or key, or for another blob, it does not open. The label says which
key it means (see `keywrap.keyfile`): a wrap under a version that this file has lost, or never
had, passes for none of its own.

With random nonces no more than 2**32 wraps are safe under one key (section 8.3 there). They are
counted over all processes: before it wraps, a process reserves a block in the key file, durably.
So a crash wastes what was left of its block, and no wrap is ever made that was not counted.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keyfile import WRAP_LIMIT, KeyFile, LocalVersion
from keywrap.keyfolder import KeyFolder, Stamp, create_key_file
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, DeniedError, RefusedError
from keywrap.providers.telling import Telling

__all__ = ["LocalKeyProvider", "create_key_file"]

NONCE_BYTES = 12
TAG_BYTES = 16
_WRAP_BYTES = frozenset(NONCE_BYTES + size + TAG_BYTES for size in KEY_BYTES)

FIRST_BLOCK = 256
"""Wraps that a process reserves at first: many short-lived ones must not use a key up."""

LARGEST_BLOCK = 2**16
"""Each block is twice the last, up to this: one durable write for some thousand batches."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """One version, ready for use."""

    name: KeyVersion
    number: int
    is_enabled: bool
    cipher: AESGCM
    bound: bytes
    wraps: int

    def additional(self, context: Context) -> bytes:
        return self.bound + canonical_context(context)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The key file as it was last read. Never changed, so threads share it without a lock."""

    stamp: Stamp
    current: _Opened
    versions: dict[str, _Opened]

    @classmethod
    def of(cls, file: KeyFile, stamp: Stamp) -> "_Loaded":
        opened = [_opened(file.name_of(each), each) for each in file.versions]
        return cls(stamp, opened[-1], {each.name.version: each for each in opened})


def _opened(name: KeyVersion, version: LocalVersion) -> _Opened:
    # A NUL stands in no key id, so that no two pairs of version and context give the same bytes.
    bound = f"{name}\0".encode()
    cipher = version.key.cipher()
    return _Opened(name, version.version, version.is_enabled, cipher, bound, version.wraps)


@dataclass(slots=True)
class _Block:
    """Wraps that this process has reserved and not yet made."""

    process: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    version: KeyVersion | None = None
    left: int = 0
    size: int = FIRST_BLOCK

    def begin(self, version: KeyVersion) -> None:
        """Begin anew where another version wraps."""
        if self.version != version:
            self.version, self.left = version, 0


class LocalKeyProvider(Telling):
    """Wraps and unwraps with a KEK kept in a file. May be used from many threads.

    Other processes' changes to the file are seen at the next call.

    Args:
        name: the key's name; its URI is `local:<name>`.
        path: the key file; `create_key_file` makes one.
    """

    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = False
    wrap_limit: ClassVar[int] = WRAP_LIMIT

    def __init__(self, name: str, path: Path) -> None:
        self.key = f"local:{name}"
        self.requests = 0
        self._folder = KeyFolder(path, self.key)
        self._last: _Loaded | None = None
        self._block = _Block()

    def current_version(self) -> KeyVersion:
        """Return the newest version.

        Raises:
            DeniedError, UnavailableError: see `KeyFolder.read`.
        """
        return self._load().current.name

    def wraps_made(self) -> int:
        """Return how many wraps were counted under the newest version: no more were made.

        Raises:
            DeniedError, UnavailableError: see `KeyFolder.read`.
        """
        return self._load().current.wraps

    def is_newer(self, version: str, than: str) -> bool:
        """Whether both are versions of this very file, and the first came after the second.

        Raises:
            DeniedError, UnavailableError: see `KeyFolder.read`.
        """
        versions = self._load().versions
        return (
            version in versions
            and than in versions
            and versions[version].number > versions[than].number
        )

    def create_version(self) -> KeyVersion:
        """Create the next version and return it.

        Raises:
            DeniedError, UnavailableError: see `KeyFolder.change`.
        """
        file, stamp = self._folder.change(KeyFile.with_new_version)
        self._last = _Loaded.of(file, stamp)
        return self._last.current.name

    def disable_version(self, version: KeyVersion) -> None:
        """Disable a version: neither wraps nor unwraps until it is enabled again.

        Raises:
            RefusedError: there is no such version.
            DeniedError, UnavailableError: see `KeyFolder.change`.
        """
        self._set_state(version, "disabled")

    def enable_version(self, version: KeyVersion) -> None:
        """Enable a version again; errors as in `disable_version`."""
        self._set_state(version, "enabled")

    def wraps_reserved(self, version: KeyVersion) -> int:
        """Return how many wraps were made under a version, at most; errors as above."""
        file, _ = self._folder.read()
        return self._found(file, version).wraps

    def _set_state(self, version: KeyVersion, state: Literal["enabled", "disabled"]) -> None:
        def edit(file: KeyFile) -> KeyFile:
            return file.with_version(self._found(file, version).version, state=state)

        file, stamp = self._folder.change(edit)
        self._last = _Loaded.of(file, stamp)

    def _found(self, file: KeyFile, version: KeyVersion) -> LocalVersion:
        for each in file.versions:
            if file.name_of(each) == version:
                return each
        raise self.refused(f"it has no version {version}", "key_version_unknown")

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap one data key; see `wrap_many`."""
        (wrapped,) = self._wrap([(data_key, context)])
        return wrapped

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open one wrap; see `unwrap_many`."""
        opened = self._open(self._load(), wrapped, context)
        if isinstance(opened, RefusedError):
            raise opened
        return opened

    def wrap_many(
        self, items: Sequence[tuple[DataKey, Context]]
    ) -> list[WrappedKey | RefusedError]:
        """Wrap each data key under the current version.

        Raises:
            DeniedError: that version is disabled or has wrapped as often as it may
                (`wrap_limit`), or the key file cannot be used.
            UnavailableError: the key file cannot be used now.
        """
        return [*self._wrap(items)]

    def unwrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[DataKey | RefusedError]:
        """Open each wrap.

        Raises:
            DeniedError: a version is disabled, or the key file cannot be used.
            UnavailableError: the key file cannot be used now.
        """
        loaded = self._load() if items else None
        return [self._open(loaded, *item) for item in items if loaded]

    def _wrap(self, items: Sequence[tuple[DataKey, Context]]) -> list[WrappedKey]:
        if not items:
            return []
        current = self._reserve(len(items))
        nonces = os.urandom(NONCE_BYTES * len(items))
        wraps = []
        for place, (data_key, context) in enumerate(items):
            nonce = nonces[place * NONCE_BYTES : (place + 1) * NONCE_BYTES]
            sealed = current.cipher.encrypt(nonce, data_key.reveal(), current.additional(context))
            wraps.append(WrappedKey(current.name, nonce + sealed))
        return wraps

    def _open(
        self, loaded: _Loaded, wrapped: WrappedKey, context: Context
    ) -> DataKey | RefusedError:
        label, ciphertext = wrapped.key_version, wrapped.ciphertext
        if label.key != self.key:
            return self.refused("the wrap names another key", "wrap_of_another_key")
        version = loaded.versions.get(label.version)
        if version is None:
            return self.refused(
                f"the key file has no version {label.version}: it may be another host's, or have "
                "been restored from an older backup",
                "wrap_version_unknown",
            )
        if not version.is_enabled:
            raise self._disabled(version)
        if len(ciphertext) not in _WRAP_BYTES:
            return self.refused(
                f"a wrap has 44, 52 or 60 bytes, not {len(ciphertext)}", "wrap_length"
            )
        nonce, sealed = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        try:
            return DataKey(version.cipher.decrypt(nonce, sealed, version.additional(context)))
        except InvalidTag:
            return self.refused("the wrap does not open", "wrap_does_not_open")

    def _load(self) -> _Loaded:
        """Return the key file as it is now."""
        last = self._last
        if last is None or last.stamp != self._folder.stamp():
            self._last = last = _Loaded.of(*self._folder.read())
        return last

    def _reserve(self, count: int) -> _Opened:
        """Return the version that wraps, once so many wraps under it are counted."""
        loaded = self._load()
        if self._block.process != os.getpid():
            # After a fork both would make the wraps that one of them reserved.
            self._block = _Block()
        block = self._block
        with block.lock:
            block.begin(loaded.current.name)
            if loaded.current.is_enabled and block.left < count:
                loaded = self._extend(block, count)
            if not loaded.current.is_enabled:
                raise self._disabled(loaded.current)
            block.left -= count
        return loaded.current

    def _extend(self, block: _Block, count: int) -> _Loaded:
        """Reserve another block, durably, before the first wrap of it is made."""
        taken = 0

        def reserve(file: KeyFile) -> KeyFile:
            nonlocal taken
            newest = file.newest
            block.begin(file.name_of(newest))  # it may have been given a new version meanwhile
            room = WRAP_LIMIT - newest.wraps
            if block.left + room < count:
                raise self._worn_out(file.name_of(newest))
            taken = min(max(block.size, count - block.left), room)
            return file.with_version(newest.version, wraps=newest.wraps + taken)

        file, stamp = self._folder.change(reserve)
        self._last = loaded = _Loaded.of(file, stamp)
        block.left += taken
        block.size = min(2 * block.size, LARGEST_BLOCK)
        return loaded  # and not `_last`: another thread may have put an older one there

    def _worn_out(self, version: KeyVersion) -> DeniedError:
        return DeniedError(
            f"{version} has wrapped {WRAP_LIMIT:,} data keys, and more are not safe under one key "
            f"(NIST SP 800-38D, 8.3): rewrap rotate-kek {self.key}",
            key=self.key,
            reason_code="wrap_limit",
        )

    def _disabled(self, version: _Opened) -> DeniedError:
        return DeniedError(
            f"{version.name} is disabled", key=self.key, reason_code="version_disabled"
        )
