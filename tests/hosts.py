"""An installation some of whose keys are on certain hosts only."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from keywrap.elsewhere import ElsewhereKeyProvider
from keywrap.keyring import KeyRing
from keywrap.kms import KeyProvider
from keywrap.stores import Stored
from ledger.connection import Ledger
from ledger.queues import QUEUE, QueueOf
from ledger.shards import Offer
from ledger.states import ShardKind
from scheduler import status
from scheduler.dispatch import Dispatcher
from scheduler.rules import Rules
from tests.worlds import KEK, OTHER_KEK
from tests.yards import Yard

OLD = "env:OLD_KEK"
BLOB_KEY = "env:BLOB_KEY"


def route(queues: Mapping[str, str]) -> QueueOf:
    return lambda version: queues.get(version.key, QUEUE)


class Hosts(Yard):
    """A yard in which some keys are on some hosts only.

    Attributes:
        up: the queues that a worker serves just now.
        believed: the queues of keys as the workers of a queue have it, where that differs.
    """

    def __init__(self, ledger: Ledger, queues: Mapping[str, str]) -> None:
        super().__init__(ledger)
        self.queues = dict(queues)
        self.up = {QUEUE, *self.queues.values()}
        self.believed: dict[str, Mapping[str, str]] = {}

    def _ring(self, queue: str, queues: Mapping[str, str]) -> KeyRing:
        world = self.world
        providers: list[KeyProvider] = [
            ElsewhereKeyProvider(key, queues[key])
            if queues.get(key, queue) not in {queue, QUEUE}
            else world.keys.provider(key)
            for key in (KEK, OTHER_KEK, OLD, BLOB_KEY)
        ]
        return KeyRing(providers, primary=KEK)

    def become(self, queue: str) -> None:
        """Work as a worker of this queue from now on."""
        queues = self.believed.get(queue, self.queues)
        self.runtime = replace(
            self.runtime,
            keys=self._ring(queue, queues),
            queue_of=route(queues),
            served=(queue,),
        )

    def work(self, offer: Offer) -> None:
        if offer.queue not in self.up:
            return  # its message lies in the broker
        self.become(offer.queue)
        super().work(offer)

    def dispatcher(self) -> Dispatcher:
        def send(offer: Offer) -> None:
            self.sent.append(offer)
            self.broker(offer)

        return Dispatcher(
            self.ledger, self.settings, send, Rules(queue_of=route(self.queues), limits=self.gates)
        )

    def wait(self, campaign: int) -> tuple[str | None, str | None, str | None]:
        """Return why a campaign waits: the code, the next command, the sentence."""
        found = status.read(self.ledger, campaign, keeps_previous=True)
        assert found is not None
        return found.wait.reason_code, found.wait.next_command, found.wait.reason

    def on_read(self, name: str, act: Callable[[], None]) -> None:
        """Do something before each read of an object."""
        read = self.world.store.read

        def reads(wanted: str, *, limit: int | None = None) -> Stored:
            if wanted == name:
                act()
            return read(wanted, limit=limit)

        self.world.store.read = reads  # type: ignore[method-assign]

    def in_queue(self, kind: ShardKind = ShardKind.REWRAP) -> dict[str, list[set[str]]]:
        """Return the keys of the blobs of each shard of a kind, by queue."""
        rows = self.desk.rows(
            "SELECT s.queue, s.shard_no, k.key FROM shard s"
            " JOIN (SELECT campaign_id, shard_no, blob_id FROM inventory"
            "   UNION SELECT campaign_id, shard_no, blob_id FROM sample) b"
            "   ON b.campaign_id = s.campaign_id AND b.shard_no = s.shard_no"
            " JOIN inventory i ON i.campaign_id = b.campaign_id AND i.blob_id = b.blob_id"
            " JOIN key_version k ON k.id = i.key_version_id WHERE s.kind = :k",
            k=kind,
        )
        keys: dict[tuple[str, int], set[str]] = {}
        for queue, number, key in rows:
            keys.setdefault((queue, number), set()).add(key)
        found: dict[str, list[set[str]]] = {}
        for (queue, _), held in sorted(keys.items()):
            found.setdefault(queue, []).append(held)
        return found

    def assert_each_in_one_shard(self, campaign: int) -> None:
        """See that totals are those of the inventory, and that no shard is over-full."""
        listed = dict(
            self.desk.rows(
                "SELECT shard_no, count(*) FROM inventory WHERE campaign_id = :c GROUP BY 1",
                c=campaign,
            )
        )
        totals = self.desk.rows(
            "SELECT shard_no, total FROM shard WHERE campaign_id = :c AND kind = 'rewrap'",
            c=campaign,
        )
        assert {number: total for number, total in totals if total} == listed


def lapse(hosts: Hosts, times: int) -> list[int]:
    """Let offers lapse so often; return how many went out each time."""
    sent = []
    for _ in range(times):
        hosts.let_time_pass()
        hosts.sent.clear()
        hosts.tick()
        sent.append(len(hosts.sent))
    return sent


def at_first(hosts: Hosts, kind: ShardKind, queue: str, act: Callable[[], object]) -> None:
    """Do something once, when a message of this kind and queue is about to be worked on."""
    acts = [act]

    def broker(offer: Offer) -> None:
        if (offer.kind, offer.queue) == (kind, queue) and acts:
            acts.pop()()
        hosts.work(offer)

    hosts.broker = broker


def write_by_old_key(hosts: Hosts, blob_id: str) -> None:
    """Let a legacy application write a blob anew, under the key of host-a."""
    hosts.world.plant("wrapped", blob_id)


def ask(hosts: Hosts, campaign: int, wish: Callable[..., object], **how: bool) -> None:
    with hosts.ledger.begin() as connection:
        wish(connection, hosts.desk.get(campaign), **how)
