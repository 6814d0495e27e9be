"""The gate before `rewrap cutover on`: a fresh scan of the store that finds no legacy wrap."""

from collections.abc import Iterable
from dataclasses import dataclass

from keywrap.keys import LEGACY_PROVIDERS
from ledger import findings
from ledger.findings import CensusLine
from scheduler import store_scan
from scheduler.desk import Desk
from scheduler.store_scan import UntilOver

REASON_CODE = "legacy_wraps_remain"


@dataclass(frozen=True, slots=True)
class Remains:
    """What a scan found that the end of legacy unwrapping would lock out, or may hide.

    Attributes:
        campaign_id: the inventory campaign that was the scan.
        scanned: how many blobs it found.
        live: blobs whose data key only a legacy key opens.
        previous: blobs that keep a legacy wrap beside the new one.
        unreadable: blobs of which it cannot be told, as no key could be read.
    """

    campaign_id: int
    scanned: int
    live: int
    previous: int
    unreadable: int

    @property
    def are_none(self) -> bool:
        """Whether nothing remains."""
        return not (self.live or self.previous or self.unreadable)

    @property
    def counts(self) -> dict[str, int]:
        """The counts of the document that `rewrap cutover on --json` prints."""
        return {
            "scanned": self.scanned,
            "legacy": self.live,
            "previous": self.previous,
            "unreadable": self.unreadable,
        }

    def sentence(self) -> str:
        """Say what remains."""
        found = (
            (self.live, "blobs are under a legacy key"),
            (self.previous, "keep a legacy wrap beside the new one (`previous`)"),
            (self.unreadable, "cannot be read, so that one may hide there"),
        )
        which = ", ".join(f"{count:,} {what}" for count, what in found if count)
        return f"of {self.scanned:,} blobs {which}; nothing was changed"

    def next_command(self) -> str:
        """Say what brings the gate nearer, the largest step first."""
        if self.live:
            return "rewrap start migrate --wait"
        if self.previous:
            return "rewrap rotate-kek --wait (it puts a wrap of the managed key in their place)"
        return "rewrap inventory --export blobs.csv (its column `problem` names them)"


def scan(desk: Desk, until_over: UntilOver) -> Remains:
    """Scan the whole store now, however recent the last scan is, and wait for its end.

    Args:
        desk: the operator's desk.
        until_over: waits for a campaign's end, and shows how far it is.

    Raises:
        DeskError: the scan did not come to its end.
    """
    campaign_id = store_scan.scan(desk, until_over, "rewrap cutover on")
    with desk.ledger.begin() as connection:
        return count(campaign_id, findings.census(connection, campaign_id))


def count(campaign_id: int, lines: Iterable[CensusLine]) -> Remains:
    """Count what remains in the census of a scan."""
    lines = list(lines)
    legacy = [line for line in lines if line.provider in LEGACY_PROVIDERS]
    return Remains(
        campaign_id,
        scanned=sum(line.blobs for line in lines),
        live=sum(line.blobs for line in legacy),
        previous=sum(line.previous for line in legacy),
        unreadable=sum(line.blobs for line in lines if line.problem),
    )
