"""The three sides: the naive way, ours, and the floor below which no design can go."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from celery import Celery
from rich.progress import Progress
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from bench.errors import BenchError
from bench.naive import DONE, Base, Blob, connect
from bench.stage import Stage
from keywrap.rewrapping import Goal, Outcome, Prove, Rewrapper, Selection
from keywrap.threads import StoreThreads
from ledger import campaigns, progress
from ledger.campaigns import Campaign, Request
from ledger.connection import Ledger, LedgerNotReadyError
from ledger.states import Kind, State

WORKERS = 2

_POLL_S = 0.05
_WATCH_S = 0.25
"""Between two looks at a campaign, each some 2 ms of processor; its times are the database's."""

_STALLED_S = 60.0
_SCANNED_S = 1800.0
"""As long as a campaign may be in a state without deciding a blob: a scan of a million."""


@dataclass(frozen=True, slots=True)
class Took:
    """What one run of a side came to.

    Attributes:
        blobs: how many were rewrapped.
        seconds: from the request to the end.
        kms_requests: how many requests that took.
        phases: seconds in each state, where the side has states.
    """

    blobs: int
    seconds: float
    kms_requests: int
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Blobs a second."""
        return self.blobs / self.seconds


class Side(Protocol):
    """One way of rewrapping blobs that lie in the store."""

    name: str

    def run(self, blob_ids: Sequence[str], tell: Callable[[int], None]) -> Took:
        """Rewrap these blobs, and tell how many are done now and then."""


class Naive:
    """A Celery task, two KMS calls and an ORM row for each blob; see `bench.naive`."""

    name = "naive"

    def __init__(self, stage: Stage, engine: Engine, app: Celery) -> None:
        self._stage = stage
        self._engine = engine
        self._app = app

    @classmethod
    @contextmanager
    def ready(cls, stage: Stage) -> Iterator["Naive"]:
        """Keep a prefork worker running, with as many processes as the scene says."""
        engine = connect(stage.environment["NAIVE_DATABASE_URL"])
        app = Celery("naive", broker=stage.environment["NAIVE_BROKER_URL"])
        processes = stage.scene.naive_processes
        options = ("--pool=prefork", f"--concurrency={processes}", "--loglevel=WARNING")
        # With events, as ours: whoever operates it looks at Flower.
        quiet = ("--without-gossip", "--without-mingle", "--task-events", "--hostname=naive@%h")
        command = ("celery", "--app=bench.naive", "worker", *options, *quiet)
        with stage.process("naive", *command):
            yield cls(stage, engine, app)
        app.close()
        engine.dispose()

    def run(self, blob_ids: Sequence[str], tell: Callable[[int], None]) -> Took:
        """Send a task for each blob, and wait until every row says so."""
        Base.metadata.drop_all(self._engine)
        Base.metadata.create_all(self._engine)
        with Session(self._engine) as session:
            session.add_all(Blob(blob_id=blob_id) for blob_id in blob_ids)
            session.commit()
        started = time.perf_counter()
        for blob_id in blob_ids:
            self._app.send_task("naive.rewrap", args=(blob_id,), ignore_result=True)
        _await(self._done, len(blob_ids), tell, lambda: self._stage.log_of("naive"))
        return Took(len(blob_ids), time.perf_counter() - started, 2 * len(blob_ids))

    def _done(self) -> int:
        with Session(self._engine) as session:
            counted = select(func.count()).select_from(Blob).where(Blob.state == DONE)
            return session.scalar(counted) or 0


class Ours:
    """The real thing: scheduler, two workers and the ledger, as `rewrap up` starts them."""

    name = "ours"

    def __init__(
        self, stage: Stage, ledger: Ledger, workers: Sequence["subprocess.Popen[bytes]"]
    ) -> None:
        self.workers = workers
        self._stage = stage
        self._ledger = ledger

    @classmethod
    @contextmanager
    def ready(cls, stage: Stage) -> Iterator["Ours"]:
        """Keep the processes running. Flower is left out, on which nothing here depends."""
        ledger = Ledger(stage.environment["REWRAP_LEDGER_URL"])
        with ExitStack() as processes:
            processes.enter_context(stage.process("scheduler", "scheduler", "scheduler"))
            workers = []
            for n in range(1, WORKERS + 1):
                command = ("scheduler", "worker", "--processes", "1", "--name", f"worker-{n}")
                workers.append(processes.enter_context(stage.process(f"worker-{n}", *command)))
            ours = cls(stage, ledger, workers)
            _await(ours._migrated, 1, lambda _: None, lambda: stage.log_of("scheduler"))
            yield ours
        ledger.close()

    def _migrated(self) -> int:
        try:
            with self._ledger.begin() as connection:
                campaigns.open_campaigns(connection)
        except LedgerNotReadyError:
            return 0
        return 1

    def run(self, blob_ids: Sequence[str], tell: Callable[[int], None]) -> Took:
        """Ask for a campaign, and wait until a fresh scan has found no straggler."""
        asked = Request(Kind.MIGRATE, "bench", target=self._stage.target, prove=Prove.ALL)
        with self._ledger.begin() as connection:
            campaign_id = campaigns.request(connection, asked)
        campaign, phases = self._watch(campaign_id, tell)
        with self._ledger.begin() as connection:
            done = progress.read(connection, campaign_id, Kind.MIGRATE)
        if campaign.state is not State.COMPLETE or done.counts[Outcome.REWRAPPED] != len(blob_ids):
            raise BenchError(
                f"the campaign is {campaign.state} ({campaign.reason}), {done.counts};"
                f" a worker's log: {self._stage.log_of('worker-1')}"
            )
        # From the first shard's claim to the last one's end, by the database's clock.
        phases["rewrap"] = done.decided / done.rate_per_s if done.rate_per_s else 0.0
        ended_at = campaign.finished_at or campaign.created_at  # it has ended: see above
        seconds = (ended_at - campaign.created_at).total_seconds()
        return Took(done.decided, seconds, done.kms_requests, phases)

    def _watch(
        self, campaign_id: int, tell: Callable[[int], None]
    ) -> tuple[Campaign, dict[str, float]]:
        """Wait for the campaign's end, and note how long it was in each state."""
        phases: dict[str, float] = {}
        since = looked = moved = time.perf_counter()
        seen: tuple[str, int] | None = None
        while True:
            with self._ledger.begin() as connection:
                campaign = campaigns.get(connection, campaign_id)
                if campaign is None:
                    raise BenchError(f"there is no campaign {campaign_id}")
                now = time.perf_counter()
                phases[campaign.state] = phases.get(campaign.state, 0.0) + now - since
                since = now
                if campaign.is_finished or now - moved > _SCANNED_S:
                    del phases[campaign.state]
                    return campaign, phases
                if now - looked > 1:
                    decided = progress.read(connection, campaign_id, Kind.MIGRATE).decided
                    tell(decided)
                    looked = now
                    if seen != (campaign.state, decided):
                        seen, moved = (campaign.state, decided), now
            time.sleep(_WATCH_S)


