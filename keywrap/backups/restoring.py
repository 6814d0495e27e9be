"""Restoring wraps from a backup: only where a blob does not open now, and only what opens it.

What the store holds now decides, never the age of the backup: a blob that opens is left alone. A
sidecar is replaced by compare-and-set against exactly what was found not to open, so a writer who
comes in between wins. `dek_version` grows, as with every change of a wrap.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from keywrap.backups.bundle import Kept
from keywrap.backups.opening import sidecar_of
from keywrap.contents import ContentError, Proof
from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing
from keywrap.keys import WrappedKey
from keywrap.kms import CLOSED, KmsError
from keywrap.layout import UnsafeBlobIdError
from keywrap.matching import find_content
from keywrap.noted import unwrap, wrap
from keywrap.opening import open_many
from keywrap.reading import GoneError, QuarantineError, SidecarReader, resolved
from keywrap.rewrapping import Outcome, Result
from keywrap.segments import AuditUnavailableError
from keywrap.sidecar import MAX_DEK_VERSION, BadSidecarError, Sidecar
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreUnavailableError,
    TooLargeError,
)

_LISTED = 20

_LOST = CLOSED | {"key_not_found", "mount_not_found", "key_soft_deleted"}
"""Reason codes of a KEK that opens nothing any more, as far as its service can tell.

It is just what a restore is for. A service that does not answer is another thing: then it cannot be
told which blobs open, and the restore stops.
"""

_DAMAGED_BYTES = 64 * 1024 * 1024
"""Most bytes of a damaged sidecar that are read, to be compared with when it is replaced."""


@dataclass(slots=True)
class Restored:
    """What a restore came to.

    Attributes:
        counts: blobs by outcome: `rewrapped` were restored, `current` open anyway, `conflict` a
            writer changed meanwhile, `gone` have no content, `quarantined` do not open with what
            the backup keeps either.
        troubles: the first blobs that need a person, and why.
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    troubles: list[Result] = field(default_factory=list)

    def add(self, results: Sequence[Result]) -> None:
        """Add the results of some blobs."""
        self.counts.update(result.outcome for result in results)
        bad = {Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT}
        room = _LISTED - len(self.troubles)
        self.troubles += [r for r in results if r.outcome in bad][: max(0, room)]

    def document(self) -> dict[str, Any]:
        """Return the document that `rewrap backup restore --json` prints."""
        return {
            "restored": self.counts[Outcome.REWRAPPED],
            **{o.value: self.counts[o] for o in Outcome if o is not Outcome.REWRAPPED},
            "blobs": [
                {"blob_id": r.blob_id, "outcome": r.outcome, "reason_code": r.reason_code}
                for r in self.troubles
            ],
        }

    def lines(self) -> list[str]:
        """Say it, a line each."""
        counts = self.counts
        return [
            f"{counts[Outcome.REWRAPPED]:,} restored, {counts[Outcome.CURRENT]:,} open as they are",
            *(f"{counts[o]:,} {o}" for o in (Outcome.GONE, Outcome.CONFLICT) if counts[o]),
            *(f"{r.outcome} {r.blob_id!r}: {r.reason_code}: {r.detail}" for r in self.troubles),
        ]


