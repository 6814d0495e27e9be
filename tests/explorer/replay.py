"""Production code, run one answer at a time.

Whatever an actor asks of a store or a key service ends its run there; the run is then repeated from
its beginning with one answer more. So an actor between two requests is nothing but the answers that
it has had: it can be copied, killed, frozen and compared with another, and what runs is the code
that runs in production, untouched. Its randomness is drawn from its name, so that it repeats.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeVar

UNEXPECTED = "unexpected: "
"""How the end of an actor begins that an error came out of which nobody has foreseen."""

_Result = TypeVar("_Result")


class Request(NamedTuple):
    """Something that is asked of the world.

    Attributes:
        kind: what, such as `replace`.
        args: all that the answer depends on.
    """

    kind: str
    args: tuple[Any, ...] = ()


class Answer(NamedTuple):
    """What the world answered: a value, or an error to raise.

    Attributes:
        value: the value; of an error its message.
        error: the type of the error.
        fields: what else the error is made with.
    """

    value: Any = None
    error: type[Exception] | None = None
    fields: tuple[tuple[str, str], ...] = ()

    def give(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error(self.value, **dict(self.fields))
        return self.value


class Asked(BaseException):
    """An actor has come to a request that nobody has answered yet.

    No `Exception`: production code must not catch it.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.request = request


@dataclass(frozen=True)
class Ended:
    """How an actor's run ended: what it returned, or the error that came out of it."""

    result: Any
    error: str = ""


class Line:
    """An actor's line to the world: answers what was answered before, then breaks off.

    Args:
        answers: what the world has said so far, in order.
        beyond: what is done with a request that has no answer yet.
    """

    def __init__(
        self,
        answers: tuple[Answer, ...],
        beyond: Callable[[Request], Any] | None = None,
    ) -> None:
        self._answers = iter(answers)
        self._beyond = beyond or _break_off

    def ask(self, kind: str, *args: Any) -> Any:
        """Ask the world for something."""
        answer = next(self._answers, None)
        if answer is None:
            return self._beyond(Request(kind, args))
        return answer.give()


def _break_off(request: Request) -> NoReturn:
    raise Asked(request)


def think(
    run: Callable[[Line], _Result], name: str, answers: tuple[Answer, ...], known: tuple[type, ...]
) -> Request | Ended:
    """Run an actor until it asks for something new, or ends.

    Args:
        run: the actor; a function of the line alone.
        name: whose randomness it has.
        answers: what it has been answered so far.
        known: the errors that may come out of it; every other one is a bug of the code under test.
    """
    with drawn_from(name):
        try:
            return Ended(run(Line(answers)))
        except Asked as asked:
            return asked.request
        except known as error:
            return Ended(None, type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the search calls it what it is
            return Ended(None, f"{UNEXPECTED}{type(error).__name__}: {error}")


@contextmanager
def drawn_from(name: str) -> Iterator[None]:
    """Let everything random be drawn from a name: the same each time."""
    drawn = 0

    def bytes_of(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{name}/{drawn}".encode()).digest(size)

    kept = os.urandom, random._urandom  # type: ignore[attr-defined]
    os.urandom = random._urandom = bytes_of  # type: ignore[attr-defined,assignment]
    try:
        yield
    finally:
        os.urandom, random._urandom = kept  # type: ignore[attr-defined]
