"""Which schemes the lengths of wraps allow: what an inventory can tell without opening any."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keywrap.keys import KeyVersion
from keywrap.providers.env_schemes import WRAP_LENGTHS
from keywrap.tables.env import EnvKeyConfig
from ledger.findings import CensusLine

_ENV = "env"


@dataclass(frozen=True, slots=True)
class Shape:
    """Wraps of one length under one key of the environment.

    Attributes:
        key: URI of the key.
        wrap_bytes: the length, in bytes; 0 where the key is itself the data key.
        blobs: how many there are.
        allowed: the schemes whose wraps of an AES key have this length.
        configured: the scheme that the configuration names; None where it does not list the key.
    """

    key: str
    wrap_bytes: int
    blobs: int
    allowed: tuple[str, ...]
    configured: str | None

    @property
    def agrees(self) -> bool:
        """Whether these wraps can be what the configuration says. Only opening them decides."""
        return self.configured in self.allowed

    def document(self) -> dict[str, Any]:
        """Return it as a line of `schemes` in `rewrap inventory --json`, with `agrees`."""
        return asdict(self) | {"agrees": self.agrees}


def shapes(lines: Iterable[CensusLine], configured: Mapping[str, EnvKeyConfig]) -> list[Shape]:
    """Say what the wraps of each key of the environment may be.

    Args:
        lines: the census.
        configured: the tables `[keys.env.NAME]`, by name.
    """
    found = []
    for line in lines:
        version = KeyVersion(line.key, line.version) if line.key else None
        if version is None or version.provider != _ENV:
            continue
        table = configured.get(line.key.removeprefix(f"{_ENV}:"))
        found += [
            Shape(line.key, size, blobs, _allowed(size), table.scheme if table else None)
            for size, blobs in line.wrap_bytes.items()
        ]
    return found


def _allowed(length: int) -> tuple[str, ...]:
    return tuple(scheme for scheme, lengths in WRAP_LENGTHS.items() if length in lengths)


def lines(shapes: Sequence[Shape]) -> Iterator[str]:
    """Yield what an operator should know of them, the warnings last."""
    for shape in shapes:
        configured = f"configured as {shape.configured}" if shape.configured else "not configured"
        yield f"{shape.key}: {_wraps(shape)}: {_either(shape)}; {configured}"
    wrong = [shape for shape in shapes if shape.configured and not shape.agrees]
    for shape in wrong:
        yield (
            f"warning: {shape.key} is configured as {shape.configured}, but {_wraps(shape)} "
            f"can only be {_either(shape)}"
        )
    if wrong:
        yield "A length only tells what a wrap may be; opening it decides: rewrap plan migrate"


def _wraps(shape: Shape) -> str:
    many = "s" * (shape.blobs != 1)
    if not shape.wrap_bytes:
        return f"{shape.blobs:,} blob{many} without a wrap"
    return f"{shape.blobs:,} wrap{many} of {shape.wrap_bytes} bytes"


def _either(shape: Shape) -> str:
    if not shape.allowed:
        return "of no scheme known here"
    *first, last = shape.allowed
    return f"{', '.join(first)} or {last}" if first else last
