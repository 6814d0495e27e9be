"""Bugs, planted into the production code one at a time: the search has to find each.

A test of the tests. Each is a mistake that somebody could make while tidying up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from keywrap import blobkeys
from keywrap.blobs import EncryptedBlobs
from keywrap.moves import Move
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Rewrapper
from keywrap.sidecar import Sidecar
from keywrap.unwinding import Sealer, Undoer
from tests.explorer import mistakes
from tests.explorer.search import Scene

_REPLACE_ONE = Rewrapper._replace_one
_REWRAPPED = Sidecar.rewrapped
_Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """A mistake.

    Attributes:
        name: what is wrong.
        scene: where it shows.
        plant: puts it into the code.
        shows: a part of what the search says of it.
        changed: makes it out of the scene, where it lies in the order of a procedure.
    """

    name: str
    scene: str
    plant: _Patch
    shows: str
    changed: Callable[[Scene], Scene] = lambda scene: scene


def _patched(owner: Any, name: str, value: Any) -> _Patch:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


_ROTATION, _RETIREMENT, _ALONE = "rotation", "rotation and retirement", "retirement"
_ATTACK, _SWAPPED = "migration under attack", "rotation under attack"
_UNWINDING, _COPY, _WRITERS = "unwinding under attack", "re-encryption", "two writers"
_LOST, _LIE = "a reader of a gets", "and it did not"

BUGS = (
    Bug(
        "the condition is read anew before the write",
        _ROTATION,
        _patched(Rewrapper, "_replace_one", mistakes.reads_the_tag_anew),
        _LOST,
    ),
    Bug(
        "a writer that came first is overwritten",
        _ROTATION,
        _patched(Rewrapper, "_replace_one", mistakes.forces_after_a_conflict),
        "did not grow",
    ),
    Bug(
        "a write without an answer is taken back",
        _ROTATION,
        _patched(Rewrapper, "_read_back", mistakes.takes_it_back),
        "did not grow",
    ),
    Bug(
        "a write without an answer is called done",
        _ROTATION,
        _patched(Rewrapper, "_read_back", mistakes.believes_in_it),
        _LIE,
    ),
    Bug(
        "a missing sidecar is created over one that came",
        "migration of a bare blob",
        _patched(Rewrapper, "_replace_one", mistakes.creates_over_it),
        _LOST,
    ),
    Bug("wraps are not proved", _ROTATION, _patched(Rewrapper, "prove", mistakes.nothing), _LOST),
    Bug(
        "new wraps are proved after they are written",
        _ROTATION,
        _patched(Rewrapper, "_steps", mistakes.writes_before_it_proves),
        _LOST,
    ),
    Bug(
        "a wrap of any version is taken",
        _ROTATION,
        _patched(Rewrapper, "_take", mistakes.takes_any_version),
        "not of the target",
    ),
    Bug(
        "a legacy data key is not matched against the content",
        _ATTACK,
        _patched(Rewrapper, "match", mistakes.nothing),
        _LOST,
    ),
    Bug(
        "the sidecar says what it is bound to",
        _SWAPPED,
        mistakes.believes_the_sidecars_context,
        "bound a's wrap to",
    ),
    Bug("the wrap before is put back unopened", _UNWINDING, mistakes.opens_nothing(Undoer), _LOST),
    Bug("the wrap before is stripped unseen", _UNWINDING, mistakes.opens_nothing(Sealer), _LOST),
    Bug(
        "`dek_version` stands still",
        _ROTATION,
        _patched(Sidecar, "rewrapped", mistakes.counts_nothing),
        "did not grow",
    ),
    Bug(
        "unknown fields are dropped",
        _ROTATION,
        _patched(Sidecar, "rewrapped", mistakes.keeps_ours_only),
        "not ours was lost",
    ),
    Bug(
        "the old wrap is not kept",
        _ROTATION,
        _patched(Move, "record", mistakes.keeps_no_wrap),
        "does not keep the wrap before",
    ),
    Bug(
        "a new content overwrites the old one",
        _WRITERS,
        _patched(EncryptedBlobs, "put_stream", mistakes.overwrites_the_content),
        "a reader",
    ),
    Bug(
        "a writer commits what it made of an older sidecar",
        _WRITERS,
        _patched(EncryptedBlobs, "_commit", mistakes.commits_what_is_old),
        "did not grow",
    ),
    Bug(
        "an application's wrap is not proved",
        _COPY,
        _patched(blobkeys, "_prove", lambda *_: None),
        _LOST,
    ),
    Bug(
        "a content is named before it is written",
        _COPY,
        _patched(Reencrypter, "_steps", mistakes.commits_before_it_writes),
        _LOST,
    ),
    Bug(
        "a content whose naming had no answer is removed",
        _COPY,
        _patched(Rewrapper, "_read_back", mistakes.throws_the_new_content_away),
        _LOST,
    ),
    Bug(
        "old content goes before new is named",
        _COPY,
        mistakes.removes_the_old_content,
        _LOST,
    ),
    Bug("the gate overlooks wraps before", _RETIREMENT, mistakes.overlooks_previous, "needs it"),
    Bug(
        "the gate does not look at the store",
        _ALONE,
        mistakes.order_alone,
        "is disabled",
        mistakes.with_retirement(mistakes.looks_nowhere),
    ),
    Bug(
        "the store is not scanned again after the drain",
        _ALONE,
        mistakes.order_alone,
        "is disabled",
        mistakes.with_retirement(mistakes.scans_once),
    ),
    Bug(
        "what is on its way is not waited for",
        _ALONE,
        mistakes.order_alone,
        "is disabled",
        mistakes.with_retirement(mistakes.does_not_wait),
    ),
)
