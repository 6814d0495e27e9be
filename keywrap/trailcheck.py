"""Checking an audit trail: the chain in the ledger, the files of its segments, its signed head."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keywrap.auditchain import ChainCheck, Entry, Head
from keywrap.audithead import AuditHeadError, HeadFile, SignedHead
from keywrap.segments import examine
from keywrap.trailfaults import Fault, FaultKind


@dataclass(frozen=True, slots=True)
class ReadHead:
    """What was found where the signed head lies.

    Attributes:
        signed: the head; None where there is none to be trusted.
        fault: why it is not to be trusted.
    """

    signed: SignedHead | None
    fault: Fault | None = None

    @property
    def head(self) -> Head | None:
        """Where the chain ended when it was signed."""
        return self.signed.head if self.signed else None


def read_head(file: HeadFile) -> ReadHead:
    """Read the signed head, before the chain is read: the chain has grown since, or not at all.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    try:
        return ReadHead(file.read())
    except AuditHeadError as error:
        return ReadHead(None, Fault(FaultKind.HEAD_NOT_TRUSTED, "", str(error)))


def check_trail(
    entries: Iterable[Entry],
    folders: Sequence[Path],
    head: ReadHead | None,
    seen: Callable[[Entry], None] = lambda _entry: None,
) -> Iterator[Fault]:
    """Yield everything that is wrong with a trail.

    Args:
        entries: the chain, in order of its places.
        folders: where the files of its segments may be.
        head: its signed head; None: none is configured, so nothing tells a chain that was computed
            anew, or cut at its end, from the one that was written.
        seen: told of each entry.
    """
    chain = ChainCheck(head.head if head else None)
    for entry in entries:
        seen(entry)
        yield from chain.take(entry)
        if fault := examine(entry.segment, folders):
            yield fault
    yield from chain.end()
    if head and head.fault:
        yield head.fault
    elif head and not head.signed and chain.head.entries:
        said = "no head lies in the store, though the chain has entries"
        yield Fault(FaultKind.HEAD_MISSING, "", said)
