"""Typing commands quickly: processes forked from one that has imported `rewrap` already.

Each command is a process of its own with its own environment, folder and output; it only saves
the second that Python takes to import the service. `tests.sites.run` starts one from nothing.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

_LOADED_WHEN_USED = (
    "hvac",
    "scheduler.loop",
    "scheduler.node",
    "scheduler.watching",
    "scheduler.words",
    "sqlalchemy.dialects.postgresql.psycopg",
)
"""What most commands import when they come to it: each child would again."""


class Terminal:
    """Where tests type commands; one at a time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], cwd: Path, timeout_s: float
    ) -> tuple[int, str, str]:
        """Run a command without a terminal; return exit code, stdout and stderr."""
        with self._lock, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            wish = {"words": list(words), "environment": dict(environment), "cwd": str(cwd)}
            files = {"out": _path(out), "err": _path(err), "timeout_s": int(timeout_s)}
            code = self._ask(json.dumps(wish | files))
            return code, _text(out), _text(err)

    def _ask(self, line: str) -> int:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.commands"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())
        except BaseException:
            # The answer that is still to come would be taken for that of the next command.
            self._process.kill()
            self._process.communicate()
            self._process = None
            raise

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def _path(file: IO[bytes]) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def preload() -> Any:
    """Import the service and each of its commands; return what runs one."""
    from scheduler.__main__ import main  # noqa: PLC0415 - what is paid for once
    from scheduler.commands import rewrap  # noqa: PLC0415 - likewise

    for name in rewrap.list_commands(click.Context(rewrap)):
        rewrap.get_command(click.Context(rewrap), name)
    for module in _LOADED_WHEN_USED:
        importlib.import_module(module)
    return main


def become(main: Any, words: Sequence[str], environment: Mapping[str, str], cwd: str) -> int:
    """Run a command in a process that was forked for it; return its exit code."""
    code = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["rewrap", *words]
        code = main()
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _serve() -> None:
    main = preload()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            wish = json.loads(line)
            signal.alarm(wish["timeout_s"])
            for number, name in ((0, os.devnull), (1, wish["out"]), (2, wish["err"])):
                os.dup2(os.open(name, os.O_RDWR), number)
            os._exit(become(main, wish["words"], wish["environment"], wish["cwd"]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    _serve()
