"""Short words for what tests do to a ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome, Prove, Result
from ledger import campaigns, findings, progress, shards
from ledger.campaigns import Campaign, Request
from ledger.connection import Ledger
from ledger.findings import Finding
from ledger.progress import Progress
from ledger.shards import Lease
from ledger.states import Kind, ShardKind, State

TARGET = KeyVersion("hcvault://memory/blob-kek", "1")
LEGACY = KeyVersion("env:BLOB_KEY")


@dataclass(frozen=True, slots=True)
class Desk:
    """A ledger, one transaction a word."""

    ledger: Ledger

    def run(self, statement: str, **values: Any) -> None:
        with self.ledger.begin() as connection:
            connection.execute(text(statement), values)

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.ledger.begin() as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def campaign(self, kind: Kind = Kind.MIGRATE, **asked: Any) -> int:
        if kind in {Kind.MIGRATE, Kind.ROTATE}:
            asked = {"target": TARGET, "prove": Prove.ALL} | asked
        with self.ledger.begin() as connection:
            return campaigns.request(connection, Request(kind, "tests", **asked))

    def get(self, campaign_id: int) -> Campaign:
        with self.ledger.begin() as connection:
            campaign = campaigns.get(connection, campaign_id)
        assert campaign is not None
        return campaign

    def force(self, campaign_id: int, state: State) -> None:
        """Put a campaign into a state, past all rules."""
        self.run(
            "UPDATE campaign SET state = :s, reason_code = NULL, reason = NULL WHERE id = :id",
            s=state,
            id=campaign_id,
        )

    def step(self, campaign_id: int, state: State) -> None:
        with self.ledger.begin() as connection:
            assert campaigns.step(connection, campaign_id, state)

    def shard(
        self,
        campaign_id: int,
        kind: ShardKind = ShardKind.REWRAP,
        *,
        blob_ids: Sequence[str] = (),
    ) -> int:
        with self.ledger.begin() as connection:
            number = shards.add(connection, campaign_id, kind, total=len(blob_ids))
            found = [Finding(blob_id, LEGACY) for blob_id in blob_ids]
            findings.add(connection, campaign_id, number, found)
        return number

    def claim(self, campaign_id: int, lease_s: float = 60.0, window: int = 100) -> Lease:
        """Offer what waits, and claim the first of it."""
        with self.ledger.begin() as connection:
            first = min(
                shards.offer(connection, campaign_id, window, 60.0), key=lambda o: o.shard_no
            )
        return self.take(first.shard_id, first.kind, lease_s)

    def take(self, shard_id: UUID, kind: ShardKind, lease_s: float = 60.0) -> Lease:
        with self.ledger.begin() as connection:
            lease = shards.claim(connection, shard_id, kind, "tests", lease_s)
        assert lease is not None
        return lease

    def remaining(self, lease: Lease) -> list[str]:
        with self.ledger.begin() as connection:
            return shards.remaining(connection, lease)

    def record(self, number: int, **outcomes: Outcome) -> None:
        """Claim a shard by its number, record outcomes and finish it."""
        ((campaign_id, shard_id, kind),) = self.rows(
            "UPDATE shard SET state = 'offered' WHERE shard_no = :no"
            " RETURNING campaign_id, id, kind",
            no=number,
        )
        lease = self.take(shard_id, ShardKind(kind))
        with self.ledger.begin() as connection:
            results = [Result(b, o, o.value, f"it is {o}") for b, o in outcomes.items()]
            shards.record(connection, lease, results, 3)
            shards.finish(connection, lease)
        assert campaign_id == lease.campaign.id

    def progress(self, campaign_id: int) -> Progress:
        with self.ledger.begin() as connection:
            return progress.read(connection, campaign_id, self.get(campaign_id).kind)


def desk_of(ledger: Ledger) -> Desk:
    """Return the words for a ledger."""
    return Desk(ledger)
