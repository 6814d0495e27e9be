"""What a worker counts, in a file for each process of its pool.

The files are prometheus_client's own for many processes: memory-mapped, so that a process that is
killed loses nothing. They are named by the process's slot in the pool and not by its pid: whoever
takes a dead one's slot goes on with its counters, and there are never more files than slots.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeVar

from prometheus_client import Counter, Gauge, Histogram, values

from keywrap.journal import Operation
from keywrap.keys import KeyVersion
from keywrap.kms import KmsError
from keywrap.metering import OUTCOMES, CountedWraps, Meter, outcome_of
from ledger.states import Kind, ShardKind
from tasks import metering

_Item = TypeVar("_Item")

_EVERY = 50
"""Of the calls at the store one in so many is timed: a file is read in 30 µs."""

_KMS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STORE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_SHARD_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)

_MOST_KEYS = 100
OTHER = "other"
"""Stands for all names beyond a hundred: whoever writes sidecars makes up versions as they like."""

_OPERATIONS: tuple[Operation, ...] = ("unwrap", "wrap", "rewrap", "prove")

_slot = "main"


def take_slot(slot: str) -> None:
    """Say whose files this process writes from now on; none that lives may have the same.

    Args:
        slot: the place of the process in its pool.
    """
    global _slot
    _slot = slot


def use_files() -> None:
    """Keep the values of metrics that are made from now on in files, by slot.

    They lie in the folder that the environment variable `PROMETHEUS_MULTIPROC_DIR` names.
    """
    values.ValueClass = values.MultiProcessValue(lambda: _slot)  # type: ignore[no-untyped-call]


class WorkerMeter(metering.Meter):
    """Counts what tasks do; see `tasks.metering.Meter`. Made before the pool forks."""

    def __init__(self) -> None:
        self._decided = _counter("blobs_decided", "Blobs that got an outcome.", "kind", "outcome")
        self._uses = _counter(
            "key_uses",
            "Wraps that were opened (unwrap, prove), made (wrap) or moved (rewrap), or could not.",
            *("provider", "operation", "outcome"),
        )
        self._request_s = _histogram(
            "kms_request_seconds",
            "How long a key service took to answer a request, by what that came to.",
            _KMS_S,
            *("provider", "operation", "outcome"),
        )
        self._store_s = _histogram(
            "store_step_seconds",
            f"How long a step of one blob took at the store; one in {_EVERY} is timed.",
            _STORE_S,
            "step",
        )
        self._shard_s = _histogram(
            "shard_seconds", "How long a shard was worked on.", _SHARD_S, "kind"
        )
        self._lost = _counter("lease_losses", "Shards that another worker took over.")
        self._stragglers = _counter(
            "stragglers",
            "Blobs that a fresh scan found written under an old key version, by that version.",
            "key",
        )
        self._keys: set[str] = set()
        self._made = _gauge("local_kek_wraps", "Wraps counted under a local KEK's newest version.")
        self._limit = _gauge("local_kek_wrap_limit", "The most wraps that are safe under it.")
        self._watched: dict[str, CountedWraps] = {}

    def open_files(self) -> None:
        """Open the files of this process's slot.

        Raises:
            OSError: they cannot be written.
        """
        self._lost.inc(0)  # the first that a process counts opens the files of all

    def expect(self, providers: Iterable[str]) -> None:
        """Show the uses of these providers' keys as zero: an increase from nothing is not seen."""
        for provider, operation, outcome in itertools.product(providers, _OPERATIONS, OUTCOMES):
            self._uses.labels(provider, operation, outcome)
        for kind in ShardKind:
            self._shard_s.labels(kind.value)
        self._stragglers.labels(OTHER)

    def decided(self, kind: Kind, outcomes: Mapping[str, int]) -> None:
        """Count blobs by their outcomes."""
        for outcome, blobs in outcomes.items():
            self._decided.labels(kind.value, outcome).inc(blobs)

    def used(self, provider: str, operation: Operation, outcome: str, uses: int) -> None:
        """Count uses of a key."""
        self._uses.labels(provider, operation, outcome).inc(uses)

    def stragglers(self, versions: Mapping[KeyVersion | None, int]) -> None:
        """Count stragglers by the KEK version that wraps them."""
        for version, blobs in versions.items():
            key = str(version or "unreadable")
            if key not in self._keys and len(self._keys) >= _MOST_KEYS:
                key = OTHER
            self._keys.add(key)
            self._stragglers.labels(key).inc(blobs)

    def lease_lost(self) -> None:
        """Count a lost shard."""
        self._lost.inc()

    def worked(self, kind: ShardKind, seconds: float) -> None:
        """Count a shard, and see how far it has worn KEKs."""
        self._shard_s.labels(kind.value).observe(seconds)
        for key, provider in self._watched.items():
            with suppress(KmsError):  # whoever wraps with it hears of that
                self._made.labels(key).set(provider.wraps_made())

    def watch(self, key: str, provider: CountedWraps) -> None:
        """Watch how far a KEK is worn."""
        self._watched[key] = provider
        self._limit.labels(key).set(provider.wrap_limit)

    def timed(self, step: Callable[[_Item], None]) -> Callable[[_Item], None]:
        """Return the step, one in `_EVERY` of whose calls is timed."""
        name = getattr(step, "func", step).__name__  # of a `partial`, of what it calls
        seconds = self._store_s.labels(name.strip("_").removesuffix("_one"))
        calls = itertools.count()  # counts in one step of the interpreter: no thread needs a lock

        def take(item: _Item) -> None:
            if next(calls) % _EVERY:
                step(item)
            else:
                with seconds.time():
                    step(item)

        return take

    def requests(self, provider: str) -> Meter:
        """Return what hears of the requests to the service of a provider's key."""
        # There is one for each blob where a service takes no batches: finding the labels anew would
        # cost as much as counting does.
        seconds: dict[tuple[str, type[Exception] | None], Histogram] = {}

        def hear(operation: str, took_s: float, failure: Exception | None) -> None:
            what = operation, None if failure is None else type(failure)
            found = seconds.get(what)
            if found is None:
                outcome = "ok" if what[1] is None else outcome_of(what[1])
                found = seconds[what] = self._request_s.labels(provider, operation, outcome)
            found.observe(took_s)

        return hear


def _counter(name: str, about: str, *labels: str) -> Counter:
    return Counter(f"rewrap_{name}", about, labels, registry=None)


def _gauge(name: str, about: str) -> Gauge:
    # Of all processes' values the newest: under a new version the count begins anew.
    mode: Literal["mostrecent"] = "mostrecent"
    return Gauge(f"rewrap_{name}", about, ["key"], registry=None, multiprocess_mode=mode)


def _histogram(name: str, about: str, buckets: Sequence[float], *labels: str) -> Histogram:
    return Histogram(f"rewrap_{name}", about, labels, registry=None, buckets=buckets)
