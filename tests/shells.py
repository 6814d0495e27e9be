"""Shells in which tests type command lines as they stand: bash, a terminal, a quick `rewrap`.

`rewrap` is forked from a process that has imported it already. It takes files, folder and
environment of the one that was typed; so pipes and redirections are the shell's own.
"""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedded.launching import end_with_parent
from tests.commands import become, preload
from tests.sites import ROOT, Ran

_LARGEST = 1 << 18
_STUB = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as there:
    there.connect({address!r})
    wish = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()])
    socket.send_fds(there, [wish.encode()], [0, 1, 2])
    sys.exit(int(there.recv(8) or b"125"))
"""
_AFTER = """
code=$?
pwd > {0}.cwd
env -0 > {0}.env
exit $code
"""


class QuickRewrap:
    """A `rewrap` that starts in milliseconds.

    Args:
        program: where it is made.
        address: the Unix socket that it asks; short.
    """

    def __init__(self, program: Path, address: Path) -> None:
        program.write_text(_STUB.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.shells", str(address)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            preexec_fn=end_with_parent(signal.SIGKILL),  # noqa: PLW1509 - system calls only
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Shell:
    """What one person types, line after line, and how they answer where they are asked: yes.

    Args:
        folder: where it is typed at first.
        environment: of the first line.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self._after = folder / ".after"
        self._person, self._terminal = pty.openpty()

    def type(self, text: str, timeout_s: float = 90) -> Ran:
        """Type a line and wait for its end; what it exports, and where it goes, stays."""
        termios.tcflush(self._terminal, termios.TCIFLUSH)
        os.write(self._person, b"y\n")
        done = subprocess.run(
            ["bash", "-c", text + _AFTER.format(self._after)],
            env=self.environment,
            cwd=self.folder,
            stdin=self._terminal,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        variables = Path(f"{self._after}.env").read_text().split("\0")
        self.environment = dict(one.split("=", 1) for one in variables if one)
        self.folder = Path(Path(f"{self._after}.cwd").read_text().strip())
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, text: str, log: Path) -> "subprocess.Popen[bytes]":
        """Type what runs until it is stopped; its `rewrap` is the real one."""
        real = f'rewrap() {{ exec {sys.executable} -P -m scheduler "$@"; }}\n'
        with log.open("ab") as output:
            return subprocess.Popen(
                ["bash", "-c", real + text],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls only
            )

    def close(self) -> None:
        os.close(self._person)
        os.close(self._terminal)


def _serve(address: str) -> None:
    main = preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)  # noqa: T201 - the answer
        while True:
            there, _ = listener.accept()
            with there:
                data, files, _, _ = socket.recv_fds(there, _LARGEST, 3)
                if os.fork() == 0:
                    _answer(main, there, data, files)
                for file in files:
                    os.close(file)


def _answer(main: Any, there: socket.socket, data: bytes, files: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
    code = 1
    try:
        words, environment, folder = json.loads(data)
        code = become(main, words, environment, folder)
    finally:
        there.send(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
