"""Crashes and writers at every step: at every instant every blob opens to its own content."""

import os
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keywrap.rewrapping import Outcome, Prove, Report
from keywrap.testing.stores import Operation
from tests.worlds import (
    KEK,
    KINDS,
    LEGACY_KINDS,
    STEPS,
    SimulatedCrash,
    World,
    at,
    by_id,
    crash,
)

Engine = Callable[..., Report]


def _completes(world: World, engine: Engine, *blob_ids: str, prove: Prove) -> None:
    results = by_id(engine(*blob_ids, prove=prove))
    assert {r.outcome for r in results.values()} <= {Outcome.REWRAPPED, Outcome.CURRENT}
    assert world.wrong() == []
    writes = world.store.writes
    assert {r.outcome for r in engine(*blob_ids, prove=prove).results} == {Outcome.CURRENT}
    assert world.store.writes == writes


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_a_crash_before_any_step_of_a_migration_harms_no_blob(kind: str, step: str) -> None:
    world = World()
    ids = [world.plant(kind, f"{kind}-{n}") for n in range(3)]
    before = world.snapshot()
    with pytest.raises(SimulatedCrash):
        world.migrate(*ids, before=at(step, crash))
    assert world.snapshot() == before
    assert world.wrong() == []
    _completes(world, world.migrate, *ids, prove=Prove.ALL)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("prove", Prove)
def test_a_crash_before_any_step_of_a_rotation_harms_no_blob(prove: Prove, step: str) -> None:
    world = World()
    ids = [world.plant("managed", f"m{n}") for n in range(3)]
    world.kms.rotate(KEK)
    before = world.snapshot()
    with pytest.raises(SimulatedCrash):
        world.rotate(*ids, prove=prove, before=at(step, crash))
    assert world.snapshot() == before
    assert world.wrong() == []
    _completes(world, world.rotate, *ids, prove=prove)


@pytest.mark.parametrize("written", range(4))
@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_a_crash_in_the_midst_of_the_replacements_harms_no_blob(kind: str, written: int) -> None:
    world = World()
    ids = [world.plant(kind, f"{kind}-{n}") for n in range(4)]
    operation = "create" if kind == "bare" else "replace"
    for _ in range(written):
        world.store.before(operation, lambda: None)
    world.store.before(operation, crash)
    with pytest.raises(SimulatedCrash):
        world.migrate(*ids)
    assert world.store.writes == written
    assert world.wrong() == []
    _completes(world, world.migrate, *ids, prove=Prove.ALL)


ACTIONS = ("put", "legacy", "touch", "delete", "crash")
OPERATIONS: tuple[Operation, ...] = ("replace", "create", "read_range")
Event = tuple[str, int, str]
"""Before which step or store operation, to which blob, what happens."""

_events = st.lists(
    st.tuples(
        st.sampled_from((*STEPS, *(f"store.{o}" for o in OPERATIONS))),
        st.integers(0, 5),
        st.sampled_from(ACTIONS),
    ),
    max_size=6,
)


class Others:
    """Writers of both applications, and crashes, at the moments that were drawn."""

    def __init__(self, world: World, blob_ids: list[str], events: list[Event]) -> None:
        self.world = world
        self.blob_ids = blob_ids
        self.pending = list(events)
        for operation in OPERATIONS:
            for _ in events:
                world.store.before(operation, lambda op=operation: self.act(f"store.{op}"))

    def act(self, moment: str) -> None:
        """Do what is due, and see before and after each act that every blob opens."""
        assert self.world.wrong() == []
        for event in [e for e in self.pending if e[0] == moment]:
            self.pending.remove(event)
            self._do(self.blob_ids[event[1] % len(self.blob_ids)], event[2])
            assert self.world.wrong() == []

    def _do(self, blob_id: str, action: str) -> None:
        exists = blob_id in self.world.originals
        if action == "crash":
            raise SimulatedCrash
        if action == "legacy":
            self.world.delete(blob_id)
            self.world.plant("wrapped", blob_id)
        elif action == "delete":
            self.world.delete(blob_id)
        elif action == "put" and exists:
            self.world.put(blob_id, os.urandom(20))
        elif action == "touch" and exists and not blob_id.endswith("bare"):
            self.world.edit(blob_id, touched=os.urandom(4).hex())


@settings(max_examples=120)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    events=_events,
    prove=st.sampled_from(list(Prove)),
    rotates=st.booleans(),
)
def test_whoever_writes_and_whatever_crashes_every_blob_opens_to_its_own_content(
    kinds: list[str], events: list[Event], prove: Prove, *, rotates: bool
) -> None:
    world = World()
    ids = [world.plant(kind, f"{n}-{kind}") for n, kind in enumerate(kinds)]
    if rotates:
        world.kms.rotate(KEK)
    engine = world.rotate if rotates else world.migrate
    others = Others(world, ids, events)
    report = None
    while report is None:  # each crash ends one run, and there are only so many
        with suppress(SimulatedCrash):
            report = engine(*ids, prove=prove, before=others.act)
        assert world.wrong() == []
    assert report.interruption is None
    results = by_id(report)
    assert results.keys() == set(ids)
    assert not any(r.outcome in {Outcome.QUARANTINED, Outcome.FAILED} for r in results.values())
    legacy_writes = any(action == "legacy" for _, _, action in events)
    for blob_id, result in results.items():
        if result.outcome is Outcome.REWRAPPED and blob_id in world.originals:
            version = world.reader.read(blob_id).wrapped.key_version
            # The legacy application may have come after us: that is what stragglers are.
            assert version == world.target or legacy_writes
