"""Sidecars that were drawn, by reason or by altering sound ones, through the whole engine.

`REWRAP_SIDECARS=10000` draws so many of each way; `make soak` does.
"""

import os
import random
from collections import Counter
from typing import Any

import pytest

from keywrap import sidecar
from keywrap.moves import Result
from keywrap.reading import QuarantineError
from keywrap.rewrapping import Outcome, Prove, Selection
from tests.fuzz.mutation import NUMBERS, TEXTS, WORDS, Mutator
from tests.generatedshapes import generated_shapes
from tests.hostiles import besiege, in_memory
from tests.plainsidecars import is_sound
from tests.worlds import World, by_id

COUNT = int(os.environ.get("REWRAP_SIDECARS", "500"))
BATCH = 500
SEED = 20_261_128


@pytest.mark.parametrize("start", range(0, COUNT, BATCH))
def test_every_drawn_sidecar_is_refused_with_its_reason_and_left_alone(start: int) -> None:
    shapes = tuple(generated_shapes(min(BATCH, COUNT - start), SEED + start))
    assert not any(is_sound(s.data) for s in shapes if s.reason_code != "context_mismatch")
    besiege(World(), shapes, Selection.LEGACY, Prove.ALL, in_memory)


@pytest.mark.parametrize("start", range(0, COUNT, BATCH))
def test_an_altered_sidecar_is_refused_and_left_alone_or_is_sound(start: int) -> None:
    results = alter_and_migrate(min(BATCH, COUNT - start), SEED + start)
    reasons = Counter(result.reason_code for result in results.values())
    outcomes = {result.outcome for result in results.values()}
    assert len(reasons) >= 12, reasons
    assert {Outcome.QUARANTINED, Outcome.REWRAPPED} <= outcomes, "some are sound, and most are not"


def alter_and_migrate(count: int, seed: int) -> dict[str, Result]:
    """Alter the sidecars of legacy blobs, migrate, and see that each got what it deserves."""
    world, rng = World(), random.Random(seed)
    mutator = Mutator(rng, (*TEXTS, *NUMBERS, *WORDS))
    kinds = ("wrapped", "provider", "direct", "managed")
    ids = [world.plant(kinds[n % len(kinds)], f"a/{n:05d}") for n in range(count)]
    for blob_id in ids:
        if kinds[int(blob_id[2:]) % len(kinds)] != "direct":
            world.edit(blob_id, note={"by": "Zoë", "at": [1.10, None]})
        other = world.raw(rng.choice(ids))
        world.write_sidecar(blob_id, mutator(world.raw(blob_id), other))
    before = world.snapshot()
    report = world.migrate(*ids)
    assert report.interruption is None
    results, after = by_id(report), world.snapshot()
    assert results.keys() == set(ids)
    for blob_id, result in results.items():
        name = world.layout.sidecar_name(blob_id)
        if result.outcome is Outcome.REWRAPPED:
            assert is_sound(before[name]), f"{before[name]!r} was taken for sound"
            assert world.app.get(blob_id) == world.originals[blob_id]
        else:
            assert after[name] == before[name]
        if result.outcome is Outcome.QUARANTINED:
            assert result.reason_code
            assert result.detail
    assert after.keys() == before.keys()
    return results


def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = sidecar.read_object

    def lenient(data: bytes) -> dict[str, Any]:
        try:
            return read(data)
        except sidecar.BadSidecarError:
            return {}

    monkeypatch.setattr(sidecar, "read_object", lenient)
    with pytest.raises((AssertionError, QuarantineError)):
        alter_and_migrate(BATCH, SEED)
