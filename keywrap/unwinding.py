"""Unwinding the two-key envelope: `seal` strips the wrap before the newest, `undo` puts it back.

Both go the way of a rewrap (`keywrap.rewrapping`), with the same care at the store: the wrap that
stays is opened and matched against the blob's own content first, and the sidecar is replaced only
if it still is exactly what was read. A crash leaves the sidecar as it was, or whole as it is to be.
"""

from collections.abc import Sequence
from dataclasses import replace

from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion
from keywrap.moves import Goal, Move, Outcome
from keywrap.rewrapping import Rewrapper
from keywrap.sidecar import BadSidecarError


def was_left(keys: KeyRing, live: KeyVersion, previous: KeyVersion, target: KeyVersion) -> bool:
    """Whether the wrap before the newest is one that a campaign to a target may have left.

    A campaign replaces no wrap that has reached its target. So what it leaves has not reached it:
    a `previous` that has was left by a later campaign, and is that one's to seal or to undo.

    Args:
        keys: the listed KEKs.
        live: the KEK version of the newest wrap.
        previous: the KEK version of the wrap before it.
        target: what the campaign wrapped under.

    Raises:
        KmsError: only the key service knows the order of its versions, and cannot be asked.
    """
    return keys.reaches(live, target) and not keys.reaches(previous, target)


class _Unwinder(Rewrapper):
    """Opens the wrap that is to stay, and matches it; wraps nothing anew."""

    __slots__ = ()

    def decide(self, seen: Sequence[Move], goal: Goal) -> None:
        """Decide the blobs that a campaign did not leave with two wraps."""
        for move in seen:
            live = move.old.key_version
            if live.key not in self.keys:
                move.quarantine(UnlistedKeyError(live.key))
            elif not self.keys.reaches(live, goal.target):
                self._elsewhere(move, goal)
            elif (previous := move.sidecar.previous) is None:
                self._alone(move)
            elif not was_left(self.keys, live, previous.key_version, goal.target):
                why = f"`previous` is under {previous.key_version}: a later campaign has left it"
                move.end(Outcome.EXCLUDED, "not_of_campaign", why)
            else:
                self._choose(move)

    def _elsewhere(self, move: Move, goal: Goal) -> None:
        """Decide a blob whose wrap is not at the campaign's target."""
        raise NotImplementedError

    def _alone(self, move: Move) -> None:
        """Decide a blob that has no wrap before the newest."""
        raise NotImplementedError

    def _choose(self, move: Move) -> None:
        """Say which wrap is to stay."""

    def open(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Open the wrap that is to stay."""
        self._show(moves)

    def match(self, moves: Sequence[Move], _goal: Goal) -> None:
        """Match every data key: after this write no other wrap is left beside it."""
        self._at_store(self._match_one, [move for move in moves if move.data_key])

    def wrap(self, moves: Sequence[Move], goal: Goal) -> None:
        """Wrap nothing."""

    def prove(self, moves: Sequence[Move], goal: Goal) -> None:
        """Prove nothing more: the wrap was opened and matched."""


class Sealer(_Unwinder):
    """Strips `previous`, where the live wrap opens the content."""

    __slots__ = ()

    def _elsewhere(self, move: Move, goal: Goal) -> None:
        live = move.old.key_version
        if move.sidecar.previous is None:
            move.end(Outcome.CURRENT)
        else:
            why = f"wrapped by {live}, not under {goal.target}: another campaign has left it"
            move.end(Outcome.EXCLUDED, "not_of_campaign", why)

    def _alone(self, move: Move) -> None:
        move.end(Outcome.CURRENT)

    def record(self, move: Move, _goal: Goal) -> bytes:
        """Return the sidecar without the wrap before the newest; see `Rewrapper.record`."""
        return replace(move.sidecar, previous=None).to_bytes()


class Undoer(_Unwinder):
    """Puts `previous` back, where it opens the content."""

    __slots__ = ()

    def _elsewhere(self, move: Move, _goal: Goal) -> None:
        move.end(Outcome.CURRENT)  # it is not where the campaign put it: nothing is to be undone

    def _alone(self, move: Move) -> None:
        move.end(
            Outcome.EXCLUDED,
            "no_previous",
            "the wrap before was not kept or is sealed: only the backups have it",
        )

    def _choose(self, move: Move) -> None:
        move.source = move.sidecar.previous

    def record(self, move: Move, _goal: Goal) -> bytes:
        """Return the sidecar with the wrap before the newest alone; see `Rewrapper.record`."""
        if move.source is None:
            raise BadSidecarError("no_previous", "there is no wrap to put back")
        return move.sidecar.rewrapped(move.source, move.context, previous=None).to_bytes()
