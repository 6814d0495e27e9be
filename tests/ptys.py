"""A real terminal: a command on a pseudo-terminal of 80 columns, and what it shows."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from rich.cells import cell_len

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A command that runs on a terminal of its own.

    Args:
        argv: its command line.
        environment: its environment.
        cwd: its folder.
        rows: how many lines the terminal has; it has 80 columns.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path, rows: int = 24
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        self.process = subprocess.Popen(
            argv,
            env={**environment, "TERM": "xterm"},
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def read(self, for_s: float = 0.2) -> None:
        """Take what comes within some time."""
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._master], [], [], left)[0]:
                return
            try:
                self.raw += os.read(self._master, 65536).decode("utf-8", "replace")
            except OSError:  # the command has ended
                return

    @property
    def lines(self) -> list[str]:
        """Everything that was shown, line by line, without colours."""
        # A frame is drawn over the one before it from the beginning of a line.
        return _CONTROL.sub("", self.raw).replace("\r", "\n").splitlines()

    def await_text(self, text: str, timeout_s: float = 20) -> None:
        """Wait until a text is shown from now on."""
        seen = len(self.raw)
        self.await_that(lambda: text in _CONTROL.sub("", self.raw[seen:]), text, timeout_s)

    def await_that(self, is_so: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        until = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < until, f"{what!r} is not shown: {self.raw[-3000:]}"
            self.read()

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self, timeout_s: float = 20) -> int:
        until = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < until, self.raw[-3000:]
            self.read()
        self.read()
        return self.process.returncode

    @property
    def widest(self) -> int:
        """The most columns that a line has taken."""
        return max(cell_len(line) for line in self.lines)
