"""The key material of one KMS key, in the order in which it came."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from keywrap.providers.aws_answers import is_material
from keywrap.providers.aws_connection import PerProcess

ASK_AGAIN_S = 30.0
"""An unknown id comes from a sidecar's text: it must not cost a request each time."""

_USABLE = frozenset({"CURRENT", "NON_CURRENT"})
_FIRST = datetime.min.replace(tzinfo=UTC)  # the first material came by no rotation: it has no date


def in_order(rotations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return key material ids, the oldest first, from entries of ListKeyRotations in any order."""
    usable = [
        each
        for each in rotations
        if each.get("KeyMaterialState") in _USABLE and is_material(each.get("KeyMaterialId"))
    ]
    usable.sort(
        key=lambda each: (
            each["KeyMaterialState"] == "CURRENT",
            each.get("RotationDate", _FIRST),
        )
    )
    return [each["KeyMaterialId"] for each in usable]


class MaterialHistory:
    """Which key material a key has had, remembered.

    Args:
        read: asks the service for all of it, the oldest first.
        read_current: asks the service for the current one.
    """

    def __init__(self, read: Callable[[], list[str]], read_current: Callable[[], str]) -> None:
        self._read = read
        self._read_current = read_current
        self._order: dict[str, int] = {}
        self._seen: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self._lock = PerProcess(threading.Lock)

    def is_newer(self, material: str, than: str) -> bool:
        """Whether both are the key's, and the first came later."""
        wanted = {material, than}
        if not wanted <= self._order.keys():
            with self._lock.get():
                if not wanted <= self._order.keys() and self._may_ask():
                    self._ask()
        order = self._order
        return wanted <= order.keys() and order[material] > order[than]

    def has(self, material: str) -> bool:
        """Whether an id that the service itself named is the key's; asks until it is known."""
        if material not in self._seen:
            with self._lock.get():  # so that the threads of a batch ask once
                if material not in self._seen and self.saw(self._read_current()) != material:
                    self._ask()
        return material in self._seen

    def saw(self, material: str) -> str:
        """Take note of the current key material, and return it."""
        if material not in self._seen:
            self._seen |= {material}
            self._read_at = None  # there is news: the order may be asked for again
        return material

    def _may_ask(self) -> bool:
        return self._read_at is None or time.monotonic() - self._read_at >= ASK_AGAIN_S

    def _ask(self) -> None:
        order = self._read()
        self._order = {material: place for place, material in enumerate(order)}
        self._seen |= self._order.keys()
        self._read_at = time.monotonic()
