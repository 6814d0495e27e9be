"""What a scheduler decides by: the part of its configuration that is about campaigns."""

from dataclasses import dataclass
from typing import Self

from ledger import queues
from ledger.queues import QueueOf
from workers.approvals_table import Approvals
from workers.composition import queue_of
from workers.settings import DEFAULT_GATES, Gates, Settings
from workers.windows import Windows

_NO_APPROVALS = Approvals()
_ANY_TIME = Windows()


@dataclass(frozen=True, slots=True)
class Rules:
    """How work is cut into shards, when it may begin and run, and when it stops.

    Attributes:
        scan_parts: how many parts the store is scanned in.
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.
        limits: when a campaign stops by itself.
        approvals: what needs two people.
        windows: when campaigns may run.
    """

    scan_parts: int = 4
    queue_of: QueueOf = queues.everyone
    limits: Gates = DEFAULT_GATES
    approvals: Approvals = _NO_APPROVALS
    windows: Windows = _ANY_TIME

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the rules of a configuration."""
        return cls(
            settings.scheduler.scan_parts,
            queue_of(settings),
            settings.gates,
            settings.approvals,
            settings.windows,
        )

    @property
    def verifiers_of(self) -> QueueOf:
        """Names the queue of the hosts that verify the wraps of a KEK version."""
        return queues.of_verifiers(self.queue_of, self.limits.verify_queue)


DEFAULT_RULES = Rules()
