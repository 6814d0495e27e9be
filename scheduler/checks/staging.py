"""The runbook's "test wrap/unwrap with a staging dataset": real blobs opened, content and all."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from keywrap.config import open_reader
from keywrap.contents import CONTENT_FORMATS
from keywrap.reading import GoneError, QuarantineError, SidecarReader
from keywrap.rewrapping import Outcome, Result
from keywrap.scan import scan
from keywrap.threads import StoreThreads
from keywrap.verifying import Verifier
from ledger import samples
from ledger.connection import LedgerUnavailableError
from scheduler import mismatch
from scheduler.checks.check import (
    AbsentError,
    Check,
    Finding,
    failed,
    of_error,
    passed,
    skipped,
    warned,
)
from scheduler.checks.ground import Ground
from scheduler.desk import DeskError
from scheduler.showing import plain

_THREADS = 4
_A_KEY = 3
"""Blobs that show that a legacy key opens."""

_INVENTORY = "rewrap inventory"
_MEND = "check [keys] and the key services, then run it again"
_VERIFY = "rewrap verify --all"
_TABLES = (
    "mend encoding, scheme or secret of the key's table in [keys] (docs/keys.md; `rewrap "
    "inventory` prints which schemes the lengths of the wraps allow), then run it again; where the "
    "table is right and some blobs are not: rewrap verify --all"
)


_RESTART = "start scheduler and workers again, then: rewrap plan migrate"


def checks(ground: Ground) -> Iterator[Check]:
    """Yield the check of the staging dataset."""
    yield Check("staging sample", lambda: _sample(ground), _MEND)


def _sample(ground: Ground) -> Finding:
    if ground.sample == 0:
        return skipped("no_sample", "no sample was asked for")
    ground.keys.get()
    ground.store.get()
    blob_ids = _inventoried(ground) or _listed(ground)
    if not blob_ids:
        return warned("store_empty", "the store holds no blob to open", "check [store] url")
    return _opened(ground, blob_ids[: ground.sample])


def of_keys(ground: Ground, claims: Callable[[str], bool]) -> Finding:
    """Open blobs of the last inventory that certain legacy keys wrapped then and wrap still.

    Args:
        ground: the installation.
        claims: whether a key is one of them, by its URI.
    """
    ground.keys.get()
    ground.store.get()
    inventory = ground.last_inventory()
    if inventory is None:
        said = "whether it opens anything is not known: there is no inventory to take a blob from"
        return warned("no_inventory", said, _INVENTORY)
    with ground.ledger.get().begin() as connection:
        known = samples.of_each_key(connection, inventory.id, _A_KEY)
    reader = open_reader(ground.settings.keywrap, threads=_THREADS)
    ids = [blob for blob, then in known if claims(then.key) and _wraps(reader, blob, then.key)]
    if ids:
        # Sooner the table's fault than the blobs': an empty one opens with any key.
        return _opened(ground, ids, _TABLES)
    said = f"whether it opens anything is not known: no blob of inventory {inventory.id}"
    default = ground.settings.keywrap.store.legacy_default
    is_named = bool(default) and claims(default)
    also = " and legacy_default, which names it, out of [store]" if is_named else ""
    step = f"take its table out of [keys]{also}, unless a `previous` or a backup needs it yet"
    return warned("no_blob_of_key", f"{said} is wrapped by it now", step)


def _wraps(reader: SidecarReader, blob_id: str, key: str) -> bool:
    try:
        return reader.read(blob_id).wrapped.key_version.key == key
    except (QuarantineError, GoneError):
        return False


def _inventoried(ground: Ground) -> list[str]:
    """Return blobs of the last inventory, every KEK version in turn."""
    try:
        inventory = ground.last_inventory()
    except (AbsentError, DeskError, LedgerUnavailableError):  # as the ledger's line says
        return []
    if inventory is None:
        return []
    with ground.ledger.get().begin() as connection:
        found = samples.of_each_key(connection, inventory.id, ground.sample)
    turns: Counter[object] = Counter()
    ordered: list[tuple[int, str]] = []
    for blob_id, version in found:
        ordered.append((turns[version], blob_id))
        turns[version] += 1
    return [blob_id for _, blob_id in sorted(ordered)]


def _listed(ground: Ground) -> list[str]:
    """Return the first blobs that a listing of the store names."""
    reader = open_reader(ground.settings.keywrap, threads=_THREADS)
    found = scan(reader.store, reader.layout)
    return [blob.blob_id for blob in islice(found, ground.sample)]


def _opened(ground: Ground, blob_ids: Sequence[str], mend: str = _VERIFY) -> Finding:
    config = ground.settings.keywrap
    with StoreThreads(_THREADS) as pool:
        reader = open_reader(config, threads=_THREADS)
        verifier = Verifier(reader, ground.keys.get(), config.store.legacy_content, pool)
        report = verifier.verify(blob_ids)
        if report.interruption is not None:
            return of_error(report.interruption, _MEND)
        other = _other_format(verifier, report.results)
    return other or judged(report.results, mend)


def _other_format(verifier: Verifier, results: Sequence[Result]) -> Finding | None:
    """Try the other content formats on what does not open; None where none of them opens more."""
    opened = sum(result.outcome is Outcome.CURRENT for result in results)
    shut = [result.blob_id for result in results if result.reason_code in mismatch.CODES]
    for name in CONTENT_FORMATS if shut else ():
        tried = replace(verifier, legacy_content=name).verify(shut).results
        opens = sum(result.outcome is Outcome.CURRENT for result in tried)
        if opens > opened:
            said = (
                f"{opened} of {len(results)} blobs open, content and all; {opens} more would if "
                f'[store] legacy_content were "{name}" and not "{verifier.legacy_content}"'
            )
            mend = f'set legacy_content = "{name}" in [store], {_RESTART}'
            return failed("legacy_content_wrong", said, mend)
    return None


def judged(results: Sequence[Result], mend: str = _VERIFY) -> Finding:
    """Say how many blobs of a sample open, and why the others do not.

    Args:
        results: what opening them came to.
        mend: the next step where some do not.
    """
    elsewhere = sum(result.reason_code == "key_elsewhere" for result in results)
    gone = sum(result.outcome is Outcome.GONE for result in results)
    opened = sum(result.outcome is Outcome.CURRENT for result in results)
    bad = [
        result
        for result in results
        if result.outcome not in {Outcome.GONE, Outcome.CURRENT}
        and result.reason_code != "key_elsewhere"
    ]
    said = f"{opened} of {len(results)} blobs open, content and all"
    said += f"; {gone} are deleted since" if gone else ""
    said += f"; the keys of {elsewhere} are on other hosts" if elsewhere else ""
    if bad:
        codes = Counter(result.reason_code or result.outcome.value for result in bad)
        reasons = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        first = f"{plain(bad[0].blob_id)}: {plain(bad[0].detail)}"
        return failed("blobs_do_not_open", f"{said}; not: {reasons}; {first}", mend)
    if not opened:
        return warned("nothing_opened", said, _INVENTORY)
    return passed(said)
