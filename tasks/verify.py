"""Opening the blobs of one shard, content and all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from keywrap.journal import Journal
from keywrap.kms import KmsError, ProofFailedError
from keywrap.reading import GoneError, QuarantineError
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Outcome, Report, Result, Rewrapper
from keywrap.stores import StoreUnavailableError
from keywrap.verifying import Verifier
from ledger import shards
from ledger.campaigns import Campaign
from ledger.states import OPENING, REWRAPPING, Kind, ShardKind
from tasks.leases import Work, under_lease
from tasks.marks import require_store
from tasks.reroutes import is_elsewhere
from tasks.rewrap import goal_of
from tasks.runtime import Counts, Progress, Runtime
from tasks.tally import Tally


def verify_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """Open the blobs of a shard. Changes nothing.

    In a verify campaign each blob gets its outcome: `current` where it opens; in a plan, the one
    that it would have in the campaign. In any other the blobs are a sample: before the first write
    its canary, which goes through all steps but the write; afterwards what proves its wraps. A
    wrap of either that does not open to its data key stops the campaign.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many blobs have each outcome; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        require_store(work)
        with runtime.ledger.begin() as connection:
            blob_ids = shards.remaining(connection, work.lease)
        records = work.lease.campaign.kind in OPENING
        engine = _engine(runtime, work.lease.campaign, work.journal)
        return Tally(work, progress, outcomes=records).run(blob_ids, engine)

    return under_lease(runtime, shard_id, ShardKind.VERIFY, body)


def _engine(
    runtime: Runtime, campaign: Campaign, journal: Journal
) -> Callable[[Sequence[str]], Report]:
    means = runtime.reader, runtime.keys, runtime.legacy_content, runtime.pool
    if campaign.has_canary_out:
        goal = goal_of(campaign, keep_previous=runtime.keep_previous, kinds=REWRAPPING)
        goal = replace(goal, opens_all=True)
        engine = Reencrypter if campaign.kind is Kind.REENCRYPT else Rewrapper
        return lambda blob_ids: engine(*means, journal=journal).dry_run(blob_ids, goal)
    if campaign.kind is Kind.PLAN:
        goal = goal_of(campaign, keep_previous=runtime.keep_previous, kinds={Kind.PLAN})
        if campaign.plan_of is Kind.REENCRYPT:
            measuring = Reencrypter(*means, journal=journal, measures=True)
            return lambda blob_ids: measuring.dry_run(blob_ids, goal)
        return lambda blob_ids: Rewrapper(*means, journal=journal).dry_run(blob_ids, goal)
    verifier = Verifier(*means, journal)
    if campaign.kind is Kind.VERIFY:
        return verifier.verify
    proof = _Proof(runtime, verifier, campaign.gates_passed)
    return lambda blob_ids: proof.judge(verifier.verify(blob_ids))


@dataclass(frozen=True, slots=True)
class _Proof:
    """What a sample of a campaign's wraps proves: only what was opened counts.

    Attributes:
        runtime: what the task may use.
        verifier: opens blobs.
        seen_by_person: whether a person has resumed the campaign after a gate stopped it.
    """

    runtime: Runtime
    verifier: Verifier
    seen_by_person: bool

    def judge(self, report: Report) -> Report:
        """Take what a batch of the sample came to for a proof."""
        away = [r for r in report.results if r.outcome is Outcome.FAILED]
        if away and report.interruption is None:
            return Report([], StoreUnavailableError(away[0].detail, name=away[0].blob_id))
        try:
            bad = [r for r in report.results if self._is_unsound(r)]
        except (KmsError, StoreUnavailableError) as error:
            return Report([], error)
        if not bad:
            return report
        return Report(
            [],
            ProofFailedError(
                f"blob {bad[0].blob_id!r} is at the target and does not open: "
                f"{bad[0].reason_code}; {len(bad)} such in this batch. An old wrap, if there is "
                "one, is in its `previous`"
            ),
        )

    def _is_unsound(self, result: Result) -> bool:
        """Whether a rewrap may have lost the data key; `rewrap verify` tells of damaged content."""
        if result.outcome is not Outcome.QUARANTINED or is_elsewhere(result):
            return False
        if not result.reason_code.startswith("content_"):
            return True
        try:
            kept = self._keeps_data_key(result.blob_id)
        except (QuarantineError, GoneError):
            return True
        if kept is None:
            # The wrap opens and there is nothing to compare: no content, no loss; else a person
            # looks.
            return result.reason_code != "content_missing" and not self.seen_by_person
        return not kept

    def _keeps_data_key(self, blob_id: str) -> bool | None:
        """As `Verifier.keeps_data_key`; None too where `previous` opens on other hosts only."""
        previous = self.runtime.reader.read(blob_id).sidecar.previous
        if previous and not self.runtime.serves(previous.key_version):
            return None
        return self.verifier.keeps_data_key(blob_id)
