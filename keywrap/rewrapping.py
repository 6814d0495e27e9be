"""Rewrapping: read → open → match → wrap → prove → replace, for a batch of blobs.

Each step is a method, so that a test can stop, kill, reorder or replay at each. A crash is safe
anywhere: before `replace` the store holds the old wrap, untouched; after it, a new wrap that was
proved before it was written. Nothing is ever undone by a compensating write. A dry run goes the
same way up to `replace`, and has nothing that writes in its place.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from keywrap.contents import ContentError
from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    DeniedError,
    KmsError,
    ProofFailedError,
    RefusedError,
    ServerSideRewrap,
    UnavailableError,
    VersionOrder,
)
from keywrap.layout import UnsafeBlobIdError
from keywrap.matching import require_match
from keywrap.moves import (
    READS,
    Goal,
    Move,
    Outcome,
    Prove,
    Report,
    Result,
    Selection,
    selects,
)
from keywrap.noted import rewrap_many, unwrap_many, wrap_many
from keywrap.opening import open_each
from keywrap.reading import GoneError, QuarantineError, SidecarReader
from keywrap.sidecar import BadSidecarError
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    HoldingStore,
    NotAnObjectError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from keywrap.storewatch import StoreWatch

__all__ = [
    "READS",
    "STORE_FAILURES",
    "Goal",
    "Move",
    "Outcome",
    "ProofFailedError",
    "Prove",
    "Report",
    "Result",
    "Rewrapper",
    "Selection",
    "selects",
]

STORE_FAILURES = 10
"""So many failures in a batch without one write that succeeds are the store's: a full disk."""

Step = Callable[[Sequence[Move], Goal], None]


