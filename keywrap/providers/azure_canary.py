"""Tells a wrap that is bad from a key that opens none, where the vault's answer is the same.

To a wrap under another version, a damaged one, and every wrap under an algorithm that the key has
not, Key Vault answers 400. So a new wrap of a new data key is made under that KEK version and
opened, now: if it opens, the key is sound and the wrap is not.
"""

import threading
import time
from collections.abc import Callable

from keywrap.providers.calls import PerProcess

SOUND_FOR_S = 5.0
"""How long a canary counts as opened now: a batch of bad wraps costs one, not one each."""


class Canaries:
    """Canaries of one KEK's versions.

    Args:
        fly: makes and opens one under a version; raises a `DeniedError` where it does not open.
    """

    def __init__(self, fly: Callable[[str], None]) -> None:
        self._fly = fly
        self._sound_at: dict[str, float] = {}
        self._lock = PerProcess(threading.Lock)

    def require_sound(self, version: str) -> None:
        """See that a KEK version opens its wraps.

        Raises:
            KmsError: it does not, or that cannot be tried.
        """
        with self._lock.get():  # so that the threads of a batch ask once
            if time.monotonic() - self._sound_at.get(version, float("-inf")) >= SOUND_FOR_S:
                self._fly(version)
                self._sound_at[version] = time.monotonic()
