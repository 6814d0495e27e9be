"""A blob that was moved on purpose opens at its new place, and nothing else is bound anew."""

from collections.abc import Callable

import pytest

from keywrap.contents import ContentError
from keywrap.datakey import DataKey
from keywrap.kms import RefusedError
from keywrap.reading import QuarantineError
from keywrap.rebinding import Rebinder
from keywrap.stores import ChangedError, NotFoundError
from tests.worlds import World


@pytest.fixture
def world() -> World:
    world = World()
    world.plant("managed", "old")
    world.plant("managed", "other")
    return world


def rebinder(world: World) -> Rebinder:
    return Rebinder(world.reader, world.keys, world.legacy_content)


def move(world: World, old: str, new: str, *, content: bool = True) -> None:
    """Move a blob's sidecar and, unless it is said otherwise, its content."""
    objects, layout = world.store._objects, world.layout
    objects[layout.sidecar_name(new)] = objects.pop(layout.sidecar_name(old))
    if content:
        objects[layout.content_name(new)] = objects.pop(layout.content_name(old))
        world.originals[new] = world.originals.pop(old)


def test_a_moved_blob_is_quarantined_until_it_is_rebound_and_opens_then(world: World) -> None:
    move(world, "old", "new")
    with pytest.raises(QuarantineError, match="bound to another blob"):
        world.app.get("new")
    done = rebinder(world).rebind("new")
    assert (done.old_id, done.key_version, done.dropped) == ("old", world.target, False)
    assert world.wrong() == []
    assert world.sidecar("new")["dek_version"] == 2


def test_a_moved_blob_that_was_migrated_loses_the_wrap_of_its_old_place(world: World) -> None:
    world.plant("wrapped", "legacy")
    world.migrate("legacy")
    move(world, "legacy", "new")
    assert rebinder(world).rebind("new").dropped
    assert "previous" not in world.sidecar("new")
    assert world.wrong() == []


def _swap_sidecar(world: World) -> None:
    world.write_sidecar("new", world.raw("other"))
    world.store._objects["new"] = world.store._objects.pop("old")


def _lie_about_the_old_place(world: World) -> None:
    move(world, "old", "new")
    world.edit("new", context={"blob_id": "elsewhere"})


def _another_data_key(world: World) -> None:
    move(world, "old", "new")
    world.write_content("new", b"forged", DataKey.generate(), "gcm-v1")


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (_swap_sidecar, ContentError),
        (_lie_about_the_old_place, RefusedError),
        (_another_data_key, ContentError),
        (lambda world: move(world, "old", "new", content=False), NotFoundError),
    ],
)
def test_what_is_no_moved_blob_is_refused_and_left_as_it_is(
    world: World, harm: Callable[[World], None], error: type[Exception]
) -> None:
    harm(world)
    before = dict(world.store._objects)
    with pytest.raises(error):
        rebinder(world).rebind("new")
    assert world.store._objects == before


def test_a_blob_at_its_own_place_needs_no_rebinding(world: World) -> None:
    with pytest.raises(QuarantineError, match="already"):
        rebinder(world).rebind("old")


def test_a_writer_who_comes_first_keeps_what_he_wrote(world: World) -> None:
    move(world, "old", "new")
    replace = world.store.replace

    def late(name: str, data: bytes, expected: object) -> None:
        world.write_sidecar("new", b"{}")
        replace(name, data, expected)  # type: ignore[arg-type]

    world.store.replace = late  # type: ignore[method-assign]
    with pytest.raises(ChangedError):
        rebinder(world).rebind("new")
    assert world.raw("new") == b"{}"
