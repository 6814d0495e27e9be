"""Opening many wraps of several KEKs at once."""

from collections.abc import Sequence

from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import WrappedKey
from keywrap.kms import Context, RefusedError, unwrap_many

Opened = DataKey | RefusedError | UnlistedKeyError


def open_many(keys: KeyRing, items: Sequence[tuple[WrappedKey, Context]]) -> list[Opened]:
    """Open wraps with the KEKs that this installation lists, in as few requests as can be.

    Args:
        keys: the listed KEKs.
        items: each wrap with the context that it was bound to.

    Returns:
        In the order of the items: the data key, or why this wrap alone does not open.

    Raises:
        KmsError: a KEK as a whole cannot be used: unavailable, throttled or denied.
    """
    results: dict[int, Opened] = {}
    groups: dict[str, list[int]] = {}
    for place, (wrapped, _) in enumerate(items):
        key = wrapped.key_version.key
        try:
            keys.provider(key)
        except UnlistedKeyError as error:
            results[place] = error
        else:
            groups.setdefault(key, []).append(place)
    for key, places in groups.items():
        opened = unwrap_many(keys.provider(key), [items[place] for place in places])
        results.update(zip(places, opened, strict=True))
    return [results[place] for place in range(len(items))]
