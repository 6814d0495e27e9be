"""The key material of one KMS key, in the order in which it came."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from keywrap.providers.aws_answers import is_material

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
