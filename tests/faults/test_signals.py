import subprocess
import sys

from tests.sites import ROOT

ASKED_AT_ANY_MOMENT = """
import signal
from scheduler.stopping import Stop

for n in range(3000):
    stop = Stop()
    signal.signal(signal.SIGALRM, stop.ask)
    signal.setitimer(signal.ITIMER_REAL, 1e-4 + n % 100 * 1e-6)
    while not stop.is_set():
        stop.wait(1e-5)
print("each stopped")
"""


def test_a_signal_at_any_moment_of_a_wait_ends_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED_AT_ANY_MOMENT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "each stopped\n"
