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
from keywrap.contents import ContentError, Proof, content_format
from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing
from keywrap.keys import WrappedKey
from keywrap.kms import CLOSED, KmsError
from keywrap.layout import UnsafeBlobIdError
from keywrap.noted import unwrap, wrap
from keywrap.opening import open_many
from keywrap.reading import GoneError, QuarantineError, SidecarReader
from keywrap.rewrapping import Outcome, Result
from keywrap.segments import AuditUnavailableError
from keywrap.sidecar import MAX_SIDECAR_BYTES, BadSidecarError, Sidecar
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreUnavailableError,
)

_LISTED = 20


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
            if self._opens(kept):
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
        ) as error:
            return Result(blob_id, Outcome.QUARANTINED, error.reason_code, str(error))
        except AuditUnavailableError:
            raise
        except StoreUnavailableError as error:
            self.reader.store.check()
            return Result(blob_id, Outcome.FAILED, error.reason_code, str(error))

    def _opens(self, kept: Kept) -> bool:
        """Whether a blob opens as it lies there now.

        Raises:
            GoneError, NotFoundError: it has neither a sidecar nor a content.
            KmsError: it cannot be told, since its KEK as a whole is away or throttled.
        """
        blob_id = kept.blob_id
        try:
            seen = self.reader.read(blob_id)
        except QuarantineError:
            return False
        except GoneError:
            self._require_content(kept)
            return False
        data_key = self._opened(seen.wrapped, blob_id)
        return data_key is not None and self._proves(blob_id, seen.sidecar, data_key) is not None

    def _require_content(self, kept: Kept) -> None:
        """See that a blob without a sidecar has the content that only what is kept names.

        Raises:
            GoneError, NotFoundError: it has none.
        """
        old = sidecar_of(kept)
        if old is None or old.object is None:
            raise GoneError
        name = self.reader.layout.content_name(kept.blob_id, old.object)
        self.reader.store.read_range(name, 0, 1)

    def _opened(self, wrapped: WrappedKey, blob_id: str) -> DataKey | None:
        try:
            (key,) = open_many(self.keys, [(wrapped, {"blob_id": blob_id})], self.journal)
        except KmsError as error:
            if error.reason_code in CLOSED:
                return None  # a version that was retired: just what a restore is for
            raise
        return key if isinstance(key, DataKey) else None

    def _proves(self, blob_id: str, sidecar: Sidecar, data_key: DataKey) -> Proof | None:
        """Return what the content proves of a data key; None where the key does not open it."""
        name = self.reader.layout.content_name(blob_id, sidecar.object)
        form = content_format(sidecar.content or self.legacy_content)
        try:
            return form.proves(
                data_key, lambda start, length: self.reader.store.read_range(name, start, length)
            )
        except (ContentError, NotFoundError):
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
            return self.reader.store.read(name, limit=MAX_SIDECAR_BYTES)
        except NotFoundError:
            return None

    def _choose(self, kept: Kept, old: Sidecar, now: Sidecar | None) -> Sidecar:
        blob_id, context = kept.blob_id, {"blob_id": kept.blob_id}
        # What the store names now is to be opened: a newer content has a newer data key, and stays.
        base = old if now is None else replace(old, object=now.object, content=now.content)
        base = replace(base, dek_version=max(old.dek_version, now.dek_version if now else 0))
        wrapped = old.wrapped(self.reader.legacy_default)
        data_key = self._opened(wrapped, blob_id)
        if data_key is not None and self._proves(blob_id, base, data_key) is Proof.OPENED:
            return base.rewrapped(wrapped, context, previous=None)
        in_escrow = kept.data_key
        if in_escrow is not None and self._proves(blob_id, base, in_escrow) is Proof.OPENED:
            return base.rewrapped(self._wrapped(in_escrow, context), context, previous=None)
        raise QuarantineError(
            "backup_does_not_open", "neither what lies there nor what is kept opens the content"
        )

    def _wrapped(self, data_key: DataKey, context: dict[str, str]) -> WrappedKey:
        primary = self.keys.primary
        if primary is None:
            raise QuarantineError("no_primary", "[keys] names no primary to wrap the escrow under")
        wrapped = wrap(primary, data_key, context, self.journal)
        if unwrap(primary, wrapped, context, self.journal, "prove") != data_key:
            raise QuarantineError("proof_failed", "the new wrap does not open to the data key")
        return wrapped


def _named(stored: Stored | None) -> Sidecar | None:
    if stored is None:
        return None
    try:
        return Sidecar.parse(stored.data)
    except BadSidecarError:
        return None