class Floor:
    """The same reads, cryptography, KMS batches and durable writes, and nothing else."""

    name = "floor"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def run(self, blob_ids: Sequence[str], tell: Callable[[int], None]) -> Took:
        """Rewrap batch by batch in this one process, with the settings of a worker."""
        stage, staged = self._stage, self._stage.staged
        size, config = staged.settings.workers.batch, staged.settings.keywrap.store
        goal = Goal(stage.target, Selection.LEGACY, Prove.ALL, keep_previous=config.keep_previous)
        before, done = staged.keys.requests, 0
        with StoreThreads(staged.settings.workers.threads) as pool:
            rewrapper = Rewrapper(staged.reader, staged.keys, config.legacy_content, pool)
            started = time.perf_counter()
            for start in range(0, len(blob_ids), size):
                report = rewrapper.rewrap(blob_ids[start : start + size], goal)
                done += sum(r.outcome is Outcome.REWRAPPED for r in report.results)
                tell(done)
            seconds = time.perf_counter() - started
        if done != len(blob_ids):
            raise BenchError(f"the floor rewrapped {done} of {len(blob_ids)} blobs")
        return Took(done, seconds, staged.keys.requests - before)


def _await(
    done: Callable[[], int], wanted: int, tell: Callable[[int], None], log: Callable[[], str]
) -> None:
    """Wait until as many are done as wanted, for as long as it goes on."""
    last, moved = -1, time.monotonic()
    while (now := done()) < wanted:
        if now != last:
            last, moved = now, time.monotonic()
            tell(now)
        elif time.monotonic() - moved > _STALLED_S:
            raise BenchError(f"{now} of {wanted} for {_STALLED_S:.0f} s; its log: {log()}")
        time.sleep(_POLL_S)


def play(side: Side, stage: Stage, blob_ids: Sequence[str], shown: Progress, label: str) -> Took:
    """Set the blobs, let a side rewrap them, and check every one of them."""
    task = shown.add_task(f"{label}: {side.name}, setting blobs", total=len(blob_ids))
    stage.set(blob_ids)
    shown.update(task, description=f"{label}: {side.name}")
    with stage.latency():
        took = side.run(blob_ids, lambda done: shown.update(task, completed=done))
    shown.update(task, completed=len(blob_ids), description=f"{label}: {side.name}, checking")
    stage.check(blob_ids, side.name)
    told = f"{label}: {side.name} {took.rate:,.0f}/s, each is its original"
    shown.update(task, description=told)
    if not shown.console.is_terminal:  # where no bar moves, a line tells that it goes on
        shown.console.print(told)
    return took
