"""One conditional write to a bucket, and who won."""

from dataclasses import dataclass, field

from keywrap.conditions import ReadBackError
from keywrap.objectmarks import MARKS, attributes_of_write, new_mark
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    Stored,
    StoreError,
    StoreUnavailableError,
)


class _ReadBackExistsError(ReadBackError, AlreadyExistsError):
    """There is an object that a write without an answer did not make."""


class _ReadBackChangedError(ReadBackError, ChangedError):
    """There is another object than a write without an answer was to replace or made."""


@dataclass(slots=True)
class Write:
    """One conditional write, until it is known what came of it.

    Attributes:
        name: the object's name.
        data: its new bytes.
        expected: what is to be replaced; None: there must be nothing.
        mark: tells this write from every other.
        unknown: whether a request was sent that may have been carried out.
    """

    name: str
    data: bytes
    expected: Stored | None
    mark: str = field(default_factory=new_mark)
    unknown: bool = False

    @property
    def attributes(self) -> dict[str, str]:
        """What the object is to bear, the mark among it."""
        return attributes_of_write(self.mark, self.expected)

    def refused(self) -> StoreError:
        """What to raise where the bucket said that the condition does not hold."""
        return self._lost(AlreadyExistsError, ChangedError)

    def overtaken(self) -> StoreError:
        """What to raise where reading shows that somebody wrote."""
        if self.unknown and MARKS not in self.attributes:
            return StoreUnavailableError(
                f"{self.name!r} has no room for a mark that tells our write from another's",
                name=self.name,
            )
        return self._lost(_ReadBackExistsError, _ReadBackChangedError)

    def _lost(self, exists: type[StoreError], changed: type[StoreError]) -> StoreError:
        if self.expected is None:
            return exists(f"{self.name!r} is there already", name=self.name)
        return changed(f"{self.name!r} is no longer what was read", name=self.name)
