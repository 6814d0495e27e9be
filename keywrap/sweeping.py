"""Removing old contents: read → age → open → match → remove, for a batch of blobs.

This is the one place that destroys what somebody wrote. An object goes only where all of this was
seen, in this order: the blob's sidecar names another content; it was last written before the grace
time began, so every reader that could be on its way to an older content has had that long; its wrap
opens now, and the content that it names was read to its end and opens with it; the object itself is
as old; the sidecar still is, byte for byte, what was read; the removal is in the audit trail. Then
it is removed by a conditional request. A crash leaves each object there or gone, and nothing else.

A content that is written and not named yet cannot be met: whoever wrote it refuses to name it
after `keywrap.contentwriting.COMMIT_WITHIN_S`, which is shorter than any grace time.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from keywrap.conditions import another_tag
from keywrap.contents import ContentError
from keywrap.keyring import UnlistedKeyError
from keywrap.layout import RESERVED, UnsafeBlobIdError
from keywrap.matching import find_content
from keywrap.moves import Goal, Move, Outcome
from keywrap.rewrapping import Rewrapper, Step
from keywrap.sidecar import MAX_SIDECAR_BYTES
from keywrap.stores import (
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    RemovingStore,
    Store,
    StoreUnavailableError,
    TooLargeError,
)

CLOCK = f"{RESERVED}clock-"
"""How the objects begin that tell a store's time; they are removed at once."""

MIN_GRACE_S = 86_400.0
"""The shortest grace time, in seconds."""


_ABANDONED = timedelta(hours=1)

NEVER = datetime.min.replace(tzinfo=UTC)
"""A horizon before which nothing was written."""


