"""A mutation fuzzer: sound inputs, altered a little at a time, and kept where they tell new things.

What `atheris` does better, by what code an input reaches; this one goes by what is said of it.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MOST_BYTES = 70_000
_KEPT = 2_000
_TOKEN = re.compile(rb'"[^"]*"|[-+.0-9eE]+|null|true|false|[{}\[\]:,]')

NUMBERS = (b"0", b"-0", b"-1", b"1.0", b"1e400", b"9007199254740992", b"9" * 5_000, b"NaN", b"01")
TEXTS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b'""', b"{}", b"[]"),
    *(b"\\u0000", b"\\ud800", b"\\udc00", b"\\u003a", b"\\u003A", b"\xff", b"\xc0\xaf", b"\0"),
    *(b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\n", b"\r\n", b"\t", b"=", b"==", b"-", b"_", b"gAAAA"),
    *(b"[" * 40, b'{"a":' * 40, b"// ", b"/*", b"?version=", b"01000000d08c9ddf0115d1118c7a00c0"),
)
WORDS = (
    *(b"key_id", b"wrapped_dek", b"dek_version", b"context", b"content", b"object", b"previous"),
    *(b"provider", b"blob_id", b"KEY_ID", b"Previous", b"env", b"dpapi", b"local:kek"),
)


class Mutator:
    """Alters inputs.

    Args:
        rng: makes every choice.
        words: what to put in between; pieces of the format.
    """

    def __init__(self, rng: random.Random, words: Sequence[bytes] = ()) -> None:
        self._rng = rng
        self._words = words or (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\x80")
        self._ways: tuple[Callable[[bytearray, bytes], None], ...] = (
            *(self._flip, self._set, self._insert, self._insert, self._insert),
            *(self._remove, self._repeat, self._splice, self._cut, self._swap),
            *(self._token, self._token, self._token),
        )

    def __call__(self, data: bytes, other: bytes) -> bytes:
        """Return an input altered one to four times; `other` lends pieces."""
        altered = bytearray(data)
        for _ in range(self._rng.choice((1, 1, 1, 2, 2, 3, 4))):
            self._rng.choice(self._ways)(altered, other)
        return bytes(altered[:_MOST_BYTES])

    def _at(self, data: bytes | bytearray) -> int:
        return self._rng.randrange(len(data) + 1)

    def _span(self, data: bytes | bytearray) -> slice:
        start = self._at(data)
        return slice(start, start + self._rng.choice((1, 1, 2, 4, 8, 32, 200)))

    def _flip(self, data: bytearray, _other: bytes) -> None:
        if data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _set(self, data: bytearray, _other: bytes) -> None:
        if data:
            data[self._rng.randrange(len(data))] = self._rng.randrange(256)

    def _insert(self, data: bytearray, _other: bytes) -> None:
        at = self._at(data)
        data[at:at] = self._rng.choice(self._words)

    def _remove(self, data: bytearray, _other: bytes) -> None:
        del data[self._span(data)]

    def _repeat(self, data: bytearray, _other: bytes) -> None:
        at = self._at(data)
        data[at:at] = data[self._span(data)]

    def _splice(self, data: bytearray, other: bytes) -> None:
        data[self._span(data)] = other[self._span(other)]

    def _cut(self, data: bytearray, _other: bytes) -> None:
        del data[self._at(data) :]

    def _swap(self, data: bytearray, _other: bytes) -> None:
        data[self._span(data)] = self._rng.choice(self._words)

    def _token(self, data: bytearray, other: bytes) -> None:
        """Put one token of text in the place of another."""
        tokens = list(_TOKEN.finditer(data))
        if tokens:
            lent = [*_TOKEN.findall(other), *self._words]
            data[slice(*self._rng.choice(tokens).span())] = self._rng.choice(lent)


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        seeds: inputs that it takes.
        check: returns what the parser says of an input; raises where that is wrong.
        words: pieces of its format.
        least: how many different things it says at least of a few thousand inputs.
    """

    seeds: Sequence[bytes]
    check: Callable[[bytes], str]
    words: Sequence[bytes] = ()
    least: int = 1


def fuzz(target: Target, runs: int, seed: int) -> set[str]:
    """Let a target judge altered inputs.

    Args:
        target: what is fuzzed.
        runs: how many inputs.
        seed: what all choices follow from.

    Returns:
        All that was said.

    Raises:
        CrashError: the check raised; with the input.
    """
    rng = random.Random(seed)
    mutator, kept, said = Mutator(rng, target.words), list(target.seeds), set[str]()
    for run in range(runs):
        # Half of them near the sound ones: what is altered again and again is soon plain noise.
        pool = target.seeds if run % 2 else kept
        data = mutator(rng.choice(pool), rng.choice(kept))
        try:
            what = target.check(data)
        except Exception as error:
            raise CrashError(data, run) from error
        if what not in said and len(kept) < _KEPT:
            kept.append(data)
        said.add(what)
    return said


class CrashError(Exception):
    """An input for which the code under test did what it must not."""

    def __init__(self, data: bytes, run: int) -> None:
        super().__init__(f"run {run}: {data!r}")
        self.data = data
