"""What tasks tell of their work, for whoever counts it: once a batch, never once a blob."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from keywrap import metering
from keywrap.journal import NoJournal, Operation, SegmentJournal, Use
from keywrap.keys import KeyVersion
from keywrap.metering import no_meter, outcome_of
from keywrap.moves import Result
from keywrap.segments import Segment
from ledger.states import Kind, ShardKind

_Item = TypeVar("_Item")


class Meter:
    """Hears what tasks do, from many threads. This one forgets it; none may raise."""

    def decided(self, kind: Kind, outcomes: Mapping[str, int]) -> None:
        """Hear of blobs of a campaign of some kind by outcomes, once the ledger has them."""

    def used(self, provider: str, operation: Operation, outcome: str, uses: int) -> None:
        """Hear of uses of a key; each opened or made one wrap, or failed to."""

    def stragglers(self, versions: Mapping[KeyVersion | None, int]) -> None:
        """Hear of blobs that a fresh scan found still to move, by KEK version."""

    def lease_lost(self) -> None:
        """Hear of a shard that another worker took over."""

    def worked(self, kind: ShardKind, seconds: float) -> None:
        """Hear of a shard that was worked on, and for how long."""

    def timed(self, step: Callable[[_Item], None]) -> Callable[[_Item], None]:
        """Return the same step at the store, some of whose calls may be timed."""
        return step

    def requests(self, provider: str) -> metering.Meter:  # noqa: ARG002 - for those that count
        """Return what hears of the requests to the service of a provider's key."""
        return no_meter

    def watch(self, key: str, provider: metering.CountedWraps) -> None:
        """Watch how far a KEK is worn, from now on."""


UNMETERED = Meter()


class MeteredJournal:
    """A journal whose notes of uses of keys are counted.

    Args:
        journal: takes the notes.
        meter: counts.
    """

    def __init__(self, journal: SegmentJournal | NoJournal, meter: Meter) -> None:
        self._journal = journal
        self._meter = meter

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Note uses of keys and count them; see `Journal.used`."""
        uses = uses if isinstance(uses, Collection) else list(uses)
        self._journal.used(operation, uses)
        # By class and key alone: there is one of these for each blob.
        found = Counter((version.key, result.__class__) for _, version, result, _ in uses)
        for (key, kind), count in found.items():
            self._meter.used(KeyVersion(key).provider, operation, outcome_of(kind), count)

    def removes(self, blob_id: str, name: str, size: int) -> None:
        """Note what is about to be removed; see `Journal.removes`."""
        self._journal.removes(blob_id, name, size)

    def decided(self, results: Sequence[Result]) -> None:
        """Note what blobs came to; see `SegmentJournal.decided`."""
        self._journal.decided(results)

    def close(self) -> Segment | None:
        """End the segment; see `SegmentJournal.close`."""
        return self._journal.close()

    def abandon(self) -> None:
        """Let go of what is not closed; see `SegmentJournal.abandon`."""
        self._journal.abandon()
