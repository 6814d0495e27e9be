import pytest

from keywrap.rewrapping import READS, Outcome
from tests.worlds import World, by_id


@pytest.fixture
def world() -> World:
    return World()


def test_a_writer_that_comes_between_wins_and_its_blob_is_read_again(world: World) -> None:
    world.plant("wrapped", "a")
    world.store.before("replace", lambda: world.put("a", b"new"))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.CURRENT
    assert world.app.get("a") == b"new"
    assert "previous" not in world.sidecar("a")


def test_a_legacy_writer_that_comes_between_wins_and_its_wrap_is_rewrapped(world: World) -> None:
    world.plant("wrapped", "a", b"old")
    world.store.before("replace", lambda: world.plant("wrapped", "a", b"new") and None)
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.app.get("a") == b"new"


def test_a_sidecar_that_appears_meanwhile_is_not_overwritten(world: World) -> None:
    world.plant("bare", "a")
    world.store.before("create", lambda: world.write_sidecar("a", {"by": "a writer"}))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.sidecar("a")["by"] == "a writer"


def test_a_legacy_writer_between_sidecar_and_content_is_no_swapped_sidecar(world: World) -> None:
    world.plant("wrapped", "a", b"old")
    world.store.before("read_range", lambda: world.plant("wrapped", "a", b"new") and None)
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.app.get("a") == b"new"


def test_a_blob_deleted_between_sidecar_and_content_is_gone(world: World) -> None:
    world.plant("wrapped", "a")
    world.store.before("read_range", lambda: world.delete("a"))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.GONE


def test_a_blob_deleted_before_its_replacement_is_gone_and_not_brought_back(world: World) -> None:
    world.plant("wrapped", "a")
    world.store.before("replace", lambda: world.delete("a"))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.GONE
    assert world.snapshot() == {}


def test_a_writer_that_comes_first_every_time_makes_a_conflict(world: World) -> None:
    world.plant("wrapped", "a")
    for turn in range(READS):
        world.store.before("replace", lambda turn=turn: world.edit("a", turn=turn))
    result = by_id(world.migrate("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.CONFLICT, "changed_by_writer")
    assert world.sidecar("a")["turn"] == READS - 1
    assert world.store.writes == 0


def test_one_turn_fewer_is_no_conflict(world: World) -> None:
    world.plant("wrapped", "a")
    for turn in range(READS - 1):
        world.store.before("replace", lambda turn=turn: world.edit("a", turn=turn))
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.sidecar("a")["turn"] == READS - 2
