"""Whether a store keeps the one promise that everything here rests on: conditional writes."""

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


class UnconditionalStoreError(StoreUnavailableError):
    """The store makes a write whose condition does not hold. Nothing may be moved there."""

    reason_code = "store_ignores_conditions"


def require_conditional_writes(store: Store) -> None:
    """See that a store refuses writes whose condition does not hold.

    Some services that speak S3 take `If-Match` and `If-None-Match` on a PUT and ignore them
    (SeaweedFS before 3.97: its issue 7153; Storj: issue 7377). There a rewrap would overwrite
    what an application has just written, and no error would tell. So an object of our own is
    written in the store's reserved corner, as it must not be, and removed again.

    Args:
        store: the store; four requests are made to it.

    Raises:
        UnconditionalStoreError: it makes such a write.
        StoreUnavailableError: it did not answer.
    """
    name = f"{RESERVED}probe-{secrets.token_hex(8)}"
    store.create(name, b"probe")
    try:
        stale = Stored(b"never written", f'"{secrets.token_hex(16)}"')
        _refuses(lambda: store.create(name, b"again"), AlreadyExistsError, "If-None-Match")
        _refuses(lambda: store.replace(name, b"anew", stale), ChangedError, "If-Match")
    finally:
        store.delete(name)


def _refuses(write: Callable[[], None], refusal: type[StoreError], condition: str) -> None:
    try:
        write()
    except refusal:
        return
    raise UnconditionalStoreError(
        f"the store ignores {condition} on a write: a rewrap could overwrite what an application "
        "has just written. No wrap was moved; use a store that honours conditional writes"
    )
