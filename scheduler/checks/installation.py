"""Checks of the installation: configuration, secrets, ledger, clock, broker, processes, disk."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from keywrap.config import ConfigError
from keywrap.contentwriting import COMMIT_WITHIN_S
from keywrap.signing import PublicKey, SigningKey, SigningKeyError
from ledger import progress
from ledger.connection import Ledger
from ledger.queues import QUEUE
from scheduler import waits
from scheduler.checks.check import (
    Check,
    Finding,
    failed,
    passed,
    skipped,
    unreachable,
    warned,
)
from scheduler.checks.ground import Ground
from workers import fingerprints
from workers.composition import queues_of
from workers.plaintext import plain
from workers.settings import Settings

MAX_SKEW = timedelta(seconds=5)
"""Leases are timed by the database alone; signed records and KMS requests by this host's clock."""

_LEDGER = "check [ledger] url or REWRAP_LEDGER_URL, then run it again"
_BROKER = "check [broker] url or REWRAP_BROKER_URL, then run it again"

_LITTLE_BYTES = 100 * 2**20
_SOME_BYTES = 2**30
_NAMED = 3
"""Workers that a line names."""


def checks(ground: Ground) -> Iterator[Check]:
    """Yield the checks of the installation."""
    yield from configured(ground)
    yield Check("ledger", lambda: _ledger(ground), _LEDGER)
    yield Check("clock", lambda: clock(ground.ledger.get()), _LEDGER)
    yield Check("broker", lambda: _broker(ground), _BROKER)
    yield Check("scheduler", lambda: _scheduler(ground), _LEDGER)
    for queue in needed_queues(ground):
        yield Check(f"workers of queue {queue}", partial(_queue, ground, queue), _BROKER)
    yield Check("workers' settings", lambda: _settings(ground), _BROKER)
    yield Check("disk", FreeSpace(Path(ground.settings.state_dir)), "check state_dir")


def configured(ground: Ground) -> Iterator[Check]:
    """Yield what can be told of the configuration without connecting to anything."""
    yield Check("secrets", lambda: _secrets(ground), "set it, then run it again")
    yield Check("retire waits", lambda: soak(ground.settings), "check [retire]")


def _secrets(ground: Ground) -> Finding:
    missing = [*ground.missing_secrets(), *_signing_key(ground)]
    if not missing:
        return passed("every secret that the configuration names is there")
    sentence = "; ".join(map(str, missing))
    steps = dict.fromkeys(error.next_command for error in missing if error.next_command)
    return failed("secret_missing", sentence, "; ".join(steps) or "mend it, then run it again")


def _signing_key(ground: Ground) -> Iterator[ConfigError]:
    """Yield what is wrong with the key that signs the control file, where one is named."""
    table = ground.settings.keywrap.control
    if table is None or not table.private_key_file:
        return
    try:
        key = SigningKey.load(Path(table.private_key_file))
    except SigningKeyError as error:
        step = error.next_command or "put it there, or take the line out"
        yield ConfigError("[control] private_key_file", str(error), next_command=step)
        return
    if key.public != PublicKey.parse(table.public_key):
        yield ConfigError(
            "[control] private_key_file",
            "it is not the private half of public_key: nobody would obey what it signs",
            next_command=f'public_key = "{key.public}"',
        )


def soak(settings: Settings) -> Finding:
    """See that a retired version is watched for as long as a write under it may take.

    With a control file a writer looks at it again before it commits.
    """
    soak_s = settings.retire.soak_s
    said = f"a retired version soaks for {soak_s:g} s"
    if settings.keywrap.control is not None or soak_s >= COMMIT_WITHIN_S:
        return passed(said)
    why = (
        f"{said}, and there is no control file: an application that began a `put` before may "
        f"commit it under that version up to {COMMIT_WITHIN_S:g} s later, when nobody looks any "
        "more"
    )
    step = f"soak_s = {COMMIT_WITHIN_S:g} or more in [retire], or: rewrap control-key --out FILE"
    return warned("soak_short", why, step)


