"""Processes killed at random and at every call of the system, while an independent reader looks on.

`make soak` kills tens of thousands. The last tests are of the storm itself: what it has to find.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keywrap.fileswap import NewFile
from keywrap.rewrapping import Rewrapper
from tests.explorer import mistakes
from tests.storm.forks import Storm
from tests.storm.ground import Ground
from tests.storm.jobs import MOVES, PUT

KILLS = int(os.environ.get("REWRAP_STORM_KILLS", "300"))
BLOBS = 100
SEED = 20_261_128


def test_whoever_is_killed_wherever_every_blob_opens_all_along(tmp_path: Path) -> None:
    figures = Storm(Ground.make(tmp_path, BLOBS), KILLS, SEED).run()
    assert figures.faults == []
    assert figures.kills >= KILLS
    assert figures.at_calls > KILLS / 5, "half of them are killed at a call of the system"
    assert figures.reads > KILLS
    # A storm in which nothing moves proves nothing.
    assert all(figures.moved[kind] > 0 for kind in (*MOVES, PUT)), figures.moved


def _in_place(self: NewFile, leaf: str, _expected: bytes) -> bool:
    new = os.open(self.name, os.O_RDONLY, dir_fd=self.folder)
    data = os.pread(new, 1 << 20, 0)
    file = os.open(leaf, os.O_WRONLY | os.O_TRUNC, dir_fd=self.folder)
    for byte in data:
        os.write(file, bytes([byte]))
    os.close(file)
    os.close(new)
    return True


@pytest.mark.parametrize(
    ("owner", "name", "mistake"),
    [
        (Rewrapper, "_replace_one", mistakes.reads_the_tag_anew),
        (NewFile, "take_name", _in_place),
    ],
    ids=["a write without its condition", "a write in place"],
)
def test_a_mistake_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    mistake: Callable[..., None],
) -> None:
    ground = Ground.make(tmp_path, 4)  # few, so that they meet
    monkeypatch.setattr(owner, name, mistake)
    assert Storm(ground, 500, SEED).run().faults
