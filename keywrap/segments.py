"""Segments of the audit trail: JSON lines in a file of their own, closed with its digest.

A segment is written once, by one process, and never again. `7/12-3-0-1f2e3d4c.jsonl` is of
campaign 7, shard 12, the third claim of that shard, and was the first that this claim closed; what
follows is random, so that the trails of two ledgers never meet in one file.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from keywrap.durable import sync_folder
from keywrap.stores import StoreUnavailableError
from keywrap.trailfaults import Fault, FaultKind

_NAME = re.compile(r"[0-9]{1,10}/[0-9]{1,10}-[0-9]{1,19}-[0-9]{1,10}-[0-9a-f]{8}\.jsonl")
_CHUNK = 1 << 20
_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # Windows has the second only
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | _PLAIN
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN


class AuditUnavailableError(StoreUnavailableError):
    """The audit trail cannot be written. Wait: no key is used without its trace."""

    reason_code = "audit_unavailable"


@dataclass(frozen=True, slots=True)
class Source:
    """Whose events a segment holds.

    Attributes:
        campaign_id: the campaign.
        shard_no: its shard.
        fence: which claim of the shard.
        owner: the process.
    """

    campaign_id: int
    shard_no: int
    fence: int
    owner: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment, as the ledger chains it.

    Attributes:
        name: of its file, below the folder of the trail.
        source: whose events it holds.
        events: how many.
        size: its length in bytes.
        sha256: the digest of its bytes.
        closed_at: when it was closed, by the clock of its writer.
    """

    name: str
    source: Source
    events: int
    size: int
    sha256: bytes
    closed_at: datetime


class SegmentWriter:
    """A segment that is being written; see `open`. Used by one thread."""

    def __init__(self, file: int, path: Path, source: Source) -> None:
        self._file = file
        self._path = path
        self._source = source
        self._digest = hashlib.sha256()
        self._events = self._size = 0

    @classmethod
    def open(cls, folder: Path, source: Source, number: int) -> Self:
        """Make the file of a new segment, which only this user can read.

        Args:
            folder: the folder of the trail; made where there is none.
            source: whose events it is for.
            number: how many this source has closed before it.

        Raises:
            AuditUnavailableError: it cannot be made.
        """
        name = (
            f"{source.campaign_id}/{source.shard_no}-{source.fence}-{number}"
            f"-{secrets.token_hex(4)}.jsonl"
        )
        path = folder / name
        try:
            _make_folder(path.parent)
            file = os.open(path, _NEW, 0o600)
        except OSError as error:
            raise _unavailable(path, error) from error
        return cls(file, path, source)

    def append(self, lines: bytes, events: int) -> None:
        """Hand whole lines to the operating system: they outlive this process from then on.

        Raises:
            AuditUnavailableError: they were not written whole, as on a full disk. The segment is
                given up; nobody may rely on any of it.
        """
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            self.abandon()
            raise _unavailable(self._path, error) from error
        self._digest.update(lines)
        self._events += events
        self._size += len(lines)

    def close(self) -> Segment:
        """Make it outlive a power failure, and close it for good.

        Raises:
            AuditUnavailableError: that cannot be promised.
        """
        if self._file < 0:
            raise _unavailable(self._path, OSError(errno.EBADF, "it was given up"))
        try:
            self._path.chmod(0o400)
            os.fsync(self._file)
            sync_folder(self._path.parent)
        except OSError as error:
            raise _unavailable(self._path, error) from error
        finally:
            self.abandon()
        return Segment(
            name=f"{self._path.parent.name}/{self._path.name}",
            source=self._source,
            events=self._events,
            size=self._size,
            sha256=self._digest.digest(),
            closed_at=datetime.now(UTC),
        )

    def abandon(self) -> None:
        """Leave the file as it is: one that the ledger never hears of."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _unavailable(path: Path, error: OSError) -> AuditUnavailableError:
    return AuditUnavailableError(
        f"the audit trail cannot be written: {path}: {error.strerror}; nothing goes on before "
        "it can",
        name=str(path),
    )


def _make_folder(folder: Path) -> None:
    """Make a folder that outlives a power failure, with those above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def is_segment_name(name: str) -> bool:
    """Whether a name is one that segments have: no other leads to a file."""
    return _NAME.fullmatch(name) is not None


def names(folder: Path) -> set[str]:
    """Return the names of all segments in a folder of the trail.

    Raises:
        OSError: the folder cannot be read.
    """
    found = set()
    with os.scandir(folder) as campaigns:
        for campaign in campaigns:
            if campaign.name.isdecimal() and campaign.is_dir(follow_symlinks=False):
                with os.scandir(campaign.path) as files:
                    found |= {f"{campaign.name}/{file.name}" for file in files}
    return {name for name in found if is_segment_name(name)}


def examine(segment: Segment, folders: Sequence[Path]) -> Fault | None:
    """Compare a segment's file with what the ledger says of it.

    Args:
        segment: what the ledger says.
        folders: where the file may be: each machine has a folder of its own.

    Returns:
        None where one of the folders has it, byte for byte; otherwise what is wrong.
    """
    fault = None
    for folder in folders:
        found = _examine(segment, folder)
        if found is None:
            return None
        # A copy that was changed tells more than a folder without one.
        fault = found if fault is None or fault.kind is FaultKind.MISSING else fault
    return fault or Fault(FaultKind.MISSING, segment.name, "no folder was searched for it")


def contents(segment: Segment, folders: Sequence[Path]) -> bytes | Fault:
    """Return a segment's lines as they were written, or what is wrong with its file.

    Args:
        segment: what the ledger says of it.
        folders: where the file may be.
    """
    for folder in folders:
        if _examine(segment, folder) is None:
            lines = (folder / segment.name).read_bytes()
            if hashlib.sha256(lines).digest() == segment.sha256:  # still
                return lines
    return examine(segment, folders) or Fault(
        FaultKind.EDITED, segment.name, "it changes while it is read"
    )


def _examine(segment: Segment, folder: Path) -> Fault | None:
    name = segment.name
    if not is_segment_name(name):
        return Fault(FaultKind.ROW_CHANGED, name, "no segment has such a name")
    try:
        file = os.open(folder / name, _READ)
    except FileNotFoundError:
        return Fault(FaultKind.MISSING, name, "its file is in none of the folders")
    except OSError as error:
        return Fault(FaultKind.MISSING, name, f"its file cannot be read: {error.strerror}")
    try:
        return _compare(segment, file)
    finally:
        os.close(file)


def _compare(segment: Segment, file: int) -> Fault | None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        return Fault(FaultKind.MISSING, segment.name, "what has its name is no file")
    if found.st_size < segment.size:
        cut = f"{segment.size - found.st_size} of its {segment.size} bytes are gone"
        return Fault(FaultKind.TRUNCATED, segment.name, cut)
    digest = hashlib.sha256()
    while chunk := os.read(file, _CHUNK):
        digest.update(chunk)
    if digest.digest() != segment.sha256:
        return Fault(FaultKind.EDITED, segment.name, "its bytes are not those that were written")
    return None
