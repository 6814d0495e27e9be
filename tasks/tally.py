"""Taking the blobs of one shard through an engine, batch by batch, and recording what came out."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from keywrap.rewrapping import Report, Result
from ledger import audit, findings, shards
from tasks import traces
from tasks.interruptions import Stop, settle
from tasks.leases import HandBackError, Work
from tasks.reroutes import is_elsewhere, routes
from tasks.runtime import Counts, Progress

_RECORD_EVERY_S = 2.0


class Tally:
    """What a shard has come to, recorded in bulk: every few seconds, and at the end."""

    def __init__(self, work: Work, progress: Progress, *, outcomes: bool = True) -> None:
        self._work = work
        self._progress = progress
        self._outcomes = outcomes
        self._unrecorded: list[Result] = []
        self._elsewhere: list[str] = []
        self._requests = work.runtime.keys.requests
        self._recorded_at = time.monotonic()
        self.counts: Counter[str] = Counter()

    def run(self, blob_ids: Sequence[str], engine: Callable[[Sequence[str]], Report]) -> Counts:
        """Take blobs through an engine until they are decided, interrupted or handed back."""
        runtime, start = self._work.runtime, 0
        held: Stop | None = None
        while start < len(blob_ids):
            size = runtime.pacing.batch(runtime.batch)
            try:
                self._work.check()
            except HandBackError:
                self._record()  # what is done is done: only the rest is handed back
                raise
            blobs = blob_ids[start : start + size]
            with traces.batch(len(blobs)):
                report = engine(blobs)
            self._take(report.results)
            if report.interruption is not None:
                held = report.interruption
                if not report.concerns_some:
                    break
            start += size
            self._progress(min(start, len(blob_ids)), len(blob_ids))
            if time.monotonic() - self._recorded_at > _RECORD_EVERY_S:
                self._record()
        self._record(held, finish=held is None)
        return dict(self.counts)

    def _take(self, results: Sequence[Result]) -> None:
        here = [result for result in results if not is_elsewhere(result)]
        self._elsewhere += [result.blob_id for result in results if is_elsewhere(result)]
        self._unrecorded.extend(here)
        self.counts.update(result.outcome.value for result in here)

    def _record(self, stop: Stop | None = None, *, finish: bool = False) -> None:
        lease, runtime = self._work.lease, self._work.runtime
        requests = runtime.keys.requests
        outcomes = Counter(result.outcome.value for result in self._unrecorded)
        results = self._unrecorded if self._outcomes else []
        strays = routes(self._work, self._elsewhere)
        self._work.journal.decided(results)
        # Durable before the ledger hears of it: a crash in between leaves a file that no row names.
        segment = self._work.journal.close()
        with runtime.ledger.begin() as connection:
            shards.record(connection, lease, results, requests - self._requests)
            if segment is not None:
                audit.note(connection, segment)
            for queue, blob_ids in strays:
                findings.reroute(connection, lease, queue, blob_ids)
            if stop is not None:
                settle(connection, lease, stop)
            elif finish:
                if not self._outcomes:
                    shards.count(connection, lease, self.counts)
                shards.finish(connection, lease)
        runtime.meter.decided(lease.campaign.kind, outcomes)
        self._unrecorded, self._elsewhere = [], []
        self._requests = requests
        self._recorded_at = time.monotonic()
