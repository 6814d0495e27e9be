"""A whole installation inside one test: real ledger and scheduler, tasks run as they are sent."""

import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec

from keywrap.rewrapping import Outcome
from ledger import shards
from ledger.campaigns import Campaign
from ledger.connection import Ledger
from ledger.progress import Progress
from ledger.shards import Offer
from ledger.states import FINISHED, REWRAPPING, Kind, ShardKind, State
from scheduler.dispatch import Dispatcher
from scheduler.rules import Rules
from tasks import marks
from tasks.backup import backup_shard, manifest_shard
from tasks.rewrap import rewrap_shard
from tasks.runtime import Counts, Runtime
from tasks.scans import inventory_shard, straggler_shard
from tasks.verify import verify_shard
from tests.desks import Desk, desk_of
from tests.worlds import LEGACY_KINDS, SimulatedCrash, World
from workers.approvals_table import Approvals
from workers.settings import Gates, Scheduler
from workers.windows import Windows

TASKS = {
    ShardKind.INVENTORY: inventory_shard,
    ShardKind.REWRAP: rewrap_shard,
    ShardKind.STRAGGLERS: straggler_shard,
    ShardKind.VERIFY: verify_shard,
    ShardKind.BACKUP: backup_shard,
    ShardKind.MANIFEST: manifest_shard,
}


GRACE_S = 7 * 86_400.0


class Yard:
    """A world of blobs, a ledger, a scheduler, and one worker that works while a message is sent.

    Attributes:
        broker: what becomes of a message; replace it to lose, repeat or forge messages.
        sent: the offers that went out, in order.
    """

    def __init__(
        self, ledger: Ledger, world: World | None = None, audit: Path | None = None
    ) -> None:
        self.world = world or World()
        self.ledger = ledger
        self.desk: Desk = desk_of(ledger)
        self.broker: Callable[[Offer], None] = self.work
        self.sent: list[Offer] = []
        self.approvals = Approvals()
        self.windows = Windows()
        self.gates = Gates(canary=0)  # the tests of the canary set their own
        self.settings = Scheduler(window=4, claim_s=60, max_attempts=3, scan_parts=2)
        self.runtime = Runtime(
            ledger=ledger,
            reader=self.world.reader,
            keys=self.world.keys,
            legacy_content=self.world.legacy_content,
            keep_previous=True,
            pool=self.world.pool,
            owner="yard",
            lease_s=30.0,
            batch=3,
            stopping=lambda: False,
            audit=audit,
            grace_s=GRACE_S,
        )

    def set(self, **changed: float) -> None:
        """Change settings of the scheduler."""
        self.settings = msgspec.structs.replace(self.settings, **changed)

    def try_store(self) -> None:
        """Let the store be marked and its conditions be tried, as an earlier campaign does."""
        self.world.store.create(marks.MARK, secrets.token_hex(16).encode())
        marks._require_conditions(self.world.store)

    def plant(self, count: int, kinds: tuple[str, ...] = LEGACY_KINDS) -> list[str]:
        return [
            self.world.plant(kinds[n % len(kinds)], f"{n:03d}-{kinds[n % len(kinds)]}")
            for n in range(count)
        ]

    def start(self, kind: Kind, **asked: object) -> int:
        if kind in REWRAPPING:
            asked = {"target": self.world.target} | asked
        return self.desk.campaign(kind, **asked)

    def run_task(self, kind: ShardKind, shard_id: UUID) -> Counts:
        return TASKS[kind](self.runtime, shard_id, lambda _done, _total: None)

    def work(self, offer: Offer) -> None:
        """Do what a message asks for; a worker that crashes is simply gone."""
        try:
            self.run_task(offer.kind, offer.shard_id)
        except SimulatedCrash:
            return
        except RuntimeError:
            return  # as Celery logs it

    def dispatcher(self) -> Dispatcher:
        def send(offer: Offer) -> None:
            self.sent.append(offer)
            self.broker(offer)

        rules = Rules(limits=self.gates, approvals=self.approvals, windows=self.windows)
        return Dispatcher(self.ledger, self.settings, send, rules)

    def let_time_pass(self) -> None:
        """Let every offer, lease, delay and pause between probes be over."""
        self.desk.run(
            "UPDATE shard SET until = clock_timestamp() - interval '1 second' WHERE until > 'epoch'"
        )
        self.desk.run("UPDATE shard SET not_before = NULL")
        self.desk.run("UPDATE campaign SET probe_at = NULL")

    def tick(self, times: int = 1) -> None:
        dispatcher = self.dispatcher()
        for _ in range(times):
            dispatcher.tick()

    def run(
        self, campaign_id: int, *until: State, ticks: int = 60, time_passes: bool = False
    ) -> Campaign:
        """Tick until a campaign is finished or in one of these states."""
        dispatcher = self.dispatcher()
        for _ in range(ticks):
            if time_passes:
                self.let_time_pass()
            dispatcher.tick()
            campaign = self.desk.get(campaign_id)
            if campaign.state in FINISHED or campaign.state in until:
                return campaign
        raise AssertionError(f"still {campaign.state}: {self.counts(campaign_id)}")

    def progress(self, campaign_id: int) -> Progress:
        return self.desk.progress(campaign_id)

    def counts(self, campaign_id: int) -> dict[str, int]:
        """Return the counts that are not 0, and see that they balance with the rows."""
        done = self.progress(campaign_id)
        counted = Counter(
            o
            for (o,) in self.desk.rows(
                "SELECT outcome FROM outcome WHERE campaign_id = :c", c=campaign_id
            )
        )
        assert counted == {o.value: n for o, n in done.counts.items() if n}
        assert done.pending >= 0
        return dict(counted) | ({"pending": done.pending} if done.pending else {})

    def reasons(self, campaign_id: int) -> dict[str, str]:
        rows = self.desk.rows(
            "SELECT blob_id, reason_code FROM outcome WHERE campaign_id = :c"
            " AND outcome IN ('quarantined', 'failed', 'conflict')",
            c=campaign_id,
        )
        return dict(rows)

    def assert_moved(self) -> None:
        """See that every blob opens to its own content, under the target."""
        assert self.world.wrong() == []
        for blob_id in self.world.originals:
            version = self.world.reader.read(blob_id).wrapped.key_version
            assert version.satisfies(self.world.target), blob_id

    def assert_idle(self) -> None:
        """See that nothing is out."""
        assert self.desk.rows("SELECT id FROM shard WHERE state IN ('offered', 'leased')") == []


def claimable(yard: Yard, offer: Offer) -> bool:
    """Whether a message would find something to claim."""
    with yard.ledger.begin() as connection:
        lease = shards.claim(connection, offer.shard_id, offer.kind, "probe", 0.0)
        connection.rollback()
    return lease is not None


def only(outcome: Outcome, count: int) -> dict[str, int]:
    return {outcome.value: count}
