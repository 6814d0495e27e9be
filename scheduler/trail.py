"""Looking at the audit trail as an auditor does: the ledger, the folders, the signed head."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keywrap.auditchain import Entry, Head
from keywrap.audithead import SignedHead
from keywrap.segments import contents, examine, names
from keywrap.trailcheck import check_trail, read_head
from keywrap.trailfaults import Fault, FaultKind
from ledger import audit
from ledger.connection import Ledger
from scheduler.desk import USAGE, Desk, DeskError
from scheduler.headkeeper import head_file


@dataclass
class Verdict:
    """What was found.

    Attributes:
        is_signed: whether the configuration names a key that signs heads.
        head: the signed head; None where there is none to be trusted.
        entries: how many segments are chained.
        events: how many events they hold.
        unchained: how many segments wait for the next tick.
        unclaimed: segments on disk that the ledger does not know: in work, or what a worker that
            died had not recorded.
        faults: what is wrong.
    """

    is_signed: bool
    head: SignedHead | None = None
    entries: int = 0
    events: int = 0
    unchained: int = 0
    unclaimed: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def unsigned(self) -> int:
        """How many segments were chained since the head was signed that was read."""
        return max(0, self.entries - (self.head.head.entries if self.head else 0))


def folders_of(desk: Desk, given: Sequence[Path]) -> list[Path]:
    """Return where to look for segments: the given folders, or the configured one."""
    return list(given) or [Path(desk.settings.audit.directory)]


def verify(
    desk: Desk, folders: Sequence[Path], known: Sequence[Head], tell: Callable[[Fault], None]
) -> Verdict:
    """Look at the whole trail.

    Args:
        desk: the settings and the ledger.
        folders: where the files of its segments may be.
        known: heads that the auditor has kept, which the chain must go through.
        tell: told of each fault as it is found.

    Raises:
        DeskError: there is no ledger, or a folder cannot be read.
        StoreError: the store did not answer.
    """
    # In this order nothing that is written meanwhile is taken for a fault: files are there before
    # their rows, rows before their places, and places before they are signed.
    on_disk = segment_names(folders)
    file = head_file(desk.settings)
    head = read_head(file) if file else None
    verdict = Verdict(is_signed=file is not None, head=head.signed if head else None)
    with desk.ledger.begin() as connection:
        waiting = {segment.name: segment for segment in audit.unchained(connection)}
    verdict.unchained = len(waiting)

    def seen(entry: Entry) -> None:
        verdict.entries += 1
        verdict.events += entry.segment.events
        on_disk.discard(entry.segment.name)
        waiting.pop(entry.segment.name, None)

    for fault in check_trail(audit.entries(desk.ledger), folders, head, seen):
        _add(verdict, fault, tell)
    for segment in waiting.values():
        on_disk.discard(segment.name)
        if changed := examine(segment, folders):
            _add(verdict, changed, tell)
    for earlier in known:
        if lost := _lost(desk.ledger, earlier):
            _add(verdict, lost, tell)
    verdict.unclaimed = sorted(on_disk)
    return verdict


def _lost(ledger: Ledger, known: Head) -> Fault | None:
    with ledger.begin() as connection:
        if audit.goes_through(connection, known):
            return None
    said = f"the chain does not go through {known}, which it went through once"
    return Fault(FaultKind.HEAD_MISMATCH, "", said)


def _add(verdict: Verdict, fault: Fault, tell: Callable[[Fault], None]) -> None:
    verdict.faults.append(fault)
    tell(fault)


def segment_names(folders: Sequence[Path]) -> set[str]:
    """Return the names of all segments that lie in folders.

    Raises:
        DeskError: one cannot be read.
    """
    return set().union(*(_names(folder) for folder in folders))


def _names(folder: Path) -> set[str]:
    try:
        return names(folder)
    except FileNotFoundError:
        return set()  # no worker has written there yet; what the ledger knows of is missing then
    except OSError as error:
        raise DeskError(
            f"{folder} cannot be read: {error.strerror}",
            exit_code=USAGE,
            reason_code="audit_folder_unreadable",
            next_command="rewrap audit verify --directory D",
        ) from error


def export(ledger: Ledger, campaign_id: int, folders: Sequence[Path]) -> Iterator[bytes | Fault]:
    """Yield a campaign's events, a segment's lines at a time, or what is wrong with a segment."""
    with ledger.begin() as connection:
        waiting = {segment.name: segment for segment in audit.unchained(connection, campaign_id)}
    for entry in audit.entries(ledger, campaign_id):
        waiting.pop(entry.segment.name, None)
        yield contents(entry.segment, folders)
    for segment in waiting.values():
        yield contents(segment, folders)
