"""Checks of the store: it is there, keeps its conditions, and its control file is obeyed."""

from collections.abc import Iterator

from keywrap.canary import require_usable
from keywrap.conditions import ProbeLeftError, probe
from keywrap.control import Control, open_control
from keywrap.controlfile import NAME
from keywrap.stores import Store
from ledger import publications
from scheduler.checks.check import (
    AbsentError,
    Check,
    Finding,
    failed,
    passed,
    skipped,
    warned,
)
from scheduler.checks.ground import Ground

_MEND = "check [store] url and what its credentials may do, then run it again"


def checks(ground: Ground) -> Iterator[Check]:
    """Yield the checks of the store."""
    yield Check("store", lambda: _there(ground), _MEND)
    yield Check("conditional writes", lambda: conditional(ground.store.get()), _MEND)
    yield Check("control file", lambda: _control(ground), "rewrap cutover status")
    yield Check("readers' version", lambda: _readers(ground), "rewrap cutover status")


def _there(ground: Ground) -> Finding:
    ground.store.get()
    return passed(f"{ground.settings.keywrap.store.url} is there")


def conditional(store: Store) -> Finding:
    """See that a store creates only what is absent and replaces only what is unchanged.

    Raises:
        StoreError: it does not, or it did not answer.
    """
    try:
        probe(store)
    except ProbeLeftError as error:
        step = "let these credentials delete below .rewrap/, or remove it by hand"
        return warned(error.reason_code, str(error), step)
    return passed("compare-and-set and create-if-absent are kept")


def _control(ground: Ground) -> Finding:
    control = _obeyed(ground)
    if control is None:
        said = "[control] is not configured: applications wrap under what [keys] says"
        return skipped("control_not_configured", said, "rewrap control-key --out FILE")
    if control.serial == 0:
        said = f"{NAME} is not published yet: applications wrap under what [keys] says"
        return warned("control_not_published", said, "rewrap cutover off")
    known = _last_serial(ground)
    if control.serial < known:
        said = f"{NAME} has serial {control.serial}, and serial {known} was published already"
        return failed("control_rolled_back", said, f"rewrap cutover {control.cutover}")
    return passed(f"serial {control.serial} is signed for this store; cutover {control.cutover}")


def _obeyed(ground: Ground) -> Control | None:
    """Return what an application would obey that starts now; None where there is no table.

    Raises:
        ControlError: nothing, since it is not to be trusted.
    """
    if ground.settings.keywrap.control is None:
        return None
    source = open_control(ground.settings.keywrap, ground.store.get())
    return source.current() if source else None


def _last_serial(ground: Ground) -> int:
    """Return the last serial that the ledger knows; 0 where it cannot be asked."""
    table = ground.settings.keywrap.control
    try:
        ledger = ground.ledger.get()
    except AbsentError:
        return 0
    with ledger.begin() as connection:
        known = publications.newest(connection, table.store_id if table else "")
    return known.control.serial if known else 0


def _readers(ground: Ground) -> Finding:
    control = _obeyed(ground)
    primary = control.primary if control else None
    if primary is None:
        said = "no version is published: readers learn it from their key service"
        return skipped("no_version_published", said)
    require_usable(ground.provider(primary.key).get(), primary)
    return passed(f"a wrap under {primary}, which applications are to use, opens")
