"""The parsers of what others wrote, fuzzed a little; `python -m tests.fuzz` does it for long.

The last test is of the fuzzer: what it has to find.
"""

import json
from typing import Any

import pytest

from keywrap import sidecar, strictjson
from keywrap.dpapi.blob import Blob
from keywrap.dpapi.fields import Fields
from tests.fuzz.mutation import CrashError, Target, fuzz
from tests.fuzz.targets import targets

RUNS = 8_000
SEED = 20_261_128


@pytest.mark.parametrize("target", targets().values(), ids=targets())
def test_every_altered_input_is_refused_as_documented_or_is_sound(target: Target) -> None:
    assert len(fuzz(target, RUNS, SEED)) >= target.least


@pytest.mark.parametrize("name", targets())
def test_sound_inputs_are_taken(name: str) -> None:
    target = targets()[name]
    assert {target.check(seed).partition(" ")[0] for seed in target.seeds} <= {"read", "opened"}


def _any_of_two(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


def _beyond_the_end(self: Fields, count: int) -> bytes:
    part = self.data[self.place : self.place + count]
    self.place += count
    return part


_LENIENT = json.JSONDecoder(object_pairs_hook=_any_of_two)


@pytest.mark.parametrize(
    ("target", "owner", "name", "mistake"),
    [
        ("sidecar", strictjson, "_STRICT", _LENIENT),
        ("sidecar", sidecar, "_are_unicode", lambda _context: True),
        ("dpapi-blob", Fields, "take", _beyond_the_end),
        ("dpapi-blob", Blob, "is_of", lambda *_: True),
    ],
    ids=["a field twice", "any context", "beyond the end", "no MAC"],
)
def test_a_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch, target: str, owner: Any, name: str, mistake: Any
) -> None:
    monkeypatch.setattr(owner, name, mistake)
    with pytest.raises(CrashError):
        fuzz(targets()[target], 40_000, SEED)
