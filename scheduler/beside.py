"""What works beside the ticks, in a thread of its own: it may hang, and no tick waits for it."""

import logging
import threading

from ledger.connection import LedgerNotReadyError, LedgerUnavailableError

logger = logging.getLogger(__name__)

STOP_WITHIN_S = 5.0
"""So long whoever stops waits for what hangs."""

_AGAIN_S = 2.0


class Beside:
    """Takes a look now and then, in a thread, until it is stopped.

    Args:
        name: the thread's name.
        every_s: seconds between two looks.
    """

    def __init__(self, name: str, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> None:
        """Start working."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what hangs is not waited for."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_WITHIN_S)

    def look(self) -> object:
        """Do what is due now.

        Raises:
            LedgerUnavailableError: PostgreSQL does not answer.
        """
        raise NotImplementedError

    def _keep(self) -> None:
        """Look until `_ended` is set."""
        pause_s = self._every_s
        while not self._ended.wait(pause_s):
            pause_s = self._every_s
            try:
                self.look()
            except (LedgerUnavailableError, LedgerNotReadyError):
                pause_s = _AGAIN_S  # the ticks say so
            except Exception:  # a thread that ended would be missed by nobody
                name = self._thread.name
                logger.exception("%s: trying again", name, extra={"event": "beside_failed"})
                pause_s = _AGAIN_S
