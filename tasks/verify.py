"""Opening the blobs of one shard, content and all."""

from collections.abc import Sequence
from uuid import UUID

from keywrap.kms import KmsError
from keywrap.reading import GoneError, QuarantineError
from keywrap.rewrapping import Outcome, ProofFailedError, Report, Result
from keywrap.stores import StoreUnavailableError
from keywrap.verifying import Verifier
from ledger import shards
from ledger.states import Kind, ShardKind
from tasks.leases import Work, under_lease
from tasks.marks import require_store
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
        require_store(work)
        verifier = Verifier(runtime.reader, runtime.keys, runtime.legacy_content, runtime.pool)
        is_proof = work.lease.campaign.kind is not Kind.VERIFY
        with runtime.ledger.begin() as connection:
            blob_ids = shards.remaining(connection, work.lease)

        def engine(ids: Sequence[str]) -> Report:
            report = verifier.verify(ids)
            return _as_proof(report, verifier) if is_proof else report

        return Tally(work, progress, outcomes=not is_proof).run(blob_ids, engine)

    return under_lease(runtime, shard_id, ShardKind.VERIFY, body)


def _as_proof(report: Report, verifier: Verifier) -> Report:
    """Take what the sample came to for a proof: only what was opened counts."""
    away = [r for r in report.results if r.outcome is Outcome.FAILED]
    if away and report.interruption is None:
        return Report([], StoreUnavailableError(away[0].detail, name=away[0].blob_id))
    try:
        bad = [r for r in report.results if _is_unsound(r, verifier)]
    except (KmsError, StoreUnavailableError) as error:
        return Report([], error)
    if not bad:
        return report
    return Report(
        [],
        ProofFailedError(
            f"blob {bad[0].blob_id!r} was rewrapped and does not open: {bad[0].reason_code}; "
            f"{len(bad)} such in this batch. Its old wrap is in the sidecar's `previous`"
        ),
    )


def _is_unsound(result: Result, verifier: Verifier) -> bool:
    if result.outcome is not Outcome.QUARANTINED:
        return False
    if not result.reason_code.startswith("content_"):
        return True
    try:
        # Missing or damaged content is no fault of the rewrap; `rewrap verify` tells of it.
        return not verifier.keeps_data_key(result.blob_id)
    except (QuarantineError, GoneError):
        return True
