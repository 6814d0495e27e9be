"""Queues: shards are cut by what can open them, and wait for the hosts that can."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from keywrap.keys import KeyVersion

QUEUE = "rewrap"
"""The default queue: of every worker, unless its configuration names others."""

_URGENT = "!"
"""Begins the name of an urgent queue, and of no other: no configuration can name one."""

QueueOf = Callable[[KeyVersion], str]
"""Names the queue of the hosts that can open the wraps of a KEK version."""

_Item = TypeVar("_Item")


def everyone(_version: KeyVersion) -> str:
    """Name the default queue, whatever the KEK version: any worker can open its wraps."""
    return QUEUE


def urgent(queue: str) -> str:
    """Name the queue beside a queue whose messages are taken first."""
    return _URGENT + queue


def is_urgent(queue: str) -> bool:
    """Whether it is the urgent one beside another queue."""
    return queue.startswith(_URGENT)


def of_verifiers(queue_of: QueueOf, verify_queue: str) -> QueueOf:
    """Name the queue of the hosts that verify: another one in place of the default queue.

    A wrap that only certain hosts can open stays with these.

    Args:
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.
        verify_queue: the queue of the workers that verify with credentials of their own.
    """

    def queue(version: KeyVersion) -> str:
        named = queue_of(version)
        return verify_queue if named == QUEUE else named

    return queue


def by_host(
    items: Iterable[tuple[_Item, KeyVersion | None]], queue_of: QueueOf
) -> list[tuple[str, list[_Item]]]:
    """Group items by the queue of the hosts that can open them.

    Args:
        items: each with the KEK version that wraps it; None where that cannot be told, which any
            host may look into.
        queue_of: names the queue of a KEK version.

    Returns:
        Queues with their items. One that is not the default stands once for each KEK, so that a
        host that holds some of the queue's keys is not held up by the others.
    """
    return [(queue, group) for (queue, _), group in by_lane(items, queue_of).items()]


def by_lane(
    items: Iterable[tuple[_Item, KeyVersion | None]], queue_of: QueueOf
) -> dict[tuple[str, str], list[_Item]]:
    """Group items as `by_host` does, by queue and KEK; the KEK is "" in the default queue."""
    groups: dict[tuple[str, str], list[_Item]] = {}
    for item, version in items:
        queue = queue_of(version) if version else QUEUE
        key = version.key if version and queue != QUEUE else ""
        groups.setdefault((queue, key), []).append(item)
    return groups
