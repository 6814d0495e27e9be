"""Each call of the system that changes the store's files fails, or is a process's last one.

From outside, by `strace`: the fork storm does the same from inside Python, where it has to know the
calls. Here the kernel says which there are.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sites import ROOT
from tests.storm.ground import Ground

CALLS = (
    "openat,mkdirat,write,pwrite64,ftruncate,fsync,fdatasync,fchmod,fchown,fchmodat,fchownat,"
    "flock,linkat,symlinkat,renameat,renameat2,?rename,?unlink,unlinkat,copy_file_range,sendfile"
)
KINDS = (re.compile(r"adopter-\d+"), re.compile(r"adopter-no-sidecar-\d+"))
"""A blob of each is migrated at once: a sidecar that is replaced, and one that is created."""

_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)")
_CREATES = re.compile(r"O_CREAT|O_TRUNC")
_ANY = re.compile("")

Point = tuple[str, int]
"""The n-th time that a process makes a call, from 1."""


def is_tracing_possible() -> bool:
    strace = shutil.which("strace")
    return strace is not None and traced("-e", "trace=none", "true").returncode == 0


def traced(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["strace", "-f", *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Traced:
    """Migrations under `strace`, each of blobs that none before has touched.

    Attributes:
        ground: where the blobs are.
        store: their folder.
        log: what `strace` writes.
    """

    def __init__(self, ground: Ground, log: Path) -> None:
        self.ground = ground
        self.store = ground.folder / "blobs"
        self.log = log
        self._left = [iter([b for b in ground.blob_ids if k.fullmatch(b)]) for k in KINDS]

    def migrate(self, *options: str) -> tuple[list[str], "subprocess.CompletedProcess[str]"]:
        """Migrate the next blobs; return them, and how it ended."""
        blob_ids = [next(left) for left in self._left]
        once = [sys.executable, "-m", "tests.storm.once", str(self.ground.folder), *blob_ids]
        done = traced("-y", "-o", str(self.log), *options, *once, **self.ground.environment)
        return blob_ids, done

    def points(self) -> list[Point]:
        """Return each call that changes something in the store, by runs in which none fails."""
        opened = self._made("openat", _CREATES)
        return opened + [point for point in self._made(CALLS, _ANY) if point[0] != "openat"]

    def _made(self, calls: str, arguments: re.Pattern[str]) -> list[Point]:
        blob_ids, done = self.migrate(*self.watching(calls))
        assert json.loads(done.stdout) == dict.fromkeys(blob_ids, "rewrapped"), done.stderr
        made: Counter[str] = Counter()
        found = []
        for line in self.log.read_text().splitlines():
            if call := _CALL.match(line):
                made[call[1]] += 1
                if str(self.store) in call[2] and arguments.search(call[2]):
                    found.append((call[1], made[call[1]]))
        return found

    def watching(self, calls: str) -> list[str]:
        """Return the options that let `strace` see, and count, certain calls.

        Python opens files of its own, and not always as many: of `openat` those alone are counted
        that are made in the store.
        """
        folders = (self.store, self.store / ".rewrap" / "locks") if calls == "openat" else ()
        return ["-e", f"trace={calls}", *(word for path in folders for word in ("-P", str(path)))]


@pytest.mark.timeout(300)
def test_a_blob_opens_whichever_call_of_the_system_fails_or_is_the_last(tmp_path: Path) -> None:
    if not is_tracing_possible():
        pytest.skip("NOT TESTED: calls of the system that fail. It needs strace and ptrace(2).")
    ground = Ground.make(tmp_path, 400)
    tracer, checker = Traced(ground, tmp_path / "trace"), ground.reader()
    tracer.migrate(*tracer.watching("none"))  # makes the folder of locks
    points = tracer.points()
    assert {"openat", "write", "fsync", "renameat2", "fchmod", "unlinkat"} <= {n for n, _ in points}
    ends: Counter[str] = Counter()
    for name, number in points:
        for fault in ("error=EIO", "signal=KILL"):
            inject = ("-e", f"inject={name}:{fault}:when={number}")
            blob_ids, done = tracer.migrate(*tracer.watching(name), *inject)
            assert "INJECTED" in tracer.log.read_text() or done.returncode, (name, number, fault)
            places = [ground.blob_ids.index(blob_id) for blob_id in blob_ids]
            wrong = [f for place in places if (f := checker.fault(place)) is not None]
            assert wrong == [], (name, number, fault)
            ends[f"{fault}, {done.returncode}"] += 1
            told = json.loads(done.stdout or "{}")
            for blob_id in [b for b, outcome in told.items() if outcome == "rewrapped"]:
                assert checker.plain.key_id(blob_id).startswith("local:kek"), "a lie"
    assert ends["signal=KILL, -9"] == len(points), ends
    last = traced(
        "-e",
        "trace=none",
        sys.executable,
        "-m",
        "tests.storm.once",
        str(tmp_path),
        *ground.blob_ids,
        **ground.environment,
    )
    assert set(json.loads(last.stdout).values()) <= {"rewrapped", "current"}, last.stderr
    assert checker.faults() == []
    assert all(checker.plain.key_id(b).startswith("local:kek") for b in ground.blob_ids)
