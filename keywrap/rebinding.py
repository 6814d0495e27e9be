"""Rebinding: a blob that was moved on purpose gets a wrap that is bound to its new place.

A sidecar that is bound to another blob than where it lies is quarantined, since it may have been
swapped. Only a person knows that a move was meant, so this is for one blob at a time, named by that
person. The wrap is opened with the place that the sidecar names, matched against the content at the
new place, wrapped anew and proved; a crash before the one conditional write leaves all as it was.
"""

from dataclasses import dataclass

from keywrap.contents import ContentError, Proof
from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import KeyProvider, ProofFailedError
from keywrap.matching import find_content
from keywrap.noted import unwrap, wrap
from keywrap.reading import QuarantineError, SidecarReader
from keywrap.sidecar import MAX_SIDECAR_BYTES, BadSidecarError, Sidecar


@dataclass(frozen=True, slots=True)
class Rebound:
    """What a rebinding did.

    Attributes:
        blob_id: the blob, at its new place.
        old_id: what its wrap was bound to.
        key_version: the KEK version of the new wrap.
        dropped: whether a wrap before the newest was dropped: it is bound to the old place.
    """

    blob_id: str
    old_id: str
    key_version: KeyVersion
    dropped: bool


@dataclass(frozen=True, slots=True)
class Rebinder:
    """Binds wraps of moved blobs to their new place.

    Attributes:
        reader: names the store, its layout and the key of sidecars that name none.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        journal: where each use of a key is noted.
    """

    reader: SidecarReader
    keys: KeyRing
    legacy_content: str
    journal: Journal = NO_JOURNAL

    def rebind(self, blob_id: str) -> Rebound:
        """Bind a blob's wrap to where it lies.

        Raises:
            QuarantineError: it is bound to this place already, or its sidecar cannot be used.
            UnlistedKeyError: its key is not listed, or no primary is.
            ContentError: its data key does not open the content that lies there, or nothing tells.
            ProofFailedError: the new wrap does not open to the data key.
            KmsError: a KEK cannot be used.
            ChangedError: somebody changed the sidecar meanwhile; it is as they left it.
            NotFoundError: there is no such sidecar or content.
            StoreUnavailableError: the store did not answer. Look: the write may have been made.
        """
        layout, store = self.reader.layout, self.reader.store
        name = layout.sidecar_name(blob_id)
        stored = store.read(name, limit=MAX_SIDECAR_BYTES)
        try:
            sidecar = Sidecar.parse(stored.data)
            live = sidecar.wrapped(self.reader.legacy_default)
        except BadSidecarError as error:
            raise QuarantineError(error.reason_code, str(error)) from error
        old_id = _old_id(sidecar, blob_id)
        provider = self.keys.provider(live.key_version.key)
        data_key = unwrap(provider, live, {"blob_id": old_id}, self.journal)
        self._require_match(blob_id, sidecar, data_key)
        wrapped = self._wrapped(provider, data_key, blob_id)
        moved = sidecar.rewrapped(wrapped, {"blob_id": blob_id}, previous=None)
        store.replace(name, moved.to_bytes(), stored)
        return Rebound(blob_id, old_id, wrapped.key_version, sidecar.previous is not None)

    def _require_match(self, blob_id: str, sidecar: Sidecar, data_key: DataKey) -> None:
        form, read = find_content(self.reader, self.legacy_content, blob_id, sidecar)
        if form.proves(data_key, read) is Proof.EMPTY:
            raise ContentError(
                "the content is empty, so it does not prove that the wrap is this blob's",
                "content_proves_nothing",
            )

    def _wrapped(self, old: KeyProvider, data_key: DataKey, blob_id: str) -> WrappedKey:
        """Wrap under the wrap's own KEK; under the primary, where that is a legacy key."""
        target = self.keys.primary if KeyVersion(old.key).is_legacy else old
        if target is None:
            raise UnlistedKeyError("primary")
        context = {"blob_id": blob_id}
        wrapped = wrap(target, data_key, context, self.journal)
        if unwrap(target, wrapped, context, self.journal, "prove") != data_key:
            raise ProofFailedError(
                "the new wrap does not open to the data key; nothing was changed"
            )
        return wrapped


def _old_id(sidecar: Sidecar, blob_id: str) -> str:
    old_id = (sidecar.context or {}).get("blob_id")
    if old_id is None:
        raise QuarantineError("not_bound", "the sidecar is bound to no blob: a rewrap binds it")
    if old_id == blob_id:
        raise QuarantineError("bound_already", "the sidecar is bound to this place already")
    return old_id
