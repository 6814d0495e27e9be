"""What can be wrong with an audit trail."""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """A way in which a trail is not what was written."""

    EDITED = "edited"  # a segment's bytes are others
    TRUNCATED = "truncated"  # a segment ends too early
    MISSING = "missing"  # a segment's file is nowhere
    ROW_CHANGED = "row_changed"  # the ledger says something else of a segment than was chained
    ROW_MISSING = "row_missing"  # rows of the chain are gone from the ledger
    REORDERED = "reordered"  # rows of the chain are not in the order that they were chained in
    CHAIN_CUT = "chain_cut"  # the chain ends before its signed head
    HEAD_MISMATCH = "head_mismatch"  # the chain is another than the one whose head was signed
    HEAD_MISSING = "head_missing"  # there was a signed head, and it is gone
    HEAD_NOT_TRUSTED = "head_not_trusted"  # the head is not signed by the key that is configured


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a trail.

    Attributes:
        kind: in which way.
        segment: the name of the segment; empty where it is about the chain as a whole.
        detail: a sentence.
    """

    kind: FaultKind
    segment: str
    detail: str
