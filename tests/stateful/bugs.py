"""Bugs, planted into the production code one at a time: the machine has to find each."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from keywrap.moves import Goal, Move
from keywrap.rewrapping import Rewrapper
from keywrap.sidecar import Sidecar
from ledger import shards
from ledger.connection import Connection
from ledger.shards import Lease
from tasks import scans
from tests.explorer import mistakes

_REMAINING = shards.remaining
_REPLACE_ONE = Rewrapper._replace_one


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Attributes:
        name: what is wrong.
        owner: where it stands.
        attribute: what is replaced there.
        mistake: by what.
        shows: a pattern of what is said of it.
    """

    name: str
    owner: Any
    attribute: str
    mistake: Callable[..., Any]
    shows: str

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.owner, self.attribute, self.mistake)


def _reads_it_anew(self: Rewrapper, move: Move, goal: Goal) -> None:
    is_there = move.seen is not None and move.seen.stored is not None
    (mistakes.reads_the_tag_anew if is_there else _REPLACE_ONE)(self, move, goal)


def _counted_twice(outcomes: Iterable[str]) -> Counter[str]:
    return Counter([*outcomes] * 2)


def _all_but_one(connection: Connection, lease: Lease) -> list[str]:
    return _REMAINING(connection, lease)[1:]


BUGS = (
    Bug(
        "`dek_version` stands still",
        Sidecar,
        "rewrapped",
        mistakes.counts_nothing,
        "`dek_version` grew by 0",
    ),
    Bug("outcomes are counted twice", shards, "Counter", _counted_twice, "shard_balance_check"),
    Bug("a blob of a shard is forgotten", shards, "remaining", _all_but_one, "comes to rest"),
    Bug(
        "the fresh scan sees nothing",
        scans,
        "_is_late",
        lambda *_: False,
        "is legacy yet|has its old data key|is not quarantined",
    ),
    Bug(
        "the condition of a write is read anew before it",
        Rewrapper,
        "_replace_one",
        _reads_it_anew,
        "another content",
    ),
)
