"""Every order of workers, applications, faults, kills and attacks that the explorer reaches.

What runs is the production code (`tests.explorer`). The last test is one of the others: bugs that
are planted into that code have to be found.
"""

import os
from collections import Counter

import pytest

from tests.explorer.bugs import BUGS, Bug
from tests.explorer.scenes import scenes
from tests.explorer.search import Found, Scene, Search, ViolationError

STATES = int(os.environ.get("REWRAP_EXPLORED_STATES", "7000"))
"""Most states of each scene; `make soak` explores millions."""

MOVES = {
    "rotation": {("forward-1", "rewrapped"), ("forward-2", "current"), ("writer", "written")},
    "rotation and retirement": {
        ("forward", "rewrapped"),
        ("undo", "rewrapped"),
        ("retirement", "refused"),
    },
    "retirement": {
        ("retirement", "retired"),
        ("retirement", "refused after the drain"),
        ("writer", "written"),
    },
    "rotation of two blobs": {("forward-1", "rewrapped"), ("forward-2", "current")},
    "rotation in the key service": {("forward-1", "rewrapped"), ("undo", "rewrapped")},
    "migration of a bare blob": {("forward-1", "rewrapped"), ("writer", "written")},
    "migration under attack": {("forward-1", "rewrapped"), ("forward-1", "quarantined")},
    "rotation under attack": {("forward-1", "rewrapped"), ("forward-1", "quarantined")},
    "unwinding under attack": {("seal", "rewrapped"), ("undo", "quarantined")},
    "re-encryption": {("reencrypt-1", "rewrapped"), ("writer", "written"), ("reader", "what a")},
    "two writers": {("writer-1", "written"), ("reencrypt", "rewrapped")},
}
"""What must have come about in each scene: a search in which nothing moves proves nothing."""


def _moved(found: Found, actor: str, word: str) -> bool:
    return any(name == actor and word in result for name, result in found.ends)


@pytest.mark.parametrize("scene", scenes().values(), ids=lambda scene: scene.name)
def test_no_order_of_events_loses_a_blob_or_tells_a_lie(scene: Scene) -> None:
    found = Search(scene).run(STATES)
    assert found.is_whole or found.states == STATES
    for actor, word in MOVES[scene.name]:
        assert _moved(found, actor, word), (actor, word, found.ends)


def test_the_scenes_have_as_many_states_as_they_are_said_to() -> None:
    """At least 50,000 in this suite; a scene that is explored whole is small."""
    assert len(MOVES) == len(scenes())
    assert STATES * len(MOVES) >= 50_000


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_that_is_planted_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    with pytest.raises(ViolationError) as violation:
        Search(bug.changed(scenes()[bug.scene])).run(100_000)
    assert bug.shows in violation.value.args[0]
    assert violation.value.trace


def test_every_bug_is_another_one() -> None:
    names = Counter(bug.name for bug in BUGS)
    assert max(names.values()) == 1
    assert len(BUGS) >= 15
