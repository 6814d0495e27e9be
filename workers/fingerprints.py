"""Which tables of the configuration a process has, told without a word of them."""

import hashlib

import msgspec

from keywrap.config import KeywrapConfig

COMMAND = "rewrap_fingerprints"
"""What a worker is asked for its own, by Celery's remote control."""


def of(config: KeywrapConfig) -> dict[str, str]:
    """Return a digest of each table that the desk and all workers have in common.

    Args:
        config: the configuration, which names secrets and holds none.

    Returns:
        By table, hexadecimal digits: the same for the same settings, however they are written.
    """
    return {"store": _digest(config.store), "keys": _digest(config.keys)}


def _digest(table: msgspec.Struct) -> str:
    return hashlib.sha256(msgspec.json.encode(table, order="sorted")).hexdigest()[:16]
