"""Data keys of blobs: which wrap a reader may open, and under which KEK version a writer wraps."""

from dataclasses import dataclass

from keywrap.auditing import Trail
from keywrap.control import Control, ControlError, ControlSource, Cutover
from keywrap.datakey import DataKey
from keywrap.keycache import KeyCache
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import WrappedKey
from keywrap.kms import (
    DeniedError,
    KeyProvider,
    KmsError,
    ProofFailedError,
    RefusedError,
    UnavailableError,
)
from keywrap.reading import Seen


class LegacyCutOffError(DeniedError):
    """The wrap is legacy, and cutover is on: such wraps are not opened any more."""

    reason_code = "legacy_cut_off"


class ReadOnlyError(Exception):
    """New blobs cannot be written here."""

    reason_code = "read_only"


_AWAY = (UnavailableError, DeniedError, UnlistedKeyError)
"""The KEK cannot be used by this reader, and nothing says that anything is wrong with the wrap."""

_BLOCKS = (KmsError, UnlistedKeyError, ControlError)


@dataclass(frozen=True, slots=True)
class BlobKeys:
    """Opens and makes the wraps of blobs, each with its audit event.

    Attributes:
        keys: the KEKs that this installation lists.
        control: tells which KEK version new wraps need and whether legacy ones open; None where
            the configuration has no control file.
        trail: takes the audit events.
        cache: holds opened data keys; None: each is opened when it is needed.
    """

    keys: KeyRing
    control: ControlSource | None
    trail: Trail
    cache: KeyCache | None = None

    def open(self, blob_id: str, seen: Seen) -> DataKey:
        """Open the data key that a sidecar holds.

        Where its KEK is away, denied or not listed here, and the sidecar still has the wrap before
        (`previous`), that one is opened. The blob's content then tells whether it is the right
        key, as it does for every key: a content that does not open is never handed out.

        Args:
            blob_id: the blob's id, by where it lies.
            seen: its sidecar.

        Raises:
            KmsError: neither wrap opens; the error is that of the first.
            LegacyCutOffError: it is a legacy wrap, and these are cut off.
            ControlError: it is a legacy wrap, and whether these are cut off is not known.
            UnlistedKeyError: the configuration does not list its KEK.
        """
        try:
            return self._unwrap(blob_id, seen.wrapped)
        except _BLOCKS as error:
            data_key = self._fall_back(blob_id, seen, error)
            if data_key is None:
                self.trail.record("alert", blob_id, seen.wrapped.key_version, error)
                raise
            return data_key

    def _fall_back(self, blob_id: str, seen: Seen, cause: Exception) -> DataKey | None:
        """Open the wrap before; None where it must not be, or cannot be either."""
        previous = seen.sidecar.previous
        if previous is None or not isinstance(cause, _AWAY) or isinstance(cause, LegacyCutOffError):
            return None
        try:
            data_key = self._unwrap(blob_id, previous)
        except _BLOCKS:
            return None  # its own event says why; the caller is told of the wrap that counts
        version = seen.wrapped.key_version
        self.trail.record("fallback", blob_id, previous.key_version, instead_of=str(version))
        return data_key

    def _unwrap(self, blob_id: str, wrapped: WrappedKey) -> DataKey:
        version = wrapped.key_version
        context = {"blob_id": blob_id}
        try:
            provider = self.keys.provider(version.key)
            # Before the cache is asked: what is cut off is so at once.
            is_rehearsal = version.is_legacy and self._require_legacy_allowed(wrapped)
            held = None if self.cache is None else self.cache.get(wrapped, context)
            data_key = provider.unwrap(wrapped, context) if held is None else held
        except _BLOCKS as error:
            self.trail.record("unwrap", blob_id, version, error)
            raise
        if self.cache is not None and held is None:
            self.cache.put(wrapped, context, data_key)
        self.trail.record("unwrap", blob_id, version, cached=held is not None)
        if is_rehearsal:
            self.trail.record("legacy_unwrap", blob_id, version)
        return data_key

    def _require_legacy_allowed(self, wrapped: WrappedKey) -> bool:
        """See that legacy wraps are not cut off; whether this is the rehearsal of it."""
        cutover = self.control.current().cutover if self.control else Cutover.OFF
        if cutover is Cutover.ON:
            version = wrapped.key_version
            raise LegacyCutOffError(
                f"the blob's data key is wrapped by {version}, and legacy wraps are cut off; it "
                "was left as it is; to migrate it: rewrap cutover warn, then rewrap start migrate",
                key=version.key,
            )
        return cutover is Cutover.WARN

    def wrap(self, blob_id: str, data_key: DataKey) -> WrappedKey:
        """Wrap a new data key under the KEK version that new wraps need, and prove the wrap.

        A wrap that opened to another key would lose the blob that is about to be written. That is
        why the key service is not asked to make the data key either (`GenerateDataKey`): its wrap
        would have to be opened all the same, so no request would be saved.

        Raises:
            ReadOnlyError: the configuration names no primary KEK.
            KmsError: the KEK cannot be used, or wraps under a version before the one that is
                needed (`version_not_current`); no other KEK is ever taken.
            UnlistedKeyError: the KEK that is needed is not listed.
            ControlError: which one is needed is not known.
            ProofFailedError: the new wrap does not open to the data key.
        """
        if self.keys.primary is None:
            raise ReadOnlyError("[keys] names no primary KEK: this installation only reads")
        version = None
        try:
            control = self.control.current() if self.control else None
            provider = self._writing(control) or self.keys.primary
            wrapped = provider.wrap(data_key, {"blob_id": blob_id})
            version = wrapped.key_version
            _prove(provider, wrapped, data_key, blob_id)
            self._require_reached(wrapped, control)
        except (*_BLOCKS, ProofFailedError) as error:
            self.trail.record("wrap", blob_id, version, error)
            self.trail.record("alert", blob_id, version, error)
            raise
        self.trail.record("wrap", blob_id, version)
        return wrapped

    def renewed(self, blob_id: str, data_key: DataKey, wrapped: WrappedKey) -> WrappedKey:
        """Return a wrap that may be written now: the one given, or another of the same data key.

        A large content takes long to write. A wrap from before it may be one that a rotation,
        published since, is just about to be done with.

        Raises:
            KmsError, UnlistedKeyError, ControlError, ProofFailedError: as `wrap`.
        """
        try:
            control = self.control.current() if self.control else None
            is_current = self._reaches(wrapped, control)
        except _BLOCKS as error:
            self.trail.record("alert", blob_id, wrapped.key_version, error)
            raise
        return wrapped if is_current else self.wrap(blob_id, data_key)

    def _writing(self, control: Control | None) -> KeyProvider | None:
        """Return the provider of the KEK that the control file names; None where it names none."""
        if control is None or control.primary is None:
            return None
        if control.primary.is_legacy:
            raise DeniedError(
                f"the control file names {control.primary} for new wraps, which is a legacy key; "
                "nothing was written",
                key=control.primary.key,
                reason_code="primary_is_legacy",
            )
        return self.keys.provider(control.primary.key)

    def _reaches(self, wrapped: WrappedKey, control: Control | None) -> bool:
        if control is None or control.primary is None:
            return True
        return self.keys.reaches(wrapped.key_version, control.primary)

    def _require_reached(self, wrapped: WrappedKey, control: Control | None) -> None:
        if not self._reaches(wrapped, control):
            assert control is not None  # noqa: S101 - or it would be reached
            raise UnavailableError(
                f"the KMS wrapped under {wrapped.key_version}, not yet under {control.primary}, "
                "which the control file asks for; nothing was written",
                key=wrapped.key_version.key,
                reason_code="version_not_current",
            )


def _prove(provider: KeyProvider, wrapped: WrappedKey, data_key: DataKey, blob_id: str) -> None:
    """Open a new wrap and compare, unless its provider has done so."""
    if provider.proves_wraps:
        return
    try:
        opened = provider.unwrap(wrapped, {"blob_id": blob_id})
    except RefusedError:
        opened = None
    if opened != data_key:
        raise ProofFailedError(
            f"a new wrap of blob {blob_id!r} under {wrapped.key_version} does not open to its data "
            "key; nothing of the blob was changed"
        )
