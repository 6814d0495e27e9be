"""One blob on its way through a rewrap: what is wanted of it, and what it came to."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from keywrap.contentwriting import Stopwatch
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, KmsError, ProofFailedError
from keywrap.reading import Seen
from keywrap.sidecar import Sidecar
from keywrap.stores import Stored, StoreUnavailableError
from keywrap.storewatch import StoreWatch

READS = 3
"""How often a blob is read anew after another writer won, before it is called a conflict."""


class Outcome(StrEnum):
    """What happened to one blob in one campaign."""

    REWRAPPED = "rewrapped"
    CURRENT = "current"  # already at the target
    EXCLUDED = "excluded"  # outside the selection, by rule
    CONFLICT = "conflict"  # a writer changed it, and it is still not at the target
    GONE = "gone"  # deleted meanwhile
    QUARANTINED = "quarantined"  # cannot be opened or parsed: a person must look
    FAILED = "failed"  # unavailable until attempts ran out


class Selection(StrEnum):
    """Which wraps a campaign moves."""

    LEGACY = "legacy"  # migrate: away from DPAPI and the environment
    MANAGED = "managed"  # rotate: from one managed KEK version to another
    ALL = "all"  # reencrypt: every data key is replaced, whatever wraps it


def selects(selection: Selection, version: KeyVersion) -> bool:
    """Whether a selection takes wraps of a KEK version, wherever they are to go."""
    if selection is Selection.ALL:
        return True
    return version.is_legacy == (selection is Selection.LEGACY)


class Prove(StrEnum):
    """How a new wrap is proved before it replaces the old one."""

    ALL = "all"  # opened and compared with the data key
    SAMPLE = "sample"  # key and version of every answer; a sample is opened by the verifying task
    CONTENT = "content"  # opened and compared, and the blob's content opens with the data key


@dataclass(frozen=True, slots=True)
class Goal:
    """What a campaign wants of each blob.

    Attributes:
        target: the KEK version to wrap under.
        selection: which wraps to move.
        prove: how to prove each new wrap.
        keep_previous: whether the old wrap stays beside the new one (the two-key envelope).
        opens_all: whether both wraps and the content are opened even where the key service moves
            wraps without showing the data keys: a canary's way.
        mark: what tells the contents that this campaign has written from all others, where it
            writes contents; a secret of the ledger, see `keywrap.reencrypting`.
    """

    target: KeyVersion
    selection: Selection
    prove: Prove
    keep_previous: bool = True
    opens_all: bool = False
    mark: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one blob, with the reason where it needs one.

    Attributes:
        blob_id: the blob.
        outcome: what happened to it.
        reason_code: why, as a short stable code; may be empty.
        detail: the same as a sentence.
        content_bytes: of its content as it lies in the store, where a plan measured it; of the
            contents that were removed, where some were.
    """

    blob_id: str
    outcome: Outcome
    reason_code: str = ""
    detail: str = ""
    content_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch came to; after a dry run, what it would come to.

    Attributes:
        results: one for each blob that is decided; blobs without one are still pending.
        interruption: what stopped the batch, or held up some of it: the campaign has to wait for
            a KEK or the store, or, after a `ProofFailedError`, to stop.
        concerns_some: whether it is about a KEK version of some blobs only, and the next batch is
            worth a try.
    """

    results: list[Result]
    interruption: KmsError | StoreUnavailableError | ProofFailedError | None = None
    concerns_some: bool = False


class Reasoned(Protocol):
    """An error that says why in a short stable code."""

    @property
    def reason_code(self) -> str:
        """The code."""


@dataclass(slots=True)
class Move:
    """One blob on its way through the steps.

    Attributes:
        blob_id: the blob.
        watch: the batch's eye on the store.
        reads_left: how often it may be read yet.
        seen: its sidecar as it was read.
        source: the wrap to open, where it is not the one that readers use.
        data_key: its data key, where a step shows it.
        fresh: the data key that is to take its place, where it gets another.
        watch_write: tells whether that content may still be named.
        generation: the name of the content that is written under the fresh data key.
        new: its new wrap.
        content_bytes: what its result is to say of its content.
        unwritten: whether a write of it failed.
        held: why the KEK version that wraps it cannot be used now; the blob stays pending.
        result: what it came to.
    """

    blob_id: str
    watch: StoreWatch
    reads_left: int = READS
    seen: Seen | None = None
    source: WrappedKey | None = None
    data_key: DataKey | None = field(default=None, repr=False)
    fresh: DataKey | None = field(default=None, repr=False)
    watch_write: Stopwatch | None = None
    generation: str | None = None
    new: WrappedKey | None = None
    content_bytes: int = 0
    unwritten: bool = False
    held: KmsError | None = None
    result: Result | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it goes on: neither decided nor held up by its KEK version."""
        return self.result is None and self.held is None

    @property
    def kept_key(self) -> DataKey | None:
        """The data key that the new wrap is of."""
        return self.fresh or self.data_key

    @property
    def context(self) -> Context:
        """What binds the new wrap to this blob: derived from where it lies, never read."""
        return {"blob_id": self.blob_id}

    @property
    def sidecar(self) -> Sidecar:
        """What the sidecar says that was read."""
        assert self.seen is not None  # noqa: S101 - steps run in order
        return self.seen.sidecar

    @property
    def stored(self) -> Stored | None:
        """The sidecar's very bytes, with their tag; None where there is no sidecar."""
        assert self.seen is not None  # noqa: S101 - the same
        return self.seen.stored

    @property
    def old(self) -> WrappedKey:
        """The wrap that was read, and is to be opened."""
        assert self.seen is not None  # noqa: S101 - steps run in order
        return self.source or self.seen.wrapped

    def record(self, *, keep_previous: bool) -> bytes:
        """Return the sidecar with the new wrap in it.

        Raises:
            BadSidecarError: no reader would read it back as exactly this.
        """
        assert self.new is not None  # noqa: S101 - steps run in order
        previous = self.old if keep_previous else None
        return self.sidecar.rewrapped(self.new, self.context, previous).to_bytes()

    def end(self, outcome: Outcome, reason_code: str = "", detail: str = "") -> None:
        """Decide this blob, and let go of its plaintext data keys."""
        self.result = Result(self.blob_id, outcome, reason_code, detail, self.content_bytes)
        self.data_key = self.fresh = None

    def quarantine(self, why: Reasoned) -> None:
        """Decide that a person must look at this blob."""
        self.end(Outcome.QUARANTINED, why.reason_code, str(why))

    def hold(self, cause: KmsError) -> None:
        """Leave this blob pending, and let go of its plaintext data keys."""
        self.held = cause
        self.data_key = self.fresh = None

    def read_again(self, otherwise: Outcome, reason_code: str, detail: str) -> None:
        """Start this blob anew, or decide it where it has been read often enough."""
        self.seen = self.source = self.data_key = self.new = None
        self.fresh = self.generation = None
        self.reads_left -= 1
        if self.reads_left == 0:
            self.end(otherwise, reason_code, detail)
