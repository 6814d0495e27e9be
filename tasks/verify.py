"""Opening the blobs of one shard, content and all."""

from collections.abc import Sequence
from uuid import UUID

from keywrap.rewrapping import Outcome, ProofFailedError, Report
from keywrap.verifying import Verifier
from ledger import shards
from ledger.states import Kind, ShardKind
from tasks.leases import Work, under_lease
from tasks.runtime import Counts, Progress, Runtime
from tasks.tally import Tally


def verify_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """Open the blobs of a shard.

    In a verify campaign each blob gets its outcome: `current` where it opens. In any other the
    blobs are the sample that proves its wraps, and one that does not open stops the campaign.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many blobs have each outcome; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        verifier = Verifier(runtime.reader, runtime.keys, runtime.legacy_content, runtime.pool)
        is_proof = work.lease.campaign.kind is not Kind.VERIFY
        with runtime.ledger.begin() as connection:
            blob_ids = shards.remaining(connection, work.lease)

        def engine(ids: Sequence[str]) -> Report:
            report = verifier.verify(ids)
            return _as_proof(report) if is_proof else report

        return Tally(work, progress, outcomes=not is_proof).run(blob_ids, engine)

    return under_lease(runtime, shard_id, ShardKind.VERIFY, body)


def _as_proof(report: Report) -> Report:
    bad = [r for r in report.results if r.outcome is Outcome.QUARANTINED]
    if not bad:
        return report
    return Report(
        [],
        ProofFailedError(
            f"blob {bad[0].blob_id!r} was rewrapped and does not open: {bad[0].reason_code}; "
            f"{len(bad)} such in this batch. Its old wrap is in the sidecar's `previous`"
        ),
    )
