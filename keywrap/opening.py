"""Opening many wraps of several KEKs at once."""

from collections.abc import Sequence

from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, KmsError, RefusedError
from keywrap.noted import unwrap_many

Opened = DataKey | RefusedError | UnlistedKeyError


def open_each(
    keys: KeyRing,
    items: Sequence[tuple[WrappedKey, Context]],
    journal: Journal = NO_JOURNAL,
) -> list[Opened | KmsError]:
    """Open wraps as `open_many` does, but let a KEK version that refuses hold up no other.

    Returns:
        In the order of the items: the data key, why this wrap alone does not open, or why its
        KEK version as a whole cannot be used.
    """
    results: dict[int, Opened | KmsError] = {}
    groups: dict[KeyVersion, list[int]] = {}
    for place, (wrapped, _) in enumerate(items):
        if wrapped.key_version.key in keys:
            groups.setdefault(wrapped.key_version, []).append(place)
        else:
            results[place] = UnlistedKeyError(wrapped.key_version.key)
    for version, places in groups.items():
        try:
            opened: Sequence[Opened | KmsError] = unwrap_many(
                keys.provider(version.key), [items[place] for place in places], journal
            )
        except KmsError as error:
            opened = [error] * len(places)
        results.update(zip(places, opened, strict=True))
    return [results[place] for place in range(len(items))]


def open_many(
    keys: KeyRing,
    items: Sequence[tuple[WrappedKey, Context]],
    journal: Journal = NO_JOURNAL,
) -> list[Opened]:
    """Open wraps with the KEKs that this installation lists, in as few requests as can be.

    Args:
        keys: the listed KEKs.
        items: each wrap with the context that it was bound to.
        journal: where each use of a key is noted.

    Returns:
        In the order of the items: the data key, or why this wrap alone does not open.

    Raises:
        KmsError: a KEK as a whole cannot be used: unavailable, throttled or denied.
    """
    results: list[Opened] = []
    for opened in open_each(keys, items, journal):
        if isinstance(opened, KmsError) and not isinstance(opened, RefusedError):
            raise opened
        results.append(opened)
    return results
