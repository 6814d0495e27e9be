"""Whether a store keeps the one promise that everything here rests on: conditional writes."""

import contextlib
import re
import secrets
from collections.abc import Callable

from keywrap.layout import RESERVED
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    Store,
    Stored,
    StoreError,
    StoreUnavailableError,
)

_LAST_DIGIT = re.compile("[0-9A-Fa-f](?=[^0-9A-Fa-f]*$)")


class UnconditionalStoreError(StoreUnavailableError):
    """The store makes a write whose condition does not hold. Nothing may be moved there."""

    reason_code = "store_ignores_conditions"


class ReadBackError(StoreError):
    """Another writer came first, as reading showed; the store did not answer with a refusal.

    A store whose errors are not of this class decides itself.
    """


def require_conditional_writes(store: Store, name: str) -> None:
    """See that a store refuses writes whose condition does not hold.

    Some services that speak S3 take `If-Match` and `If-None-Match` on a PUT and ignore them
    (SeaweedFS before 3.97: its issue 7153; Storj: issue 7377). There a rewrap would overwrite
    what an application has just written, and no error would tell. So an object of our own is
    written as it must not be: with the bytes that it has, so that nothing is lost if it is.

    Args:
        store: the store; three requests are made to it.
        name: an object that is there and that nobody else writes.

    Raises:
        UnconditionalStoreError: it makes such a write.
        StoreUnavailableError: it did not answer, or not with a refusal.
    """
    read = store.read(name)
    stale = Stored(b"never written", another_tag(read.tag))
    _refuses(lambda: store.create(name, read.data), AlreadyExistsError, "If-None-Match")
    _refuses(lambda: store.replace(name, read.data, stale), ChangedError, "If-Match")


class ProbeLeftError(StoreError):
    """The store keeps its conditions, but the object that showed it could not be removed."""

    reason_code = "probe_left_behind"


def probe(store: Store) -> None:
    """See that a store makes the writes whose condition holds, and refuses the others.

    Where no campaign has been yet there is no object to try it on: one is made under a name of our
    own that no other probe has, and is removed again.

    Args:
        store: the store.

    Raises:
        UnconditionalStoreError: it makes a write whose condition does not hold.
        ProbeLeftError: all is well, but the object is still there.
        StoreError: it does not make a write whose condition holds, or it did not answer.
    """
    name = f"{RESERVED}probe-{secrets.token_hex(16)}"
    store.create(name, b"a probe")
    try:
        require_conditional_writes(store, name)
        store.replace(name, b"a probe, replaced", store.read(name))
        if store.read(name).data != b"a probe, replaced":
            raise StoreUnavailableError("the store answers with old bytes after a write", name=name)
    except StoreError:
        with contextlib.suppress(StoreError):  # what was found out counts for more
            store.delete(name)
        raise
    try:
        store.delete(name)
    except StoreError as error:
        raise ProbeLeftError(f"{name} could not be removed: {error}", name=name) from error


def another_tag(tag: str) -> str:
    """Return a tag that the object does not bear, of the same form: some stores refuse others."""
    other, changes = _LAST_DIGIT.subn(lambda found: "1" if found[0] == "2" else "2", tag)
    return other if changes else f'"{secrets.token_hex(16)}"'


def _refuses(write: Callable[[], None], refusal: type[StoreError], condition: str) -> None:
    try:
        write()
    except refusal as error:
        if isinstance(error, ReadBackError):
            raise StoreUnavailableError(
                f"whether the store honours {condition} is not known: it did not answer a write "
                "with a refusal"
            ) from error
        return
    raise UnconditionalStoreError(
        f"the store ignores {condition} on a write: a rewrap could overwrite what an application "
        "has just written. No wrap was moved; use a store that honours conditional writes"
    )
