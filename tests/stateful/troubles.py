"""A file store and a ledger in which something happens at the n-th request of a worker."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keywrap.filestore import FileStore
from keywrap.layout import RESERVED
from keywrap.stores import Stored
from ledger.connection import Ledger

Act = Callable[[str], None]
"""What happens; told what was asked: the name of an object, or empty for the ledger."""


class Trouble:
    """Something that happens once, at the n-th request: before it, or after it was served."""

    def __init__(self) -> None:
        self._left = 0
        self._after = False
        self._act: Act | None = None

    def plan(self, number: int, *, after: bool, act: Act) -> None:
        self._left, self._after, self._act = number, after, act

    @property
    def is_planned(self) -> bool:
        """Whether something is still to happen."""
        return self._act is not None

    def clear(self) -> None:
        """Let nothing happen any more."""
        self._act = None

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        act = self._act
        if act is not None:
            self._left -= 1
        if act is None or self._left:
            yield
            return
        self._act = None  # what the act itself asks for is not counted
        if not self._after:
            act(name)
        yield
        if self._after:
            act(name)


class TroubledFiles(FileStore):
    """The workers' store; applications have one of their own over the same folder."""

    def __init__(self, root: Path, trouble: Trouble) -> None:
        super().__init__(root)
        self._trouble = trouble

    @contextmanager
    def _around(self, name: str) -> Iterator[None]:
        if name.startswith(RESERVED):
            yield
            return
        with self._trouble.around(name):
            yield

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        with self._around(name):
            return super().read(name, limit=limit)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._around(name):
            return super().read_range(name, start, length)

    def create_from(self, name: str, chunks: Iterable[bytes]) -> None:
        with self._around(name):
            super().create_from(name, chunks)

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        with self._around(name):
            super().replace(name, data, expected)


class TroubledLedger:
    """The workers' ledger: each transaction is a request, committed or rolled back."""

    def __init__(self, ledger: Ledger, trouble: Trouble) -> None:
        self._ledger = ledger
        self._trouble = trouble

    @contextmanager
    def begin(self) -> Iterator[Any]:
        with self._trouble.around(""), self._ledger.begin() as connection:
            yield connection