class CannotSweepError(StoreUnavailableError):
    """Nothing may be removed here. Nothing was.

    Args:
        message: a sentence for the operator.
        reason_code: a short stable code.
    """

    def __init__(self, message: str, reason_code: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


@dataclass(frozen=True, slots=True)
class Bearings:
    """What a store says of itself before anything is removed from it.

    Attributes:
        now: the time, by its own clock.
        heeds: whether it refuses to remove what is not what was seen.
    """

    now: datetime
    heeds: bool


def take_bearings(store: Store) -> Bearings:
    """Ask a store for its time, and try whether it removes by condition, on an object of our own.

    Raises:
        CannotSweepError: it cannot say how old its objects are.
        StoreUnavailableError: it did not answer.
    """
    if not isinstance(store, RemovingStore):
        raise CannotSweepError("the store does not say how old objects are", "store_without_ages")
    name = f"{CLOCK}{secrets.token_hex(16)}"
    store.create(name, b"what time is it?")
    entry = store.look(name)
    try:
        store.remove(name, replace(entry, tag=another_tag(entry.tag)))
    except ChangedError:
        heeds = True
    else:
        heeds = False
    store.remove(name, entry)
    _tidy(store, entry.written_at)
    return Bearings(entry.written_at, heeds)


def _tidy(store: Store, now: datetime) -> None:
    """Remove such objects of others who died, or had no right to remove them."""
    assert isinstance(store, RemovingStore)  # noqa: S101 - the caller looked
    for name in store.names(CLOCK):
        with suppress(NotFoundError, ChangedError):
            entry = store.look(name)
            if now - entry.written_at > _ABANDONED:
                store.remove(name, entry)


@dataclass(frozen=True, slots=True)
class Sweeper(Rewrapper):
    """Removes the contents that a scan found beside those that sidecars name.

    Attributes:
        leftovers: by blob, the generations of what a scan found; "" for the blob's own name.
        horizon: what was written at this time or later stays.
        heeds: whether the store removes by condition: content under a blob's own name, which an
            application that knows no sidecars may be overwriting, is left alone where it does not.
        beat: called for each piece of a content.
    """

    leftovers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    horizon: datetime = NEVER
    heeds: bool = False
    beat: Callable[[], None] = lambda: None

    def _steps(self, last: Step) -> Sequence[Step]:
        end = last if last == self.spare else self.remove
        return self.read, self.age, self.open, self.match, end

    def decide(self, seen: Sequence[Move], _goal: Goal) -> None:
        """Decide the blobs of which nothing may be removed, by what stands in their sidecars."""
        for move in seen:
            sidecar, key = move.sidecar, move.old.key_version.key
            if not self.leftovers.get(move.blob_id):
                move.end(Outcome.CURRENT)
            elif key not in self.keys:
                move.quarantine(UnlistedKeyError(key))
            elif move.stored is None or sidecar.object is None:
                message = "no sidecar names another content: this one is all there is"
                move.end(Outcome.EXCLUDED, "content_in_use", message)

    def age(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Leave blobs alone that were written lately: a reader may be on its way to an older one.

        Asked after the sidecar was read: had it been written in between, it would be young.
        """
        self._at_store(self._age_one, moves)

    def _age_one(self, move: Move) -> None:
        try:
            entry = self._store.look(self.reader.layout.sidecar_name(move.blob_id))
        except (NotFoundError, NotAnObjectError):
            move.read_again(Outcome.CONFLICT, "changed_by_writer", "its sidecar went away")
            return
        if entry.written_at >= self.horizon:
            message = f"its sidecar was written at {entry.written_at:%Y-%m-%d %H:%M:%S} UTC"
            move.end(Outcome.EXCLUDED, "too_young", message)

    def open(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Open the wrap of each content that stays."""
        self._show(moves)

    def match(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Read each content that stays to its end: it is all that will be left."""
        self._at_store(self._read_whole, [move for move in moves if move.data_key])

    def _read_whole(self, move: Move) -> None:
        assert move.data_key is not None  # noqa: S101 - steps run in order
        try:
            form, read = find_content(self.reader, self.legacy_content, move.blob_id, move.sidecar)
            for _ in form.chunks(move.data_key, read):
                self.beat()
        except NotFoundError:
            move.read_again(Outcome.QUARANTINED, "content_missing", "the content is not there")
        except (ContentError, NotAnObjectError, UnsafeBlobIdError) as error:
            move.read_again(Outcome.QUARANTINED, error.reason_code, str(error))

    def remove(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Remove what is old and named by nobody."""
        self._at_store(self._remove_one, [move for move in moves if move.data_key])

    def _remove_one(self, move: Move) -> None:
        kept = ""
        removed = False
        live = move.sidecar.object
        for generation in self.leftovers[move.blob_id]:
            if generation == live:
                continue
            try:
                why = self._remove(move, generation)
            except ChangedError:
                move.read_again(Outcome.CONFLICT, "changed_by_writer", "it was written meanwhile")
                return
            kept = why or kept
            removed = removed or why is None
        if kept:
            move.end(Outcome.EXCLUDED, kept, "an old content stays for now")
        else:
            move.end(Outcome.REWRAPPED if removed else Outcome.CURRENT)

    def _remove(self, move: Move, generation: str) -> str | None:
        """Remove one content, if it may go.

        Returns:
            None where it was removed; empty where it was gone already; why it stays otherwise.

        Raises:
            ChangedError: the sidecar or the object is not what it was.
        """
        stored = move.stored
        assert stored is not None  # noqa: S101 - decided otherwise
        name = self.reader.layout.content_name(move.blob_id, generation or None)
        try:
            if why := self._is_spoken_for(generation, name, stored.data):
                return why
            entry = self._store.look(name)
            if entry.written_at >= self.horizon:
                return "too_young"
            self._require_unchanged(move, stored.data)
            self.journal.removes(move.blob_id, name, entry.size)
            is_removed = self._store.remove(name, entry)
        except (NotFoundError, NotAnObjectError) as error:
            return "" if isinstance(error, NotFoundError) else error.reason_code
        move.content_bytes += entry.size * is_removed
        return None if is_removed else ""

    def _is_spoken_for(self, generation: str, name: str, sidecar: bytes) -> str:
        """Say why somebody may want a content, whatever its age; empty where nobody may."""
        if not generation:
            return "" if self.heeds else "store_ignores_conditions"
        if generation.encode() in sidecar:
            return "named_by_sidecar"  # in whatever field of whoever
        return "has_a_sidecar" if self._is_a_blob(name) else ""

    def _is_a_blob(self, name: str) -> bool:
        """Whether somebody's blob happens to be called as contents are that we name.

        No such blob is read or moved by us (`Layout.content_name` refuses it), and none removed.
        """
        layout = self.reader.layout
        if layout.blob_suffix:
            return False  # its own content has a suffix behind the generation
        try:
            self._store.look(name + layout.sidecar_suffix)
        except NotFoundError:
            return False
        return True

    def _require_unchanged(self, move: Move, data: bytes) -> None:
        name = self.reader.layout.sidecar_name(move.blob_id)
        with suppress(NotFoundError, NotAnObjectError, TooLargeError):
            if self.reader.store.read(name, limit=MAX_SIDECAR_BYTES).data == data:
                return
        raise ChangedError(f"{name!r} is no longer what was read", name=name)

    @property
    def _store(self) -> RemovingStore:
        store = self.reader.store
        if not isinstance(store, RemovingStore):
            raise CannotSweepError(
                "the store does not say how old objects are", "store_without_ages"
            )
        return store
