"""What an operator is about to ask for, as `start` and `plan` say it before anything moves."""

import shlex
from dataclasses import dataclass
from datetime import datetime

from keywrap.config import KeywrapConfig
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider, ServerSideRewrap
from keywrap.rewrapping import Prove
from ledger.campaigns import Request
from ledger.states import Kind
from scheduler.desk import USAGE, Desk, DeskError, operator
from scheduler.proofs import Proof, default_proof
from workers.plaintext import plain

_WHAT = {
    Kind.MIGRATE: "legacy wraps (dpapi, env)",
    Kind.ROTATE: "managed wraps",
    Kind.REENCRYPT: "a new data key for every blob",
}

_REENCRYPTING = (
    (
        "every content is read two to four times and written once: it takes as long as that, and "
        "the store needs room for all of it again."
    ),
    (
        "old contents stay in the store, and the old data keys open them there, until `rewrap "
        "sweep` removes them after a grace time, with what a crash leaves half done."
    ),
    (
        "applications that do not obey sidecars must have stopped writing, and reading: they would "
        "go on with the old content, under its own name."
    ),
)

_OLD_ESCROW = (
    "the data keys of this backup open the old contents only, and none once `rewrap sweep` has "
    "removed those: for keys of what is written anew, `rewrap backup create --escrow` afterwards."
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A campaign that moves wraps, not asked for yet.

    Attributes:
        kind: migrate, rotate or reencrypt.
        prefix: only blobs whose id starts so.
        key: the KEK as the operator named it; None for the primary.
        provider: the provider of the KEK to wrap under.
        target: its version now.
        proof: how new wraps are proved.
        config: the store and the keys.
        backs_up: whether each wrap is backed up before it is replaced.
        escrow: whether the backup holds the data keys themselves too.
        run_window: when it may run; empty: as the configuration says.
        finish_by: when it is to be finished; None where nobody waits for it.
        urgent: whether it ignores windows and goes before every other.
        max_rate: the most requests a second to key services; None: as the quotas allow.
    """

    kind: Kind
    prefix: str
    key: str | None
    provider: KeyProvider
    target: KeyVersion
    proof: Proof
    config: KeywrapConfig
    backs_up: bool = False
    escrow: bool = False
    run_window: str = ""
    finish_by: datetime | None = None
    urgent: bool = False
    max_rate: float | None = None

    def request(self) -> Request:
        """Return the request for the campaign."""
        return Request(
            kind=self.kind,
            requested_by=operator(),
            prefix=self.prefix,
            target=self.target,
            prove=self.proof.prove,
            sample=self.proof.sample,
            store=self.config.store.place,
            backs_up=self.backs_up,
            escrow=self.escrow,
            run_window=self.run_window,
            finish_by=self.finish_by,
            urgent=self.urgent,
            max_rate=self.max_rate,
        )

    def plan_request(self, sample_size: int) -> Request:
        """Return the request for a plan of it that opens so many blobs."""
        return Request(
            kind=Kind.PLAN,
            requested_by=operator(),
            prefix=self.prefix,
            target=self.target,
            prove=self.proof.prove,
            sample=self.proof.sample,
            sample_size=sample_size,
            store=self.config.store.place,
            plan_of=self.kind,
        )

    def command(self) -> str:
        """Return the command that starts it, with the options that were given."""
        words = ["rewrap", "start", self.kind.value]
        if self.prefix:
            words += ["--prefix", self.prefix]
        if self.key:
            words += ["--to", self.key]
        if not self.proof.why:
            words += ["--prove", self.proof.option()]
        return shlex.join(words)

    def lines(self) -> list[str]:
        """Say what it would do, a line each."""
        store = self.config.store
        only = f", ids that start with {plain(self.prefix)!r}" if self.prefix else ""
        return [
            f"{self.kind}: {_WHAT[self.kind]} of {store.url}{only}",
            f"  to     {self.target}",
            f"  prove  {self.proof.sentence()}",
            f"  undo   {self._undo()}",
            f"  backup {self._backup()}",
            *([f"  when   {when}"] if (when := self._when()) else []),
        ]

    def _when(self) -> str:
        if self.urgent:
            return "now, whatever the window, and before every other campaign"
        by = f", to be finished by {self.finish_by:%Y-%m-%d %H:%M} UTC" if self.finish_by else ""
        window = self.run_window or ("as [windows] says" if by else "")
        return f"{window}{by}"

    def _undo(self) -> str:
        if self.kind is Kind.REENCRYPT:
            return "NONE: an old wrap opens no new content"
        kept = "stays beside the new one" if self.config.store.keep_previous else "is dropped"
        return f"the old wrap {kept}"

    def _backup(self) -> str:
        if not self.backs_up:
            return "NONE: [backup] names no recipients"
        what = "the wraps and the DATA KEYS themselves" if self.escrow else "the wraps"
        return f"{what}, encrypted to the offline recipients of [backup], before the first write"

    def notes(self) -> list[str]:
        """Say what an operator should know before, a sentence each."""
        return [
            *self._note_of_primary(),
            *self._note_of_direct(),
            *self._note_of_escrow(),
            *(_REENCRYPTING if self.kind is Kind.REENCRYPT else ()),
        ]

    def _note_of_escrow(self) -> list[str]:
        if self.kind is Kind.REENCRYPT and self.escrow:
            return [_OLD_ESCROW]
        if self.kind is not Kind.MIGRATE or self.escrow:
            return []
        note = (
            "the backup holds wraps only: it is worth nothing once the legacy keys are gone. With "
            "--escrow it holds the data keys themselves, encrypted to the offline recipients."
        )
        return [note]

    def _note_of_primary(self) -> list[str]:
        primary = self.config.keys.primary
        if not primary or primary == self.target.key:
            return []
        note = (
            f"{primary} stays the primary: applications go on wrapping under it, and a later "
            "campaign without --to moves all back to it, until [keys] says primary = "
            f'"{self.target.key}" and every process is started again.'
        )
        return [note]

    def _note_of_direct(self) -> list[str]:
        legacy = self.config.store.legacy_default
        listed = self.config.keys.env.get(legacy.partition(":")[2])
        if self.kind is not Kind.MIGRATE or listed is None or listed.scheme != "direct":
            return []
        note = (
            f"{legacy} is itself the data key of every blob that names no key: it still opens them "
            "afterwards. Only re-encrypting them with keys of their own changes that."
        )
        return [note]

    def reads_content(self, version: KeyVersion) -> bool:
        """Whether a blob under a KEK version is matched against its own content first.

        As `keywrap.rewrapping.Rewrapper.match` decides it: only a wrap that the target's own KEK
        bound, or that its service moves without showing the data key, needs no match.
        """
        if self.kind is Kind.REENCRYPT or self.proof.prove is Prove.CONTENT:
            return True
        if (
            self.proof.prove is Prove.SAMPLE
            and isinstance(self.provider, ServerSideRewrap)
            and self.provider.rewraps_from(version.key)
        ):
            return False
        return version.key != self.target.key or not self.provider.binds_context


def propose(desk: Desk, kind: Kind, prefix: str, key: str | None, proof: Proof | None) -> Proposal:
    """Make the proposal of what an operator typed.

    Raises:
        DeskError: the key cannot be wrapped under, or the campaign is not proved in that way.
        KmsError: its version cannot be read.
    """
    if kind is Kind.REENCRYPT and proof is not None and proof.prove is not Prove.ALL:
        raise DeskError(
            "reencrypt always opens each new wrap, and reads each new content back; nothing was "
            "changed",
            exit_code=USAGE,
            reason_code="proof_not_for_reencrypt",
            next_command="rewrap start reencrypt",
        )
    provider = desk.kek(key)
    return Proposal(
        kind=kind,
        prefix=prefix,
        key=key,
        provider=provider,
        target=provider.current_version(),
        proof=proof or default_proof(kind, provider),
        config=desk.settings.keywrap,
        backs_up=bool(desk.settings.backup.recipients),
    )
