"""What applications obey, read again before it is too old: the current KEK version, the cutover.

`ControlSource.current()` answers with what was read at most `max_age_s` ago, or raises. So once a
publisher has waited that long, nobody obeys what was published before. What an application does
without an answer is argued in docs/decisions/control-file.md: it writes nothing and opens no legacy
wrap, and it goes on opening wraps of managed keys, for which no control file is needed.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from keywrap.config import ConfigError, KeywrapConfig
from keywrap.controlfile import FIRST, NAME, Control, ControlError, ControlFile, Cutover
from keywrap.signing import PublicKey
from keywrap.stores import Store, StoreError

__all__ = [
    "Control",
    "ControlError",
    "ControlReader",
    "ControlSource",
    "Cutover",
    "open_control",
    "open_control_file",
]

_READ_AGAIN = 0.5
"""At this part of its age a control file is read again, so that one bad answer blocks nobody."""

_PAUSE = 0.1
"""So much of that age passes between two tries, so that a store in trouble is not hammered."""

_PUBLISH = "rewrap cutover warn (or off, or on: each publishes it anew)"


class ControlSource(Protocol):
    """Tells what applications obey."""

    def current(self) -> Control:
        """Return what is to be obeyed now.

        Raises:
            ControlError: nothing is known that is trusted and young enough.
        """


def _clock() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux (clock_gettime(2))
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class ControlReader:
    """Reads a control file again and again, and never goes back to an older one.

    Many threads may share it.

    Args:
        file: the control file.
        max_age_s: the longest that one is obeyed after it was read; what the file says, if less.
        min_serial: the lowest serial that is accepted.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        file: ControlFile,
        *,
        max_age_s: float = 60,
        min_serial: int = 0,
        clock: Callable[[], float] = _clock,
    ) -> None:
        self._file = file
        self._max_age_s = max_age_s
        self._min_serial = min_serial
        self._clock = clock
        self._lock = threading.Lock()
        self._held: tuple[Control, float] | None = None  # as read, and when reading it began
        self._failed: tuple[ControlError, float] | None = None

    def current(self) -> Control:
        """Return what is to be obeyed now; see `ControlSource.current`."""
        if held := self._younger_than(_READ_AGAIN):
            return held
        usable = self._younger_than(1.0)
        # Who still has one to obey does not wait for whoever reads the next.
        if not self._lock.acquire(blocking=usable is None):
            assert usable is not None  # noqa: S101 - or the lock would have been waited for
            return usable
        try:
            return self._younger_than(_READ_AGAIN) or self._read_again()
        finally:
            self._lock.release()

    def _younger_than(self, part: float) -> Control | None:
        if self._held is None:
            return None
        control, read_at = self._held
        age = min(self._max_age_s, control.max_age_s) * part
        return control if self._clock() - read_at < age else None

    def _read_again(self) -> Control:
        now = self._clock()
        if self._failed is None or now - self._failed[1] >= self._max_age_s * _PAUSE:
            try:
                self._held, self._failed = (self._accepted(), now), None
            except ControlError as error:
                self._failed = error, self._clock()
        if held := self._younger_than(1.0):
            return held
        if self._failed is None:
            raise ControlError("control_unreadable", f"reading {NAME} took longer than its age")
        failure = self._failed[0]
        # A new one each time: the trace of one that is raised again and again would only grow.
        raise ControlError(failure.reason_code, str(failure), failure.next_command) from failure

    def _accepted(self) -> Control:
        """Read the file and see that it is no older than what was obeyed before."""
        try:
            found = self._file.read() or FIRST
        except StoreError as error:
            raise ControlError("control_unreadable", f"{NAME} cannot be read: {error}") from error
        seen = self._held[0] if self._held else FIRST
        least = max(self._min_serial, seen.serial)
        if found.serial == 0 < least:
            raise ControlError(
                "control_missing",
                f"{NAME} is gone from the store, and was there with serial {least}",
                _PUBLISH,
            )
        if found.serial < least:
            raise ControlError(
                "control_rolled_back",
                f"{NAME} has serial {found.serial}, and serial {least} was published already",
                _PUBLISH,
            )
        if found.serial == seen.serial and found != seen:
            raise ControlError(
                "control_rolled_back",
                f"{NAME} is another one than was read before under serial {found.serial}",
                _PUBLISH,
            )
        return found


def open_control_file(config: KeywrapConfig, store: Store) -> ControlFile:
    """Return the control file of the configured store.

    Raises:
        ConfigError: there is no table `[control]`.
    """
    if config.control is None:
        raise ConfigError(
            "[control]", "there is no such table", next_command="rewrap control-key --out FILE"
        )
    table = config.control
    key = PublicKey.parse(table.public_key)
    return ControlFile(store, table.store_id, key, frozenset(config.keys.uris()))


def open_control(config: KeywrapConfig, store: Store) -> ControlSource | None:
    """Return what tells an application what to obey; None where `[control]` is not configured.

    Args:
        config: the configuration.
        store: the configured store; nothing is read from it yet.
    """
    if config.control is None:
        return None
    table = config.control
    return ControlReader(
        open_control_file(config, store), max_age_s=table.max_age_s, min_serial=table.min_serial
    )