@dataclass(frozen=True, slots=True)
class Rewrapper:
    """Moves data keys from one KEK version to another.

    Attributes:
        reader: reads sidecars, and names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        pool: threads for store requests.
        before: called with the name of each step before it; tests stop and kill there.
        journal: where each use of a key is noted, before anything is done with what it gave.
        timed: returns the same step of one blob at the store, for whoever times it.
    """

    reader: SidecarReader
    keys: KeyRing
    legacy_content: str
    pool: Executor
    before: Callable[[str], None] = lambda _step: None
    journal: Journal = NO_JOURNAL
    timed: Callable[[Callable[[Move], None]], Callable[[Move], None]] = lambda step: step

    def rewrap(self, blob_ids: Iterable[str], goal: Goal) -> Report:
        """Bring blobs to the goal.

        Args:
            blob_ids: the blobs; a batch is a few hundred, since all steps hold it at once.
            goal: what is wanted of each.

        Returns:
            A result for each blob, unless the batch was interrupted.
        """
        return self._run(blob_ids, goal, self.replace)

    def dry_run(self, blob_ids: Iterable[str], goal: Goal) -> Report:
        """See what `rewrap` would do: every step but the last, which alone writes.

        Keys are used as in earnest, so a right that is missing is found.

        Args:
            blob_ids: the blobs; as many as `rewrap` takes at once.
            goal: what a campaign would want of each.

        Returns:
            As `rewrap` does; `rewrapped` is a blob that would be.
        """
        return self._run(blob_ids, goal, self.spare)

    def _run(self, blob_ids: Iterable[str], goal: Goal, last: Step) -> Report:
        watch = StoreWatch(self.reader.store.check)
        moves = [Move(blob_id, watch) for blob_id in blob_ids]
        store = self.reader.store
        try:
            with store.held() if isinstance(store, HoldingStore) else nullcontext():
                while pending := [move for move in moves if move.is_pending]:
                    self._pass(pending, goal, last)
            self._tell_failures_apart(moves)
        except (KmsError, StoreUnavailableError, ProofFailedError) as interruption:
            # What was away is pending still: it may have been the store as a whole.
            decided = [m.result for m in moves if m.result]
            return Report([r for r in decided if r.outcome is not Outcome.FAILED], interruption)
        held = next((move.held for move in moves if move.held), None)
        some = isinstance(held, DeniedError)  # what is slow or away is so for the next batch too
        return Report([m.result for m in moves if m.result], held, concerns_some=some)

    def _at_store(self, step: Callable[[Move], None], moves: Sequence[Move]) -> None:
        """Take each blob through a step at the store, until the store is found to be away."""
        step = self.timed(step)

        def take(move: Move) -> None:
            if move.watch.is_away:
                return
            try:
                step(move)
            except StoreUnavailableError as error:
                move.read_again(Outcome.FAILED, error.reason_code, str(error))
                move.watch.failed()
            else:
                move.watch.answered()

        list(self.pool.map(take, moves))
        if moves:
            moves[0].watch.require_there()

    def _tell_failures_apart(self, moves: Sequence[Move]) -> None:
        """Blame a few failures on the blobs, but many and nothing else on the store."""
        outcomes = Counter(move.result.outcome for move in moves if move.result)
        if outcomes[Outcome.FAILED]:
            self.reader.store.check()
        unwritten = [m.result for m in moves if m.unwritten and m.result]
        failed = [result for result in unwritten if result.outcome is Outcome.FAILED]
        if len(failed) >= STORE_FAILURES and not outcomes[Outcome.REWRAPPED]:
            raise StoreUnavailableError(f"the store takes no writes: {failed[0].detail}")

    def _pass(self, moves: Sequence[Move], goal: Goal, last: Step) -> None:
        for step in self._steps(last):
            self.before(step.__name__)
            step([m for m in moves if m.is_pending and (m.seen or step == self.read)], goal)

    def _steps(self, last: Step) -> Sequence[Step]:
        return self.read, self.open, self.match, self.wrap, self.prove, last

    def read(self, moves: Sequence[Move], goal: Goal) -> None:
        """Read each sidecar, and decide what needs no rewrap."""
        self._at_store(self._read_one, moves)
        if any(move.seen is None for move in moves):
            self.reader.store.check()  # an object that is away is its own matter; a store waits
        self.decide([move for move in moves if move.seen and not move.result], goal)

    def decide(self, seen: Sequence[Move], goal: Goal) -> None:
        """Decide the blobs that need no rewrap, by what stands in their sidecars."""
        versions = {move.old.key_version for move in seen}
        there = {version for version in versions if self.keys.reaches(version, goal.target)}
        unborn = self._unborn(there - {goal.target})
        for move in seen:
            version = move.old.key_version
            if version.key not in self.keys:
                # Relabelled, a wrap must not pass for one that is none of this campaign's business.
                move.quarantine(UnlistedKeyError(version.key))
            elif version in unborn:
                message = f"{version} does not exist: the sidecar names a version yet to come"
                move.end(Outcome.QUARANTINED, "key_version_unknown", message)
            elif version in there:
                move.end(Outcome.CURRENT)
            elif not selects(goal.selection, version):
                move.end(Outcome.EXCLUDED, f"not_{goal.selection}", f"wrapped by {version}")

    def _unborn(self, beyond: Collection[KeyVersion]) -> set[KeyVersion]:
        """Return which of the versions beyond the target do not exist yet."""
        keys = {version.key for version in beyond}
        providers = {key: self.keys.provider(key) for key in keys}
        # One that knows the order of its versions has just found them among those that are there.
        counted = {key: p for key, p in providers.items() if not isinstance(p, VersionOrder)}
        newest = {key: provider.current_version() for key, provider in counted.items()}
        return {v for v in beyond if v.key in newest and not newest[v.key].satisfies(v)}

    def _read_one(self, move: Move) -> None:
        try:
            move.seen = self.reader.read(move.blob_id)
        except QuarantineError as error:
            move.quarantine(error)
        except GoneError:
            move.end(Outcome.GONE)

    def open(self, moves: Sequence[Move], goal: Goal) -> None:
        """Unwrap each data key, unless the KMS can move it without showing it."""
        self._show([move for move in moves if not self._moves_server_side(move, goal)])

    def _show(self, moves: Sequence[Move]) -> None:
        wraps = [(move.old, move.context) for move in moves]
        opened = open_each(self.keys, wraps, self.journal)
        for move, key in zip(moves, opened, strict=True):
            if isinstance(key, DataKey):
                move.data_key = key
            elif isinstance(key, RefusedError | UnlistedKeyError):
                move.quarantine(key)
            else:
                move.hold(key)

    def _moves_server_side(self, move: Move, goal: Goal) -> bool:
        target = self.keys.provider(goal.target.key)
        return (
            goal.prove is Prove.SAMPLE
            and isinstance(target, ServerSideRewrap)
            and target.rewraps_from(move.old.key_version.key)
        )

    def match(self, moves: Sequence[Move], goal: Goal) -> None:
        """Prove each data key that its wrap does not bind against the blob's own content.

        A sidecar that was swapped with another blob's opens well, but not this blob: binding it
        under the new KEK would launder it.
        """
        unbound = [
            move
            for move in moves
            if move.data_key
            and (
                goal.opens_all
                or goal.prove is Prove.CONTENT
                # The target's own KEK binds, and was seen to: another's word is not taken for it.
                or move.old.key_version.key != goal.target.key
                or not self.keys.provider(move.old.key_version.key).binds_context
            )
        ]
        self._at_store(self._match_one, unbound)

    def _match_one(self, move: Move) -> None:
        try:
            require_match(self.reader, self.keys, self.legacy_content, move)
        except NotFoundError:
            # A writer may have replaced or deleted both since the sidecar was read: look again.
            move.read_again(
                Outcome.QUARANTINED, "content_missing", "the sidecar's blob is not there"
            )
        except (ContentError, NotAnObjectError, UnsafeBlobIdError) as error:
            move.read_again(Outcome.QUARANTINED, error.reason_code, str(error))

    def wrap(self, moves: Sequence[Move], goal: Goal) -> None:
        """Wrap each data key under the target, and check what the answer names."""
        target = self.keys.provider(goal.target.key)
        opened = [move for move in moves if move.kept_key]
        keys = [(move.kept_key, move.context) for move in opened if move.kept_key]
        wraps = wrap_many(target, keys, goal.target, self.journal)
        self._take(opened, wraps, goal)
        closed: dict[KeyVersion, list[Move]] = {}
        for move in moves:
            if not move.kept_key and move.is_pending:
                closed.setdefault(move.old.key_version, []).append(move)
        if isinstance(target, ServerSideRewrap):
            for group in closed.values():
                self._rewrap_group(group, target, goal)

    def _rewrap_group(self, moves: Sequence[Move], target: ServerSideRewrap, goal: Goal) -> None:
        try:
            olds = [(move.old, move.context) for move in moves]
            wraps = rewrap_many(target, olds, goal.target, self.journal)
        except KmsError as error:
            for move in moves:  # their version refuses, perhaps: the others go on
                move.hold(error)
        else:
            self._take(moves, wraps, goal)

    def _take(
        self, moves: Sequence[Move], wraps: Sequence[WrappedKey | KmsError], goal: Goal
    ) -> None:
        for move, wrapped in zip(moves, wraps, strict=True):
            if isinstance(wrapped, RefusedError):
                move.quarantine(wrapped)
            elif isinstance(wrapped, KmsError):
                move.hold(wrapped)
            elif not self.keys.reaches(wrapped.key_version, goal.target):
                # A service that is slow to show a new version everywhere: wait, do not accept.
                raise UnavailableError(
                    f"the KMS wrapped under {wrapped.key_version}, not yet under {goal.target}",
                    key=goal.target.key,
                    reason_code="version_not_current",
                )
            else:
                move.new = wrapped

    def prove(self, moves: Sequence[Move], goal: Goal) -> None:
        """Open each new wrap with the new KEK and compare; one failure stops the whole batch."""
        if goal.opens_all:
            self._unveil([move for move in moves if move.new and not move.data_key])
        known = [(move, move.new) for move in moves if move.kept_key and move.new]
        target = self.keys.provider(goal.target.key)
        if not known or (target.proves_wraps and not goal.opens_all):
            return
        news = [(new, move.context) for move, new in known]
        opened = unwrap_many(target, news, self.journal, "prove")
        for (move, new), key in zip(known, opened, strict=True):
            if isinstance(key, KmsError) and not isinstance(key, RefusedError):
                move.hold(key)
            elif isinstance(key, RefusedError) or key != move.kept_key:
                raise ProofFailedError(
                    f"the new wrap of blob {move.blob_id!r} under {new.key_version} does not open "
                    "to its data key; no sidecar of this batch was replaced"
                )

    def _unveil(self, moves: Sequence[Move]) -> None:
        """Open what the key service moved unseen, and match it against the blobs' content."""
        self._show(moves)
        self._at_store(self._match_one, [move for move in moves if move.data_key])

    def replace(self, moves: Sequence[Move], goal: Goal) -> None:
        """Replace each sidecar, only if it still is exactly what was read."""
        self._at_store(partial(self._replace_one, goal=goal), moves)

    def spare(self, moves: Sequence[Move], goal: Goal) -> None:
        """End a dry run: make each record that `replace` would write, and write none."""
        for move in moves:
            try:
                self.record(move, goal)
            except BadSidecarError as error:
                move.quarantine(error)
            else:
                move.end(Outcome.REWRAPPED)

    def record(self, move: Move, goal: Goal) -> bytes:
        """Return the sidecar that is to stand in the place of the one that was read.

        Raises:
            BadSidecarError: no reader would read it back as exactly this.
        """
        return move.record(keep_previous=goal.keep_previous)

    def _replace_one(self, move: Move, goal: Goal) -> None:
        name = self.reader.layout.sidecar_name(move.blob_id)
        try:
            data = self.record(move, goal)
            if move.stored is None:
                self.reader.store.create(name, data)
            else:
                self.reader.store.replace(name, data, move.stored)
        except (ChangedError, AlreadyExistsError, NotFoundError, NotAnObjectError):
            move.read_again(Outcome.CONFLICT, "changed_by_writer", "another writer came first")
        except BadSidecarError as error:
            move.quarantine(error)
        except StoreUnavailableError as error:
            self._read_back(move, name, data, error)
        else:
            move.end(Outcome.REWRAPPED)

    def _read_back(self, move: Move, name: str, meant: bytes, cause: StoreUnavailableError) -> None:
        """Tell what a write without an answer came to. Never undo it: it may have been seen.

        Raises:
            StoreUnavailableError: it was not made, or that cannot be told.
        """
        try:
            if self.reader.store.read(name).data == meant:
                move.end(Outcome.REWRAPPED)
                return
        except StoreUnavailableError as error:
            cause = error
        except StoreError:
            pass  # what is there now is no sidecar: the blob is read again
        move.unwritten = True
        raise cause
