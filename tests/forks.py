"""What is so in a fork of the test's process."""

import os
import signal
import time
from collections.abc import Callable

_LONGEST_S = 20.0


def holds_in_fork(check: Callable[[], bool]) -> bool:
    """Whether a check holds in a fork of this process; False where it raises, or hangs 20 s."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)  # a child of pytest must not go on as a second pytest
    until = time.monotonic() + _LONGEST_S
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            until += _LONGEST_S
        time.sleep(0.002)
    return status[1] == 0
