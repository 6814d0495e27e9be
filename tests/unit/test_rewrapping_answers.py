"""What key services may answer, and what is made of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from keywrap.datakey import DataKey
from keywrap.journal import NoJournal, Operation, Use
from keywrap.kms import Context, KmsError, RefusedError, UnavailableError
from keywrap.moves import Selection
from keywrap.rewrapping import Outcome, Prove, Report
from keywrap.testing.kms import MemoryKeyProvider
from tests.worlds import KEK, World, at, by_id


class Answering(MemoryKeyProvider):
    """A provider whose answers a test changes, by the operation."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.change: dict[str, Callable[[list[Any]], list[Any]]] = {}

    def _changed(self, operation: str, answers: Sequence[Any]) -> list[Any]:
        return self.change.get(operation, list)(list(answers))

    def wrap_many(self, items: Sequence[tuple[DataKey, Context]]) -> list[Any]:
        return self._changed("wrap", super().wrap_many(items))

    def unwrap_many(self, items: Sequence[Any]) -> list[Any]:
        return self._changed("unwrap", super().unwrap_many(items))

    def rewrap_many(self, items: Sequence[Any]) -> list[Any]:
        return self._changed("rewrap", super().rewrap_many(items))


class Proving(MemoryKeyProvider):
    proves_wraps: ClassVar[bool] = True


class Notes(NoJournal):
    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str]] = []

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        self.taken += [(operation, blob_id, str(version)) for blob_id, version, _, _ in uses]


@pytest.fixture
def world() -> World:
    return World(provider=Answering)


def answering(world: World) -> Answering:
    assert isinstance(world.kek, Answering)
    return world.kek


def plant(world: World, kind: str) -> list[str]:
    return [world.plant(kind, name) for name in ("a", "b", "c")]


def run(world: World, kind: str, prove: Prove) -> Report:
    ids = plant(world, kind)
    if kind == "managed":
        world.kms.rotate(KEK)
        return world.rotate(*ids, prove=prove)
    return world.migrate(*ids, prove=prove)


@pytest.mark.parametrize(
    ("operation", "kind", "prove"),
    [
        ("wrap", "wrapped", Prove.ALL),
        ("unwrap", "wrapped", Prove.ALL),  # the proof
        ("unwrap", "managed", Prove.ALL),  # the opening
        ("rewrap", "managed", Prove.SAMPLE),
    ],
)
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: [*a, a[-1]]], ids=["few", "many"])
def test_a_service_that_answers_for_another_number_of_wraps_is_not_believed(
    world: World, operation: str, kind: str, prove: Prove, change: Callable[[list[Any]], list[Any]]
) -> None:
    answering(world).change[operation] = change
    with pytest.raises(ValueError, match="argument"):
        run(world, kind, prove)
    assert world.store.writes == 0


@pytest.mark.parametrize(("operation", "prove"), [("rewrap", Prove.SAMPLE), ("wrap", Prove.ALL)])
def test_a_wrap_that_the_service_refuses_is_put_aside_with_its_words(
    world: World, operation: str, prove: Prove
) -> None:
    refusal = RefusedError("no such data key", key=KEK, reason_code="refused_here")
    answering(world).change[operation] = lambda answers: [refusal, *answers[1:]]
    results = by_id(run(world, "managed", prove))
    found = results["a"]
    assert (found.outcome, found.reason_code) == (Outcome.QUARANTINED, "refused_here")
    assert "no such data key" in found.detail
    assert {results["b"].outcome, results["c"].outcome} == {Outcome.REWRAPPED}
    assert world.wrong() == []


def test_a_service_that_is_behind_with_a_version_is_waited_for_by_its_name(world: World) -> None:
    plant(world, "managed")
    world.kms.rotate(KEK)
    goal = world.goal(Selection.MANAGED, Prove.SAMPLE)
    old = answering(world).kms.wrap(KEK, DataKey.generate(), {"blob_id": "a"})
    behind = replace(old, key_version=replace(old.key_version, version="1"))
    answering(world).change["rewrap"] = lambda answers: [behind] * len(answers)
    found = world.rewrapper().rewrap(["a", "b", "c"], goal).interruption
    assert isinstance(found, UnavailableError)
    assert (found.key, found.reason_code) == (KEK, "version_not_current")
    assert world.store.writes == 0


def test_one_that_proves_its_wraps_itself_is_asked_to_open_none_but_for_a_canary() -> None:
    world = World(provider=Proving)
    ids = plant(world, "wrapped")
    goal = world.goal(Selection.LEGACY, Prove.ALL)
    world.rewrapper().dry_run(ids, goal)
    assert world.kms.operations == {"wrap": 3}
    world.rewrapper().dry_run(ids, replace(goal, opens_all=True))
    assert world.kms.operations == {"wrap": 6, "unwrap": 3}


@pytest.mark.parametrize(
    ("kind", "prove", "noted"),
    [
        ("wrapped", Prove.ALL, [("unwrap", "env:OLD_KEK"), ("wrap", "1"), ("prove", "1")]),
        ("managed", Prove.ALL, [("unwrap", "1"), ("wrap", "2"), ("prove", "2")]),
        ("managed", Prove.SAMPLE, [("rewrap", "2")]),
    ],
)
def test_each_use_of_a_key_is_noted_with_its_version(
    world: World, kind: str, prove: Prove, noted: list[tuple[str, str]]
) -> None:
    world.plant(kind, "a")
    if kind == "managed":
        world.kms.rotate(KEK)
    notes = Notes()
    selection = Selection.MANAGED if kind == "managed" else Selection.LEGACY
    rewrapper = replace(world.rewrapper(), journal=notes)
    assert rewrapper.rewrap(["a"], world.goal(selection, prove)).interruption is None
    names = [v if ":" in v else f"{KEK}?version={v}" for _, v in noted]
    assert notes.taken == [(what, "a", name) for (what, _), name in zip(noted, names, strict=True)]


@pytest.mark.parametrize(
    ("kind", "prove", "operation"),
    [("wrapped", Prove.ALL, "wrap"), ("managed", Prove.SAMPLE, "rewrap")],
)
def test_a_request_that_failed_is_noted_with_the_version_that_was_meant(
    world: World, kind: str, prove: Prove, operation: str
) -> None:
    world.plant(kind, "a")
    selection = Selection.MANAGED if kind == "managed" else Selection.LEGACY
    target = world.kms.rotate(KEK)
    away = UnavailableError("away", key=KEK)
    notes = Notes()
    rewrapper = world.rewrapper(at("wrap", lambda: world.kms.fail_next(away)))
    report = replace(rewrapper, journal=notes).rewrap(["a"], world.goal(selection, prove))
    assert report.interruption is away
    assert notes.taken[-1] == (operation, "a", str(target))


def test_a_key_that_does_not_open_says_so_in_the_result(world: World) -> None:
    world.plant("wrapped", "a")
    world.edit("a", wrapped_dek="AAAA" * 15)
    found = by_id(world.migrate("a"))["a"]
    assert found.outcome is Outcome.QUARANTINED
    assert found.detail
    assert found.detail != "None"


def test_an_answer_that_is_late_for_one_holds_that_one_only(world: World) -> None:
    late = KmsError("slow down", key=KEK)
    answering(world).change["rewrap"] = lambda answers: [late, *answers[1:]]
    report = run(world, "managed", Prove.SAMPLE)
    assert {r.blob_id for r in report.results} == {"b", "c"}
    assert report.interruption is late
