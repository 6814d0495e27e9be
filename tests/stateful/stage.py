"""What the machine plays on: real files, a real ledger, the scheduler, workers, applications."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from keywrap.blobs import EncryptedBlobs
from keywrap.keys import KeyVersion
from keywrap.providers.env import EnvKeyProvider
from keywrap.testing.legacy import KINDS, LegacyBlobs
from ledger import marks, rebuilding, wishes
from ledger.campaigns import Campaign, Request, RequestRefusedError
from ledger.connection import Connection, Ledger, LedgerUnavailableError
from ledger.shards import Offer
from ledger.states import KEEPING, Kind, State
from tasks.marks import read_mark
from tests.shapes import MALFORMED
from tests.stateful.troubles import Trouble, TroubledFiles, TroubledLedger
from tests.storm.ground import Ground
from tests.worlds import InlineExecutor, SimulatedCrash
from tests.yards import Yard

BLOBS = 6
_AT_REST = {State.COMPLETE, State.CANCELLED}
_TIME = time.time


class Stage(Yard):
    """A yard over a folder of files, in which messages lie about until somebody delivers them.

    Attributes:
        trouble: what happens to the worker of the next message.
        expected: what each healthy blob holds.
        sick: the sidecars that nobody can read, byte for byte.
        written: by blob, when an application wrote it last; the time is `now`.
        messages: those that are on their way.
        tally: how often each thing came about.
        clock_s: how wrong the clock of the processes is.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ground = Ground.make(folder, BLOBS)
        self.folder = folder / "blobs"
        self.trouble = Trouble()
        reader, self.keys, self.app = self.ground.open()
        files = TroubledFiles(self.folder, self.trouble)
        content = self.ground.config.store.legacy_content
        world = SimpleNamespace(
            reader=replace(reader, store=files),
            keys=self.keys,
            legacy_content=content,
            pool=InlineExecutor(),
        )
        super().__init__(ledger, world)  # type: ignore[arg-type] # as much of one as it takes
        self.place = self.ground.config.store.place
        self.runtime = replace(
            self.runtime, ledger=TroubledLedger(ledger, self.trouble), store=self.place
        )
        self.set(window=8)
        self.messages: list[Offer] = []
        self.broker = self.messages.append
        self.ticking = self.dispatcher()
        self.app = EncryptedBlobs(reader, self.keys, content)
        self.legacy = self._legacy()
        self.checker = self.ground.reader()
        self.plain = self.checker.plain
        self.expected = dict(self.checker.originals)
        self.sick: dict[str, bytes] = {}
        self.sick_since: dict[str, int] = {}
        self.written = dict.fromkeys(self.expected, 0)
        self.now = 0
        self.tally: Counter[str] = Counter()
        self.clock_s = 0.0
        self.seen: dict[int, State] = {}
        self.scanned_from: dict[int, int] = {}
        self.passes: dict[int, int] = {}
        self.opened_at: dict[int, int] = {}
        self.previous: dict[int, dict[str, str]] = {}
        self.finished: list[Campaign] = []
        self.at_end: Callable[[Stage, Campaign], None] = lambda _stage, _campaign: None

    def _legacy(self) -> LegacyBlobs:
        direct, wrapping = (self.keys.provider(f"env:{n}") for n in ("BLOB_KEY", "OLD_KEK"))
        assert isinstance(direct, EnvKeyProvider)
        assert isinstance(wrapping, EnvKeyProvider)
        return LegacyBlobs(self.app.reader, direct, wrapping)

    @property
    def target(self) -> KeyVersion:
        assert self.keys.primary is not None
        return self.keys.primary.current_version()

    # Applications

    def put(self, blob_id: str, plaintext: bytes) -> None:
        self.app.put(blob_id, plaintext)
        self.expected[blob_id] = plaintext
        self.written[blob_id] = self.now
        self.tally["put"] += 1

    def arrive(self, kind: str) -> str:
        """Let a legacy application write a new blob."""
        blob_id = f"{kind}-9{len(self.expected) + len(self.sick):05d}"
        self.legacy._make_one(blob_id)
        self.expected[blob_id] = self.legacy.original(blob_id)
        self.written[blob_id] = self.now
        self.tally["arrived"] += 1
        return blob_id

    def fall_sick(self, number: int) -> None:
        """Let somebody write a new blob with a sidecar that nobody can read."""
        blob_id = self.arrive(KINDS[0])
        del self.expected[blob_id], self.written[blob_id]
        shape = MALFORMED[number % len(MALFORMED)]
        (self.folder / f"{blob_id}.sidecar.json").write_bytes(shape.data)
        self.sick[blob_id] = shape.data
        self.sick_since[blob_id] = self.now
        self.tally["sick"] += 1

    def rotate_kek(self) -> None:
        self.keys.primary.create_version()  # type: ignore[union-attr] # the key file's
        self.tally["rotated"] += 1

    # Operators

    def open_campaign(self, kind: Kind, **asked: Any) -> bool:
        """Ask for a campaign; return whether there is one now."""
        if kind in {Kind.SEAL, Kind.UNDO}:
            earlier = [c for c in self.finished if c.kind in KEEPING]
            if not earlier:
                return False
            asked |= {"follows": earlier[-1].id, "target": earlier[-1].target}
        elif kind is not Kind.VERIFY:
            asked |= {"target": self.target}
        try:
            campaign_id = self.desk.campaign(kind, store=self.place, **asked)
        except RequestRefusedError:
            return False
        self.opened_at[campaign_id] = self.now
        self.previous[campaign_id] = {
            blob_id: self.sidecar(blob_id).get("previous", {}).get("key_id", "")
            for blob_id in self.expected
        }
        self.tally[f"started {kind}"] += 1
        return True

    def wish(self, wish: Callable[[Connection, Campaign], object]) -> None:
        """Ask something of the newest open campaign."""
        ids = [c for c, state in self.states().items() if state not in _AT_REST]
        for campaign_id in ids[-1:]:
            try:
                with self.ledger.begin() as connection:
                    wish(connection, self.desk.get(campaign_id))
                self.tally["wished"] += 1
            except RequestRefusedError:
                pass

    def lose_ledger(self) -> None:
        """Lose PostgreSQL, and rebuild from the store as `rewrap ledger rebuild` does."""
        last = max(self.states(), default=0)
        clear(self.ledger)
        for memory in (self.seen, self.scanned_from, self.passes, self.finished):
            memory.clear()
        mark = read_mark(self.app.reader.store)
        if mark is None:
            return  # no campaign ever moved a wrap: there is nothing to rebuild
        with self.ledger.begin() as connection:
            marks.learn(connection, self.place, mark)
            rebuilding.number_after(connection, last)
        scan = self.desk.campaign(Kind.INVENTORY, store=self.place)
        self.work_along(8)
        assert self.states()[scan] is State.COMPLETE
        asked = Request(Kind.INVENTORY, "tests", store=self.place)
        with self.ledger.begin() as connection:
            rebuilding.rebuild(connection, scan, {"local:kek"}, asked)
        self.tally["rebuilt"] += 1

    # Scheduler and workers

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            with self._clock():
                self.ticking.tick()
            self.look()

    def look(self) -> None:
        """Note what the campaigns have come to."""
        for campaign_id, state in self.states().items():
            if self.seen.get(campaign_id) is state:
                continue
            self.seen[campaign_id] = state
            campaign = self.desk.get(campaign_id)
            # A campaign that was paused goes on with the scan that it had begun.
            if state is State.VERIFYING and self.passes.get(campaign_id) != campaign.passes:
                self.passes[campaign_id] = campaign.passes
                self.scanned_from[campaign_id] = self.now
            if campaign.is_finished:
                self.finished.append(campaign)
                self.tally[f"{campaign.kind} {state}"] += 1
                self.at_end(self, campaign)

    def states(self) -> dict[int, State]:
        rows = self.desk.rows("SELECT id, state FROM campaign ORDER BY id")
        return {campaign_id: State(state) for campaign_id, state in rows}

    def deliver(self, offer: Offer) -> None:
        """Let a worker do what a message asks for, and meet what is planned."""
        try:
            with self._clock():
                moved = self.run_task(offer.kind, offer.shard_id)
            self.tally["moved"] += moved.get("rewrapped", 0)
        except SimulatedCrash:
            self.tally["died"] += 1
        except LedgerUnavailableError:
            self.tally["ledger away"] += 1

    def work_along(self, rounds: int) -> None:
        """Let everybody work in peace for a while."""
        self.trouble.clear()
        for _ in range(rounds):
            self.tick()
            while self.messages:
                self.deliver(self.messages.pop(0))

    def _clock(self) -> Any:
        return mock.patch("time.time", self._wrong_time)

    def _wrong_time(self) -> float:
        return _TIME() + self.clock_s

    def come_to_rest(self) -> None:
        """Let every campaign be resumed, and come to its end in peace."""
        for _ in range(60):
            self.let_time_pass()
            for campaign_id, state in self.states().items():
                if state in {State.PAUSED, State.STOPPED}:
                    with self.ledger.begin() as connection:
                        wishes.resume(connection, self.desk.get(campaign_id))
            self.work_along(1)
            if all(campaign.is_finished for campaign in map(self.desk.get, self.states())):
                return
        raise AssertionError(f"never comes to rest: {self.states()}")

    def outcomes(self, campaign_id: int) -> dict[str, str]:
        rows = self.desk.rows(
            "SELECT blob_id, outcome FROM outcome WHERE campaign_id = :c", c=campaign_id
        )
        return dict(rows)

    def sidecar(self, blob_id: str) -> dict[str, Any]:
        """Read a sidecar as nobody of ours does; empty where there is none."""
        try:
            data = (self.folder / f"{blob_id}.sidecar.json").read_bytes()
        except FileNotFoundError:
            return {}
        record: dict[str, Any] = json.loads(data)
        return record


def clear(ledger: Ledger) -> None:
    """Empty the ledger, and let its shards be named in order: what is drawn can be replayed."""
    with ledger.begin() as connection:
        run = connection.exec_driver_sql
        names = run(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent::regclass::text"
            " IN ('inventory', 'outcome')"
        ).scalars()
        for name in list(names):
            run(f"DROP TABLE {name}")
        run("TRUNCATE campaign, shard, store_mark, heartbeat RESTART IDENTITY CASCADE")
        run("CREATE SEQUENCE IF NOT EXISTS shards_in_order")
        run("ALTER SEQUENCE shards_in_order RESTART")
        run(
            "ALTER TABLE shard ALTER id SET DEFAULT"
            " lpad(to_hex(nextval('shards_in_order')), 32, '0')::uuid"
        )


def text_of(number: int, size: int) -> bytes:
    """Return the plaintext of an application's n-th write."""
    return hashlib.shake_256(str(number).encode()).digest(size)


def pick(items: Sequence[Any], number: int) -> Any:
    return items[number % len(items)]
