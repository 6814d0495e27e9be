"""Rebuilding a lost ledger from the store: what is learned, in which order, and what is not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keywrap.audithead import AuditHeadError
from keywrap.config import open_store
from keywrap.keys import KeyVersion
from keywrap.stores import Store
from ledger import findings, marks, rebuilding
from ledger.campaigns import Request
from ledger.findings import CensusLine
from ledger.rebuilding import Rebuilt
from ledger.states import Kind
from scheduler import headkeeper, store_scan
from scheduler.desk import REFUSED, Desk, DeskError, operator
from scheduler.publishing import press_of
from scheduler.store_scan import UntilOver
from scheduler.trail import segment_names
from tasks.marks import MARK, read_mark
from workers.composition import vault_of

_AGAIN = "rewrap ledger rebuild"
_BACKUP = "campaign-"
"""How the folders of backups begin; see `tasks.backup.folder_of`."""


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """What a ledger was rebuilt to.

    Attributes:
        scan_id: the inventory campaign that was the scan.
        census: who wraps what.
        rebuilt: the campaigns that have left old wraps in the store.
        lost_id: the highest number of a campaign that was lost, as far as anything tells; 0: none.
        control_serial: of the control file; None where none is configured.
        audit_head: the signed head of the lost chain; empty where there is none.
        head_trouble: why that head is not to be trusted; empty where it is.
    """

    scan_id: int
    census: list[CensusLine]
    rebuilt: list[Rebuilt]
    lost_id: int
    control_serial: int | None
    audit_head: str
    head_trouble: str

    @property
    def scanned(self) -> int:
        """How many blobs the store has."""
        return sum(line.blobs for line in self.census)

    @property
    def elsewhere(self) -> int:
        """How many old wraps no rebuilt campaign stands for, such as beside an unlisted key."""
        return sum(line.previous for line in self.census) - sum(r.blobs for r in self.rebuilt)


def rebuild(desk: Desk, folders: Sequence[Path], until_over: UntilOver) -> Rebuilding:
    """Rebuild the inventory, and the outcomes that have left a trace, from the store.

    Cut off anywhere, it is run again: until its last transaction there is nothing in the ledger
    but a mark, a publication and a scan, which a second run finds or makes anew.

    Args:
        desk: the operator's desk.
        folders: where segments of the lost ledger's audit trail may be.
        until_over: waits for a campaign's end.

    Raises:
        DeskError: the store was never rewrapped, or is another one; or the scan did not end.
        RequestRefusedError: the ledger is not a lost one.
        ControlError: the control file is not to be trusted.
        StoreError: the store, or the place of backups, did not answer.
    """
    with desk.ledger.begin() as connection:
        rebuilding.require_nothing_to_lose(connection)
    config = desk.settings.keywrap
    _learn_mark(desk, open_store(config))
    control = press_of(desk).newest().control.serial if config.control is not None else None
    head, trouble = _head(desk)
    with desk.ledger.begin() as connection:
        lost = rebuilding.number_after(connection, _last_id(desk, folders))
    scan_id = store_scan.scan(desk, until_over, _AGAIN)
    listed = {KeyVersion.parse(uri).key for uri in config.keys.uris()}
    asked = Request(Kind.INVENTORY, f"rebuilt by {operator()}", store=config.store.place)
    with desk.ledger.begin() as connection:
        rebuilt = rebuilding.rebuild(connection, scan_id, listed, asked)
        census = findings.census(connection, scan_id)
    return Rebuilding(scan_id, census, rebuilt, lost, control, head, trouble)


def _learn_mark(desk: Desk, store: Store) -> None:
    """Learn the store's mark, so that an empty mount point is not taken for it from now on.

    Raises:
        DeskError: it bears none, or another one than this ledger knows.
    """
    mark = read_mark(store)
    if not mark:
        raise DeskError(
            f"{desk.settings.keywrap.store.url} bears no mark {MARK}: no campaign ever moved a "
            "wrap there, or it is not the store that is meant (is the right file system mounted?); "
            "nothing was changed",
            exit_code=REFUSED,
            reason_code="store_not_marked",
            next_command="rewrap inventory",
        )
    with desk.ledger.begin() as connection:
        known = marks.learn(connection, desk.settings.keywrap.store.place, mark)
    if known != mark:
        raise DeskError(
            f"this ledger knows the store by the mark {known}, and {MARK} is another one; nothing "
            "was changed",
            exit_code=REFUSED,
            reason_code="wrong_store",
            next_command="rewrap config show",
        )


def _head(desk: Desk) -> tuple[str, str]:
    """Return the signed head that is in the store, and why it is not to be trusted."""
    file = headkeeper.head_file(desk.settings)
    try:
        signed = file.read() if file else None
    except AuditHeadError as error:
        return "", str(error)
    return (str(signed.head) if signed else ""), ""


def _last_id(desk: Desk, folders: Sequence[Path]) -> int:
    """Return the highest number of a lost campaign that has a backup or a trail."""
    taken = [*_numbers_of_backups(desk)]
    taken += [int(name.partition("/")[0]) for name in segment_names(folders)]
    return max((n for n in taken if n <= rebuilding.MAX_ID), default=0)


def _numbers_of_backups(desk: Desk) -> Iterator[int]:
    for name in vault_of(desk.settings).store.names(_BACKUP):
        number = name.removeprefix(_BACKUP).partition("/")[0]
        if number.isascii() and number.isdecimal() and len(number) <= len(str(rebuilding.MAX_ID)):
            yield int(number)