def _ledger(ground: Ground) -> Finding:
    ground.ledger.get()
    return passed("PostgreSQL answers, and its schema is that of this release")


def clock(ledger: Ledger, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Finding:
    """Compare this host's clock with the ledger's.

    Args:
        ledger: the ledger.
        now: this host's time.
    """
    with ledger.begin() as connection:
        progress.now(connection)  # the first answer of a connection takes longer
        before = now()
        there = progress.now(connection)
        after = now()
    skew = abs(there - (before + (after - before) / 2))
    said = f"this host's clock and the ledger's differ by {skew.total_seconds():.1f} s"
    if skew <= MAX_SKEW:
        return passed(said)
    at_most = f"at most {MAX_SKEW.seconds} s are taken for right"
    return failed("clock_skew", f"{said}; {at_most}", "timedatectl set-ntp true (on both hosts)")


def _broker(ground: Ground) -> Finding:
    warning = ground.broker.get()
    if warning:
        return warned(
            "broker_old", warning, "deploy a current one, and name it: url = … in [broker]"
        )
    return passed("the broker answers, and its release has CVE-2025-49844 mended")


def _scheduler(ground: Ground) -> Finding:
    with ground.ledger.get().begin() as connection:
        silent = waits.silence(connection)
    if silent:
        said = f"no scheduler has ticked {silent}"
        return unreachable(waits.NO_SCHEDULER, said, "rewrap scheduler")
    return passed("a scheduler ticks")


def needed_queues(ground: Ground) -> list[str]:
    """Return the queues that need a worker: the default one, and those that keys are bound to."""
    return [QUEUE, *sorted(queues_of(ground.settings) - {QUEUE})]


def _queue(ground: Ground, queue: str) -> Finding:
    serving = ground.workers.get().get(queue, [])
    if not serving:
        command = "rewrap worker" if queue == QUEUE else f"rewrap worker --queues {queue}"
        said = f"no worker that takes shards of the queue {queue} answers"
        return unreachable("no_worker", said, command)
    names = ", ".join(map(plain, serving[:_NAMED]))
    names += ", …" if len(serving) > _NAMED else ""
    return passed(f"{len(serving)} answer: {names}")


def _settings(ground: Ground) -> Finding:
    """Compare what the workers were started with with what the configuration says now."""
    served = ground.workers.get()
    workers = sorted({name for names in served.values() for name in names})
    if not workers:
        return skipped("no_worker", "no worker answers, see above")
    from workers import inspection  # noqa: PLC0415 - Celery: no other check needs it

    mine = fingerprints.of(ground.settings.keywrap)
    told = inspection.fingerprints(ground.settings.broker.url, workers)
    others = [
        f"{plain(name)} ({', '.join(f'[{table}]' for table in tables)})"
        for name in workers
        if (tables := [t for t in mine if told.get(name, {}).get(t, mine[t]) != mine[t]])
    ]
    if not others:
        return passed("none was started with another [store] or [keys] than this configuration's")
    named = ", ".join(others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
    return warned(
        "settings_differ",
        f"{len(others)} of {len(workers)} workers were started with other settings than this "
        f"configuration has now: {named}",
        "start scheduler and workers again with this configuration",
    )


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Whether there is room where the embedded services, logs and sign-in are kept.

    Attributes:
        directory: the directory; it need not be there yet.
        little: fewer bytes than this are too few.
        some: fewer bytes than this are told.
    """

    directory: Path
    little: int = _LITTLE_BYTES
    some: int = _SOME_BYTES

    def __call__(self) -> Finding:
        """Look how many bytes are free."""
        places = [self.directory, *self.directory.parents]
        free = shutil.disk_usage(next(place for place in places if place.exists())).free
        said = f"{free / 2**30:.1f} GiB are free for {self.directory}"
        step = f"free some room, or state_dir = … elsewhere: at least {self.some / 2**30:.0f} GiB"
        if free < self.little:
            return failed("disk_full", said, step)
        return warned("disk_nearly_full", said, step) if free < self.some else passed(said)
