"""What a bucket must do that obstore cannot: `keywrap.objectstore` is made of both."""

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Literal, Protocol, runtime_checkable

from keywrap.objectreplies import Reply

Operation = Literal["read", "write", "delete", "list", "look back"]


class Bucket(Protocol):
    """What obstore cannot do: list keys that are no paths, and say why a bucket refuses."""

    def check(self, prefix: str) -> None:
        """Raise `StoreUnavailableError` where the bucket as a whole cannot be used."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with `prefix` once, as it is, in no promised order."""

    def remove(self, key: str, tag: str) -> Reply | None:
        """Delete a key if it has this tag, asked for once; return what a refusal came to."""

    def explain(self, reply: Reply, operation: Operation) -> str:
        """Say in a sentence why the bucket refused, and what permission is needed."""


def explained(place: str, reply: Reply, meanings: Mapping[str, str], needed: str) -> str:
    """Say why a place refused: what its code means, or the permission that is needed."""
    if reply.code in meanings:
        return f"{place}: {meanings[reply.code]} ({reply})"
    if reply.status == HTTPStatus.FORBIDDEN:
        return f"{place}: permission is denied ({reply}); needed is {needed}"
    return f"{place}: {reply}"


@runtime_checkable
class VersionedBucket(Protocol):
    """A bucket that can be asked for what it keeps of objects that were replaced or removed."""

    def old_versions(
        self, prefix: str, wanted: Callable[[str], bool], limit: int
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield key and data of each; see `keywrap.stores.VersionedStore`."""
