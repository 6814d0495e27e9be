"""The storm: processes forked and killed while an independent reader looks on."""

import errno
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from tests.storm.ground import Ground, board
from tests.storm.jobs import MOVES, PUT, die_at, fail_at, work

_CHILDREN = 3
_LONGEST_S = 0.06
_CALLS = 250
"""More calls of the system than a job usually makes."""
_FAILED = 70
_COIN = 0.5
_BETWEEN_READS_S = 0.001
"""Else the onlooker takes half of the machine, and the storm takes twice as long."""

_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
_TOLD_EVERY_S = 60.0
_ENDS = ("time", "time", "call", "call", "error")


def _at_time(_rng: random.Random) -> Callable[[], None]:
    return lambda: None  # whoever has forked it kills it


def _at_call(rng: random.Random) -> Callable[[], None]:
    return partial(die_at, rng.randrange(1, _CALLS), after=rng.random() < _COIN)


def _by_error(rng: random.Random) -> Callable[[], None]:
    code, after = rng.choice(_ERRORS), rng.random() < _COIN
    return partial(fail_at, rng.randrange(1, _CALLS), code, after=after)


_PREPARED = {"time": _at_time, "call": _at_call, "error": _by_error}
"""How a child ends: killed at a random time or at a call, or with a call that fails."""


@dataclass
class Figures:
    """What a storm came to.

    Attributes:
        seed: what repeats it, but for the scheduling of processes.
        blobs: how many there were.
        kills: how many processes were killed in the midst of their work.
        at_calls: how many of them at a call of the system, the others at a random time.
        failed: how many processes had a call of the system fail (no room, or the disk's fault).
        jobs: how many were begun, by kind.
        moved: how many sidecars each kind of job has written.
        rotations: how many versions the KEK got.
        reads: how many times the independent reader opened a blob.
        faults: what it, and the last look at every blob, found wrong.
        left: temporary files and unnamed contents that the killed have left.
        seconds: how long it took.
    """

    seed: int
    blobs: int
    kills: int = 0
    at_calls: int = 0
    failed: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    rotations: int = 0
    reads: int = 0
    faults: list[str] = field(default_factory=list)
    left: int = 0
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """Return them for printing."""
        return vars(self) | {"jobs": dict(self.jobs), "moved": dict(self.moved)}


@dataclass
class _Child:
    kind: str
    place: int
    ends_at: float
    ends: str


class Storm:
    """Kills processes in the midst of their work.

    Args:
        ground: where.
        kills: how many.
        seed: what the choices follow from.
        tell: told every minute how many processes were killed so far.
    """

    def __init__(
        self,
        ground: Ground,
        kills: int,
        seed: int,
        tell: Callable[[int], None] = lambda _kills: None,
    ) -> None:
        self._ground = ground
        self._kills = kills
        self._tell = tell
        self._rng = random.Random(seed)
        self._rotated_every = max(10, kills // 100)
        self._moved = board(_CHILDREN * (len(MOVES) + 1))
        self._children: dict[int, _Child] = {}
        self.figures = Figures(seed, len(ground.blob_ids))

    def run(self) -> Figures:
        """Let it rage, then let everything be finished in peace, and look at every blob."""
        started, figures = time.monotonic(), self.figures
        told = started
        with _Onlooker(self._ground, figures) as onlooker:
            while figures.kills < self._kills and not figures.faults:
                self._employ()
                self._reap()
                onlooker.hear()
                if time.monotonic() - told > _TOLD_EVERY_S:
                    told = time.monotonic()
                    self._tell(figures.kills)
                time.sleep(0.0005)
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if not figures.faults:
            self._finish()
        for place, kind in enumerate((*MOVES, PUT)):
            figures.moved[kind] = sum(
                self._moved[child * (len(MOVES) + 1) + place] for child in range(_CHILDREN)
            )
        figures.seconds = round(time.monotonic() - started, 1)
        return figures

    def _employ(self) -> None:
        """Keep one application and two workers busy."""
        for place in range(_CHILDREN):
            if all(child.place != place for child in self._children.values()):
                kind = PUT if place == 0 else self._rng.choice(MOVES)
                self._fork(kind, place)

    def _fork(self, kind: str, place: int) -> None:
        rng = self._rng
        self.figures.jobs[kind] += 1
        seed, ends = rng.getrandbits(64), rng.choice(_ENDS)
        prepare = _PREPARED[ends](rng)
        pid = os.fork()
        if pid == 0:
            self._be_child(kind, place, seed, prepare)
        lives_s = rng.random() * _LONGEST_S if ends == "time" else 60.0
        self._children[pid] = _Child(kind, place, time.monotonic() + lives_s, ends)
        if self.figures.jobs.total() % self._rotated_every == 0:
            self._rotate()

    def _be_child(self, kind: str, place: int, seed: int, prepare: Callable[[], None]) -> None:
        code = _FAILED
        slot = place * (len(MOVES) + 1) + (*MOVES, PUT).index(kind)

        def moved(count: int) -> None:
            self._moved[slot] += count

        try:
            prepare()
            work(self._ground, kind, random.Random(seed), moved)
            code = 0
        except BaseException as error:  # noqa: BLE001 - told by the exit code, and here
            with suppress(OSError):
                os.write(sys.stderr.fileno(), f"storm: {kind}: {error!r}\n".encode())
        finally:
            os._exit(code)

    def _rotate(self) -> None:
        primary = self._ground.open()[1].primary
        primary.create_version()  # type: ignore[union-attr] # the key file's
        self.figures.rotations += 1

    def _reap(self) -> None:
        now = time.monotonic()
        for pid, child in list(self._children.items()):
            if now >= child.ends_at:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del self._children[pid]
            if os.WIFSIGNALED(status):
                self.figures.kills += 1
                self.figures.at_calls += child.ends == "call"
            elif child.ends == "error":
                self.figures.failed += bool(os.WEXITSTATUS(status))
            elif os.WEXITSTATUS(status):
                self.figures.faults.append(f"{child.kind} ended with an error, see above")

    def _finish(self) -> None:
        """Finish in this process what the killed have begun, and look at every blob."""
        ground, figures = self._ground, self.figures
        for kind in ("migrate", "rotate"):
            for _ in range(200):
                count = 0

                def moved(number: int) -> None:
                    nonlocal count
                    count += number

                work(ground, kind, self._rng, moved)
                if not count:
                    break
        checker = ground.reader()
        figures.faults += checker.faults()
        names = [path.name for path in (ground.folder / "blobs").rglob("*")]
        figures.left = sum(".rewrap-tmp-" in name for name in names)


class _Onlooker:
    """A process of its own that keeps opening random blobs until its `with` block ends."""

    def __init__(self, ground: Ground, figures: Figures) -> None:
        self._ground = ground
        self._figures = figures
        self._reads = board(1)

    def __enter__(self) -> Self:
        self._found, into = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            with suppress(BaseException):
                self._look(into)
            os._exit(0)
        os.close(into)
        os.set_blocking(self._found, False)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self.hear()
        os.close(self._found)
        self._figures.reads = self._reads[0]

    def _look(self, into: int) -> None:
        checker, rng = self._ground.reader(), random.Random()
        while True:
            fault = checker.fault(rng.randrange(len(self._ground.blob_ids)))
            self._reads[0] += 1
            time.sleep(_BETWEEN_READS_S)
            if fault is not None:
                os.write(into, f"{fault}\n".encode())

    def hear(self) -> None:
        """Take over what it has found so far."""
        with suppress(BlockingIOError):
            while data := os.read(self._found, 65_536):
                self._figures.faults += data.decode(errors="replace").splitlines()
