"""A test's server as a process of its own, so that worker processes can use it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

STOP_S = 5.0
WITHIN_S = 20.0


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
    def launch(
        cls, module: str, *arguments: str, preexec_fn: Callable[[], None] | None = None
    ) -> Self:
        """Start it.

        Args:
            module: its name, such as `keywrap.testing.gcp_kms_server`.
            arguments: of its command line.
            preexec_fn: called in the child before it begins, as by `subprocess.Popen`: whoever
                wants the server to end with itself says so there.

        Raises:
            RuntimeError: it did not start.
        """
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,  # Ctrl-C in the terminal is its starter's business
            preexec_fn=preexec_fn,  # noqa: PLW1509 - the caller's choice
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


def post_wishes(url: str, wishes: Mapping[str, object]) -> Any:  # noqa: ANN401 - as it answers
    """Send wishes to a server's control as a JSON object; return the JSON of its answer."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        url, data=json.dumps(dict(wishes)).encode(), method="POST"
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=WITHIN_S) as answer:
        return json.load(answer)
