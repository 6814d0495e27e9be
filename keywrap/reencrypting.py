"""Re-encrypting: read → open → match → wrap → prove → encrypt → replace, for a batch of blobs.

Each blob gets a data key of its own, made here, and its content anew under it. A crash is safe
anywhere: the content goes to a new object, which no sidecar names before `replace`, and `replace`
is the one conditional write that names it, with the new wrap in the same record. Before it the old
pair is whole and untouched; after it the new pair is, both halves of which were read back and
opened first. What a crash leaves is an object that nobody names, and that nobody reads.

The old content is never deleted here: a reader may be on its way to it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from keywrap.contents import NEW_CONTENT, ContentError, content_format
from keywrap.contentwriting import Stopwatch, TooSlowError, write_content
from keywrap.datakey import DataKey
from keywrap.keyring import UnlistedKeyError
from keywrap.kms import ProofFailedError
from keywrap.layout import UnsafeBlobIdError
from keywrap.matching import find_content
from keywrap.moves import Goal, Move, Outcome
from keywrap.rewrapping import Rewrapper, Step
from keywrap.sidecar import BadSidecarError, Sidecar
from keywrap.stores import (
    AlreadyExistsError,
    NotAnObjectError,
    NotFoundError,
    RemovingStore,
    StoreError,
    StoreUnavailableError,
)

_HALF = 16
"""Hexadecimal digits of a generation that say whose it is; the others are random."""


def new_generation(mark: bytes, blob_id: str) -> str:
    """Name a content that a campaign is about to write.

    Half of it says whose it is. The other half is random, so that no two attempts ever share an
    object: one that was thought dead must not find another's content under the name it commits.

    Args:
        mark: the campaign's mark.
        blob_id: the blob.
    """
    return _tag(mark, blob_id) + secrets.token_hex(_HALF // 2)


def is_marked(mark: bytes, blob_id: str, generation: str | None) -> bool:
    """Whether a campaign has written the content that a sidecar names."""
    return generation is not None and generation[:_HALF] == _tag(mark, blob_id)


def _tag(mark: bytes, blob_id: str) -> str:
    # The blob is in it: an object's name that is copied into another's sidecar says nothing there.
    tag = hmac.new(mark, blob_id.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return tag.hexdigest()[:_HALF]


@dataclass(frozen=True, slots=True)
class Reencrypter(Rewrapper):
    """Gives blobs new data keys, and writes their contents anew.

    Attributes:
        beat: called for each piece of a content: a large one takes longer than a lease may stand
            still.
        measures: whether a dry run asks the store how large each content is.
    """

    beat: Callable[[], None] = lambda: None
    measures: bool = False

    def _steps(self, last: Step) -> Sequence[Step]:
        # A dry run has nothing that writes: neither the content nor the sidecar.
        copies = (self.encrypt,) if last != self.spare else (self.measure,) * self.measures
        return self.read, self.open, self.match, self.wrap, self.prove, *copies, last

    def decide(self, seen: Sequence[Move], goal: Goal) -> None:
        """Decide the blobs that this campaign has re-encrypted, and those under unlisted keys."""
        for move in seen:
            key = move.old.key_version.key
            if key not in self.keys:
                move.quarantine(UnlistedKeyError(key))
            elif is_marked(goal.mark, move.blob_id, move.sidecar.object):
                move.end(Outcome.CURRENT)

    def open(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Open each old data key: the content is read with it."""
        self._show(moves)

    def match(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Match every old data key against its content: a swapped sidecar is not laundered."""
        self._at_store(self._match_one, [move for move in moves if move.data_key])

    def wrap(self, moves: Sequence[Move], goal: Goal) -> None:
        """Make new data keys and wrap them; before the contents, so that a KMS is known away."""
        for move in moves:
            move.fresh = DataKey.generate()
            move.generation = new_generation(goal.mark, move.blob_id)
        Rewrapper.wrap(self, moves, goal)  # no `super()` in a class that `slots` makes anew

    def encrypt(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Write each content anew, to an object that no sidecar names, and read it back."""
        self._at_store(self._copy_one, moves)

    def measure(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Ask how large each content is, where the store can say so."""
        self._at_store(self._measure_one, moves)

    def _measure_one(self, move: Move) -> None:
        store = self.reader.store
        if not isinstance(store, RemovingStore):
            return
        try:
            entry = store.look(self._name(move, move.sidecar.object))
        except NotFoundError:
            move.read_again(Outcome.QUARANTINED, "content_missing", "the blob is not there")
        except (NotAnObjectError, UnsafeBlobIdError) as error:
            move.read_again(Outcome.QUARANTINED, error.reason_code, str(error))
        else:
            move.content_bytes = entry.size

    def _copy_one(self, move: Move) -> None:
        try:
            self._copy(move)
        except NotFoundError:
            self._again(move, Outcome.QUARANTINED, "content_missing", "the blob is not there")
        except AlreadyExistsError:
            move.read_again(Outcome.CONFLICT, "already_exists", "the new content's name is taken")
        except (ContentError, NotAnObjectError, UnsafeBlobIdError) as error:
            self._again(move, Outcome.QUARANTINED, error.reason_code, str(error))
        except StoreUnavailableError:
            move.unwritten = True
            raise

    def _copy(self, move: Move) -> None:
        assert move.fresh is not None  # noqa: S101 - steps run in order
        source = _Plaintext(self._old_pieces(move), self.beat)
        new = self._name(move, move.generation)
        move.watch_write = Stopwatch()
        write_content(self.reader.store, new, move.fresh, source)
        self._require_same(move, new, move.fresh, source.digest)
        # Under the blob's own name an application that knows no sidecars may have overwritten it
        # while it was read, and records of both would open: read twice alike, it is one content.
        if move.sidecar.object is None and _digest(self._old_pieces(move), self.beat) != (
            source.digest
        ):
            self._again(move, Outcome.CONFLICT, "changed_by_writer", "its content was overwritten")

    def _require_same(self, move: Move, name: str, key: DataKey, digest: bytes) -> None:
        """See that the new content opens to what the old one did.

        Raises:
            ProofFailedError: it does not; no sidecar names it.
            StoreUnavailableError: the store did not answer.
        """
        try:
            pieces = content_format(NEW_CONTENT).chunks(
                key, partial(self.reader.store.read_range, name)
            )
            is_same = _digest(pieces, self.beat) == digest
        except (ContentError, NotFoundError, NotAnObjectError):
            is_same = False
        if not is_same:
            raise ProofFailedError(
                f"the new content of blob {move.blob_id!r} does not open to what the old one does; "
                "no sidecar names it, and none of this batch was replaced"
            )

    def _old_pieces(self, move: Move) -> Iterator[bytes]:
        assert move.data_key is not None  # noqa: S101 - steps run in order
        form, read = find_content(self.reader, self.legacy_content, move.blob_id, move.sidecar)
        return form.chunks(move.data_key, read)

    def _name(self, move: Move, generation: str | None) -> str:
        return self.reader.layout.content_name(move.blob_id, generation)

    def record(self, move: Move, _goal: Goal) -> bytes:
        """Return the sidecar of the new pair; an old wrap opens no new content, so none is kept.

        Raises:
            BadSidecarError: no reader would read it back as exactly this.
        """
        assert move.new is not None  # noqa: S101 - steps run in order
        moved = move.sidecar.rewrapped(move.new, move.context, previous=None)
        return replace(moved, content=NEW_CONTENT, object=move.generation).to_bytes()

    def _replace_one(self, move: Move, goal: Goal) -> None:
        generation = move.generation
        try:
            if move.watch_write is not None:
                move.watch_write.require_time()
        except TooSlowError as error:
            self._again(move, Outcome.CONFLICT, "content_too_old", str(error))
            return
        Rewrapper._replace_one(self, move, goal)  # noqa: SLF001 - our own base
        if move.result is None or move.result.outcome is not Outcome.REWRAPPED:
            self._discard(move.blob_id, generation)

    def _again(self, move: Move, otherwise: Outcome, reason_code: str, detail: str) -> None:
        self._discard(move.blob_id, move.generation)
        move.read_again(otherwise, reason_code, detail)

    def _discard(self, blob_id: str, generation: str | None) -> None:
        """Remove a new content that lost, unless the sidecar names it after all.

        Nobody else can name it: half of its name is random and was never written anywhere. Where
        that cannot be seen, or nothing may be deleted here, it stays: it costs room and no more.
        """
        layout, store = self.reader.layout, self.reader.store
        with suppress(StoreError, BadSidecarError):
            try:
                data = store.read(layout.sidecar_name(blob_id)).data
            except NotFoundError:
                data = b"{}"
            if Sidecar.parse(data).object != generation:
                store.delete(layout.content_name(blob_id, generation))


class _Plaintext:
    """A content's plaintext as a source to encrypt, digested on its way."""

    def __init__(self, pieces: Iterator[bytes], beat: Callable[[], None]) -> None:
        self._pieces = pieces
        self._beat = beat
        self._piece = memoryview(b"")
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        return self._digest.digest()

    def read(self, size: int, /) -> bytes:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._beat()
            self._digest.update(piece)
            self._piece = memoryview(piece)
        part, self._piece = self._piece[:size], self._piece[size:]
        return bytes(part)


def _digest(pieces: Iterator[bytes], beat: Callable[[], None]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        beat()
        digest.update(piece)
    return digest.digest()
