"""Reading a blob's sidecar, and which wrap it holds by the rules of this installation."""

from dataclasses import dataclass

from keywrap.dpapi.blob import BadBlobError, Blob
from keywrap.dpapi.ring import is_guid
from keywrap.keys import DPAPI, KeyVersion, WrappedKey
from keywrap.layout import Layout, UnsafeBlobIdError
from keywrap.reasons import ReasonedError
from keywrap.sidecar import MAX_SIDECAR_BYTES, BadSidecarError, Sidecar
from keywrap.stores import (
    NotAnObjectError,
    NotFoundError,
    Store,
    Stored,
    TooLargeError,
)


class QuarantineError(ReasonedError):
    """A blob that a person must look at; nothing of it was changed."""


class GoneError(Exception):
    """The blob has neither content nor sidecar any more."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A sidecar as it was read.

    Attributes:
        stored: the bytes and tag it was read with; None where there is no sidecar yet.
        sidecar: what it says.
        wrapped: the wrap it holds, its key resolved by `legacy_default` where it names none, and
            by the wrap itself where that is DPAPI's.
    """

    stored: Stored | None
    sidecar: Sidecar
    wrapped: WrappedKey


@dataclass(frozen=True, slots=True)
class SidecarReader:
    """Reads sidecars under this installation's rules.

    Attributes:
        store: where the sidecars lie.
        layout: how they are named.
        legacy_default: the key of sidecars that name none, or are missing; None: such blobs are
            quarantined.
    """

    store: Store
    layout: Layout
    legacy_default: KeyVersion | None = None

    def read(self, blob_id: str) -> Seen:
        """Read one blob's sidecar.

        Raises:
            QuarantineError: it cannot be read, parsed or resolved to a key.
            GoneError: the blob has been deleted.
            StoreUnavailableError: the store did not answer.
        """
        try:
            stored = self._stored(blob_id)
            sidecar = Sidecar.parse(stored.data) if stored else Sidecar()
            wrapped = resolved(sidecar.wrapped(self.legacy_default))
        except (UnsafeBlobIdError, BadSidecarError) as error:
            raise QuarantineError(error.reason_code, str(error)) from error
        context = sidecar.context
        if context is not None and context.get("blob_id") != blob_id:
            # The id is where the blob lies. A sidecar that says otherwise was moved or swapped.
            raise QuarantineError("context_mismatch", "the sidecar is bound to another blob")
        return Seen(stored, sidecar, wrapped)

    def _stored(self, blob_id: str) -> Stored | None:
        name = self.layout.sidecar_name(blob_id)
        try:
            return self.store.read(name, limit=MAX_SIDECAR_BYTES)
        except NotFoundError:
            self._require_content(blob_id)
        except TooLargeError as error:
            raise QuarantineError("sidecar_too_large", str(error)) from error
        except NotAnObjectError as error:
            raise QuarantineError("sidecar_not_an_object", str(error)) from error
        if self.legacy_default is None:
            raise QuarantineError(
                "sidecar_missing",
                "there is no sidecar; if such blobs are legacy, set `legacy_default` in [store]",
            )
        return None

    def _require_content(self, blob_id: str) -> None:
        try:
            self.store.read_range(self.layout.content_name(blob_id), 0, 1)
        except NotFoundError:
            raise GoneError from None
        except NotAnObjectError as error:
            raise QuarantineError("content_not_an_object", str(error)) from error


def resolved(wrapped: WrappedKey) -> WrappedKey:
    """Name the master key of a DPAPI wrap, which the wrap itself says without any secret.

    Raises:
        QuarantineError: it is no blob of DPAPI, or of another master key than the sidecar names.
    """
    named = wrapped.key_version
    if named.provider != "dpapi":
        return wrapped
    _, _, guid = named.key.partition(":")
    if named != DPAPI and not is_guid(guid):
        return wrapped  # no master key is called so: no configuration lists it
    if not wrapped.ciphertext:
        raise QuarantineError(
            "wrapped_dek_missing", "DPAPI wraps the data key, but there is no `wrapped_dek`"
        )
    try:
        found = KeyVersion(f"dpapi:{Blob.parse(wrapped.ciphertext).master_key}")
    except BadBlobError as error:
        raise QuarantineError(error.reason_code, str(error)) from None
    if named not in {DPAPI, found}:
        raise QuarantineError(
            "dpapi_key_contradicts_wrap", f"the sidecar names {named}, but its wrap is of {found}"
        )
    return WrappedKey(found, wrapped.ciphertext)
