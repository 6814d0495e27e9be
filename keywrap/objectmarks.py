"""The marks that writes leave in the user metadata of an object.

Each write puts a random mark before those of the writes that it built on. So a writer that got no
answer finds out by reading the object back whether its write took effect: also where another
writer wrote the same bytes, and where others have built on its own since.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from keywrap.stores import Stored

MARKS = "rewrapwrites"
"""Name of the user metadata with the marks of an object's last writes, newest first.

Letters only: a name in Azure is a C# identifier, and proxies drop headers with an underscore.
"""

KEPT_MARKS = 16
"""So many writes by others are seen through while one write is found out about."""

METADATA_BYTES = 2048
"""The most user metadata of an object, names and values (S3 User Guide, "Object metadata").

Azure and Google Cloud Storage take 8 KiB.
"""

_MARK_BYTES = 6
_MARK = re.compile(rf"[0-9a-f]{{{2 * _MARK_BYTES}}}")
_HEADERS = frozenset(
    {
        "Cache-Control",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Type",
        "Storage-Class",
    }
)
"""What obstore calls attributes and is no user metadata."""


@dataclass(frozen=True, slots=True)
class StoredObject(Stored):
    """What one read of a bucket returned.

    Attributes:
        attributes: content headers and user metadata, as obstore names them.
    """

    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def marks(self) -> list[str]:
        """The marks of the last writes, newest first."""
        return marks_of(self.attributes)

    def is_still(self, expected: Stored) -> bool:
        """Whether nobody wrote, as far as it can be seen, since `expected` was read."""
        if (self.tag, self.data) != (expected.tag, expected.data):
            return False
        return not isinstance(expected, StoredObject) or self.marks == expected.marks


def marks_of(attributes: Mapping[str, str]) -> list[str]:
    """Return the marks that an object bears, newest first."""
    return [mark for mark in attributes.get(MARKS, "").split(",") if _MARK.fullmatch(mark)]


def new_mark() -> str:
    """Make a mark: 48 random bits as hexadecimal digits."""
    return secrets.token_hex(_MARK_BYTES)


def attributes_of_write(mark: str, replaced: Stored | None) -> dict[str, str]:
    """Return the attributes that a write is to leave.

    Where the others leave no room for a mark there is none: S3 would refuse the write.

    Args:
        mark: that of the write.
        replaced: what it replaces, whose other attributes stay; None for nothing.
    """
    if not isinstance(replaced, StoredObject):
        return {MARKS: mark}
    kept = {name: value for name, value in replaced.attributes.items() if name != MARKS}
    taken = sum(len(name) + len(value) for name, value in kept.items() if name not in _HEADERS)
    room = (METADATA_BYTES - taken - len(MARKS)) // (len(mark) + 1)
    if room < 1:
        return kept
    marks = [mark, *replaced.marks][: min(room, KEPT_MARKS)]
    return {**kept, MARKS: ",".join(marks)}
