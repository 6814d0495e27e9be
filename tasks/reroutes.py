"""Blobs that this worker cannot open, and another can: where they go."""

import logging

from keywrap.keys import KeyVersion
from keywrap.reading import GoneError, QuarantineError
from keywrap.rewrapping import Outcome, Result
from keywrap.stores import StoreUnavailableError
from ledger import queues
from tasks.leases import Work

logger = logging.getLogger(__name__)

KEY_ELSEWHERE = "key_elsewhere"
"""The reason code of a wrap whose key the configuration gives to the hosts of another queue."""


def is_elsewhere(result: Result) -> bool:
    """Whether a blob is quarantined only because this host has not the key of its wrap.

    A writer put it under that key after the shards were cut: nothing is wrong with it.
    """
    return result.outcome is Outcome.QUARANTINED and result.reason_code == KEY_ELSEWHERE


def routes(work: Work, blob_ids: list[str]) -> list[tuple[str, list[str]]]:
    """Say which queue each of these blobs goes to, by what wraps it now."""
    keys = work.runtime.pool.map(lambda blob_id: _key(work, blob_id), blob_ids)
    found = queues.by_host(zip(blob_ids, keys, strict=True), work.runtime.queue_of)
    for queue, strays in found:
        logger.info(
            "shard %d: %d blobs go to the queue %s",
            work.lease.shard_no,
            len(strays),
            queue,
            extra={"event": "blobs_rerouted"},
        )
    return found


def _key(work: Work, blob_id: str) -> KeyVersion | None:
    try:
        return work.runtime.reader.read(blob_id).wrapped.key_version
    except (QuarantineError, GoneError, StoreUnavailableError):
        return None  # changed once more: whoever takes the shard up sees what it is
