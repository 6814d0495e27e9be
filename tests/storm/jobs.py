"""What the storm's children do until they are killed: production code, over a few blobs."""

import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keywrap import fileswap
from keywrap.blobs import BusyBlobError
from keywrap.moves import Goal, Outcome, Prove, Selection
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Rewrapper
from keywrap.unwinding import Sealer, Undoer
from tests.storm.ground import Ground

MOVES = ("migrate", "rotate", "undo", "seal", "reencrypt")
PUT = "put"

_ENGINES: dict[str, tuple[type[Rewrapper], Selection]] = {
    "migrate": (Rewrapper, Selection.LEGACY),
    "rotate": (Rewrapper, Selection.MANAGED),
    "undo": (Undoer, Selection.MANAGED),
    "seal": (Sealer, Selection.MANAGED),
    "reencrypt": (Reencrypter, Selection.ALL),
}
_BATCH = 10
_MARK = b"the mark of a storm"

_CALLS = ("open", "write", "fsync", "replace", "rename", "link", "unlink")
"""Calls of the system at which a child may be killed, besides the conditional renames."""


def work(ground: Ground, kind: str, rng: random.Random, moved: Callable[[int], None]) -> None:
    """Do one job to its end.

    Args:
        ground: where.
        kind: one of `MOVES`, or `PUT`.
        rng: chooses blobs and their order.
        moved: told how many blobs have got another sidecar.
    """
    if kind == PUT:
        _put(ground, rng, moved)
        return
    reader, keys, _ = ground.open()
    engine, selection = _ENGINES[kind]
    assert keys.primary is not None
    goal = Goal(keys.primary.current_version(), selection, Prove.ALL, mark=_MARK)
    ids = rng.sample(ground.blob_ids, min(len(ground.blob_ids), 3 * _BATCH))
    with ThreadPoolExecutor(1) as pool:
        rewrapper = engine(reader, keys, ground.config.store.legacy_content, pool)
        for start in range(0, len(ids), _BATCH):
            report = rewrapper.rewrap(ids[start : start + _BATCH], goal)
            if report.interruption is not None:
                raise report.interruption
            moved(sum(result.outcome is Outcome.REWRAPPED for result in report.results))
            bad = [r for r in report.results if r.outcome in {Outcome.QUARANTINED, Outcome.FAILED}]
            if bad:
                raise RuntimeError(f"{kind}: {bad[0]}")


def _put(ground: Ground, rng: random.Random, moved: Callable[[int], None]) -> None:
    blobs = ground.open()[2]
    for place in rng.sample(range(len(ground.blob_ids)), min(len(ground.blob_ids), _BATCH)):
        number = ground.begun[place] + 1
        ground.begun[place] = number
        try:
            blobs.put(ground.blob_ids[place], ground.edition(place, number))
        except BusyBlobError:  # nothing of it is visible
            continue
        ground.done[place] = number
        moved(1)


def die_at(number: int, *, after: bool) -> None:
    """Let this process be killed at its n-th call of the system that changes a file."""

    def kill(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if after:
            call(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    _at(number, kill)


def fail_at(number: int, code: int, *, after: bool) -> None:
    """Let that call fail once, such as for want of room: before it, or told so though it was made.

    Args:
        number: which call, from 1.
        code: the error, as `errno` names it.
        after: whether it is made all the same.
    """

    def fail(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if after:
            made = call(*args, **kwargs)
            if call.__name__ == "open":
                os.close(made)
        raise OSError(code, os.strerror(code))

    _at(number, fail)


def _at(number: int, act: Callable[..., Any]) -> None:
    left = number

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            return act(call, *args, **kwargs) if left == 0 else call(*args, **kwargs)

        return counting

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    for name in ("exchange", "_rename"):
        setattr(fileswap, name, counted(getattr(fileswap, name)))