@dataclass(frozen=True, slots=True)
class Restorer:
    """Puts wraps of a backup back.

    Attributes:
        reader: reads sidecars, and names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        pool: threads for store requests.
        journal: where each use of a key is noted.
    """

    reader: SidecarReader
    keys: KeyRing
    legacy_content: str
    pool: Executor
    journal: Journal = NO_JOURNAL

    def restore(self, kept: Sequence[Kept]) -> list[Result]:
        """Restore blobs of one part.

        Raises:
            KmsError: a KEK as a whole cannot be used; what was restored stays.
            StoreUnavailableError: the store as a whole is away, or the audit trail.
        """
        return list(self.pool.map(self._restore, kept))

    def _restore(self, kept: Kept) -> Result:
        blob_id = kept.blob_id
        try:
            if self._opens(blob_id):
                return Result(blob_id, Outcome.CURRENT)
            return self._put_back(kept)
        except (GoneError, NotFoundError):
            return Result(blob_id, Outcome.GONE)
        except (ChangedError, AlreadyExistsError):
            return Result(blob_id, Outcome.CONFLICT, "changed_by_writer", "a writer came first")
        except (
            QuarantineError,
            BadSidecarError,
            UnsafeBlobIdError,
            ContentError,
            NotAnObjectError,
            TooLargeError,
        ) as error:
            return Result(blob_id, Outcome.QUARANTINED, error.reason_code, str(error))
        except AuditUnavailableError:
            raise
        except StoreUnavailableError as error:
            self.reader.store.check()
            return Result(blob_id, Outcome.FAILED, error.reason_code, str(error))

    def _opens(self, blob_id: str) -> bool:
        """Whether a blob opens as it lies there now.

        Raises:
            KmsError: it cannot be told, since its KEK as a whole is away or throttled.
        """
        try:
            seen = self.reader.read(blob_id)
        except (QuarantineError, GoneError):
            return False  # what is kept may say that the content lies elsewhere: `_choose` looks
        data_key = self._opened(seen.wrapped, blob_id)
        return data_key is not None and self._proves(blob_id, seen.sidecar, data_key) is not None

    def _opened(self, wrapped: WrappedKey, blob_id: str) -> DataKey | None:
        try:
            (key,) = open_many(self.keys, [(wrapped, {"blob_id": blob_id})], self.journal)
        except KmsError as error:
            if error.reason_code in _LOST:
                return None
            raise
        return key if isinstance(key, DataKey) else None

    def _proves(self, blob_id: str, sidecar: Sidecar, data_key: DataKey) -> Proof | None:
        """Return what the content proves of a data key; None where the key does not open it."""
        try:
            form, read = find_content(self.reader, self.legacy_content, blob_id, sidecar)
            return form.proves(data_key, read)
        except (ContentError, NotFoundError, UnsafeBlobIdError):
            return None

    def _put_back(self, kept: Kept) -> Result:
        """Put back what opens the content: the wrap that was kept, or the key in escrow.

        Raises:
            QuarantineError: nothing that is kept opens it.
        """
        blob_id = kept.blob_id
        name = self.reader.layout.sidecar_name(blob_id)
        stored = self._stored(name)
        old = sidecar_of(kept)
        if old is None:
            raise QuarantineError("backup_sidecar_malformed", "what is kept is no sidecar")
        sidecar = self._choose(kept, old, _named(stored))
        data = sidecar.to_bytes()
        if stored is None:
            self.reader.store.create(name, data)
        elif stored.data != data:
            self.reader.store.replace(name, data, stored)
        return Result(blob_id, Outcome.REWRAPPED)

    def _stored(self, name: str) -> Stored | None:
        try:
            return self.reader.store.read(name, limit=_DAMAGED_BYTES)
        except NotFoundError:
            return None

    def _choose(self, kept: Kept, old: Sidecar, now: Sidecar | None) -> Sidecar:
        """Return the sidecar whose wrap opens the content.

        Raises:
            GoneError: there is no content any more.
            QuarantineError: nothing that is kept opens it.
        """
        blob_id, context = kept.blob_id, {"blob_id": kept.blob_id}
        bases = [base for base in _bases(blob_id, old, now) if self._is_there(blob_id, base)]
        if not bases and now is None:
            raise GoneError
        # One content is the blob's: the first that is there. What is left is its format.
        bases = [base for base in bases if base.object == bases[0].object]
        version = max(old.dek_version, now.dek_version if now else 0)
        if version >= MAX_DEK_VERSION:
            version = old.dek_version  # no writer counts so far: it is damaged as well
        wrapped = self._kept_wrap(old)
        opened = self._opened(wrapped, blob_id) if wrapped else None
        # Without a wrap of its own the key is every blob's, whether or not it is listed here.
        is_tied = not old.ciphertext or (wrapped is not None and self._is_tied(wrapped))
        # The wrap that was kept comes first, since it needs no KEK that was not needed before.
        for data_key, in_escrow in ((opened, False), (kept.data_key, True)):
            if data_key is None:
                continue
            for base in bases:
                proof = self._proves(blob_id, base, data_key)
                if proof is Proof.OPENED or (proof is Proof.EMPTY and is_tied):
                    if in_escrow or wrapped is None:
                        wrapped = self._wrapped(data_key, context)
                    return replace(base, dek_version=version).rewrapped(wrapped, context, None)
        raise QuarantineError(
            "backup_does_not_open", "neither what lies there nor what is kept opens the content"
        )

    def _kept_wrap(self, old: Sidecar) -> WrappedKey | None:
        """Return the wrap that was kept; None where nothing says here which key made it."""
        try:
            return resolved(old.wrapped(self.reader.legacy_default))
        except (BadSidecarError, QuarantineError):
            return None

    def _is_there(self, blob_id: str, sidecar: Sidecar) -> bool:
        try:
            name = self.reader.layout.content_name(blob_id, sidecar.object)
            self.reader.store.read_range(name, 0, 1)
        except (NotFoundError, UnsafeBlobIdError):
            return False
        return True

    def _is_tied(self, wrapped: WrappedKey) -> bool:
        """Whether a wrap cannot be another blob's, so that an empty content need not prove it."""
        version = wrapped.key_version
        if version.key in self.keys:
            return self.keys.provider(version.key).binds_context
        return not version.is_legacy  # a managed KEK, lost and listed no more: each binds

    def _wrapped(self, data_key: DataKey, context: dict[str, str]) -> WrappedKey:
        primary = self.keys.primary
        if primary is None:
            raise QuarantineError("no_primary", "[keys] names no primary to wrap the escrow under")
        wrapped = wrap(primary, data_key, context, self.journal)
        if unwrap(primary, wrapped, context, self.journal, "prove") != data_key:
            raise QuarantineError("proof_failed", "the new wrap does not open to the data key")
        return wrapped


def _bases(blob_id: str, old: Sidecar, now: Sidecar | None) -> list[Sidecar]:
    """Return what may be said of where the content lies and how it is encrypted, the likely first.

    What the store names now comes first: a newer content has a newer data key, and stays. But a
    sidecar that is bound to another blob was moved here, and says nothing of this one.

    Args:
        blob_id: the blob.
        old: the sidecar that is kept.
        now: the one that lies there; None where there is none that can be read.
    """
    if now is None or (now.context or {}).get("blob_id", blob_id) != blob_id:
        return [old]
    there = replace(old, object=now.object, content=now.content)
    # Whoever writes contents under names of their own binds the sidecar too. One that is bound to
    # nothing and names a content that is not there is damaged, as is a format that is another's.
    is_doubtful = now.context is None or now.object == old.object
    return [there, old] if is_doubtful else [there]


def _named(stored: Stored | None) -> Sidecar | None:
    if stored is None:
        return None
    try:
        return Sidecar.parse(stored.data)
    except BadSidecarError:
        return None
