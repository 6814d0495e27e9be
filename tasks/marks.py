"""Whether this worker sees the store that a campaign is about."""

import secrets
from functools import lru_cache

from keywrap.conditions import require_conditional_writes
from keywrap.layout import RESERVED
from keywrap.stores import (
    AlreadyExistsError,
    NotFoundError,
    Store,
    StoreUnavailableError,
)
from ledger import marks
from ledger.states import MOVING
from tasks.leases import Work

MARK = f"{RESERVED}store-mark"
_MARK_BYTES = 64


class WrongStoreError(StoreUnavailableError):
    """What this worker sees is not the store that the campaign is about."""

    reason_code = "wrong_store"


def require_store(work: Work) -> None:
    """See that this worker looks at the campaign's store, and that it is there.

    The first campaign that moves wraps puts a mark into the store; from then on a store without
    it is away. An empty mount point would otherwise pass for a store whose blobs are all gone.

    Raises:
        WrongStoreError: it is another store, or the mark is missing or another's.
        UnconditionalStoreError: it ignores the conditions of writes, so nothing may be moved.
        StoreUnavailableError: the store did not answer.
    """
    runtime, campaign = work.runtime, work.lease.campaign
    if campaign.store and campaign.store != runtime.store:
        raise WrongStoreError(
            f"the campaign is about {campaign.store}, and this worker is configured for "
            f"{runtime.store}: restart it (`rewrap up`) with the campaign's configuration"
        )
    with runtime.ledger.begin() as connection:
        known = marks.known(connection, runtime.store)
    if known is None and campaign.kind in MOVING:
        found = _put_mark(runtime.reader.store)
        # Before the mark is noted: where conditions are ignored, two workers put two marks.
        _require_conditions(runtime.reader.store)  # type: ignore[arg-type] # by identity
        with runtime.ledger.begin() as connection:
            known = marks.learn(connection, runtime.store, found)
    if known is not None and read_mark(runtime.reader.store) != known:
        raise WrongStoreError(
            f"the store has not its mark {MARK}: is the right file system mounted? If the store "
            f"was made anew on purpose, write {known} into that file"
        )
    if campaign.kind in MOVING:
        _require_conditions(runtime.reader.store)  # type: ignore[arg-type] # by identity


@lru_cache(maxsize=1)
def _require_conditions(store: Store) -> None:
    """See once a process that the store refuses what it must; an error is not remembered."""
    require_conditional_writes(store, MARK)


def read_mark(store: Store) -> str | None:
    """Return the mark that a store bears; None where it has none.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    try:
        return store.read(MARK, limit=_MARK_BYTES).data.decode("ascii", "replace").strip()
    except NotFoundError:
        store.check()
        return None


def _put_mark(store: Store) -> str:
    # Looked for first: a store that ignores conditions would replace another ledger's mark.
    if found := read_mark(store):
        return found
    mark = secrets.token_hex(16)
    try:
        store.create(MARK, mark.encode())
    except AlreadyExistsError:
        return read_mark(store) or mark
    return mark
