"""A test's server as a process of its own, so that worker processes can use it."""

import subprocess
import sys
from pathlib import Path
from typing import Self

STOP_S = 5.0


class ServerProcess:
    """A module of ours that prints `READY http://127.0.0.1:PORT` once it listens.

    Also a context manager that stops it.

    Args:
        process: it runs here.
        address: its URL.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self._process = process
        self.address = address

    @classmethod
    def start(cls, module: str, *arguments: str) -> Self:
        """Start it.

        Args:
            module: its name, such as `keywrap.testing.gcp_kms_server`.
            arguments: of its command line.

        Raises:
            RuntimeError: it did not start.
        """
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,  # Ctrl-C in the terminal is its starter's business
        )
        assert process.stdout is not None  # noqa: S101 - asked for above
        line = process.stdout.readline().decode()
        if not line.startswith("READY "):
            process.kill()
            process.wait()
            process.stdout.close()
            raise RuntimeError(f"{module} did not start (exit {process.returncode})")
        return cls(process, line.split()[1])

    def stop(self) -> None:
        """Stop it; a second time, do nothing."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
