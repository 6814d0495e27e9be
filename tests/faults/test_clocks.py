"""Workers and a scheduler whose clocks are days off, beside one whose clock is right."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from tests.faulting import Campaign, kill
from tests.nodes import Node, decided, until
from tests.roads import Road

CLOCKS = {"scheduler": -2 * 86_400, "worker-2": 3 * 86_400}
"""By process of the node: how far the clock is off, in seconds, of what takes its place."""

LEASE_S = 3.0
"""As the site has it."""

# Not libfaketime: version 0.9.10 breaks `time.sleep`, or else waits of threads (sem_clockwait).
WRONG_CLOCK = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  long failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += atol(getenv("CLOCK_IS_OFF_S"));
  return failed;
}

time_t time(time_t *into) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *restrict into, void *restrict zone) {
  struct timespec now;
  int failed = clock_gettime(CLOCK_REALTIME, &now);
  into->tv_sec = now.tv_sec;
  into->tv_usec = now.tv_nsec / 1000;
  return failed;
}
"""
"""Sets the time of day of whoever loads it first, and no other clock."""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT TESTED: processes whose clocks are wrong. It needs a C compiler.")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(WRONG_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@contextlib.contextmanager
def by_another_clock(node: Node, name: str, off_s: int, library: Path) -> Iterator[psutil.Process]:
    """Kill a process of a node that nobody restarts, and run the same by another clock."""
    old = node.process(name)
    wrong = {"LD_PRELOAD": str(library), "CLOCK_IS_OFF_S": str(off_s)}
    command, environment, folder = old.cmdline(), old.environ() | wrong, old.cwd()
    kill(node.family(name))
    log = node.site.directory / f"{name}-by-another-clock.log"
    with log.open("wb") as out:
        new = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    process = psutil.Process(new.pid)
    try:
        until(lambda: " ready" in log.read_text(), f"{name} by another clock", 30)
        yield process
        assert new.poll() is None, log.read_text()
        assert says_it_is(log, datetime.now(UTC) + timedelta(seconds=off_s))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill([*process.children(recursive=True), process])
        new.wait()


def says_it_is(log: Path, at: datetime) -> bool:
    """Whether the last line of a log is of this time, within ten minutes."""
    last = datetime.fromisoformat(json.loads(log.read_text().splitlines()[-1])["at"])
    return abs(last - at) < timedelta(minutes=10)


@contextlib.contextmanager
def unsupervised(node: Node) -> Iterator[None]:
    """Let nobody restart what is killed."""
    supervisor = psutil.Process(node.up.pid)
    supervisor.suspend()
    try:
        yield
    finally:
        supervisor.resume()


def leases(node: Node, campaign_id: int) -> list[tuple[str, float]]:
    """Return the owner of each lease, and how long it lasts yet by the database's clock, in s."""
    query = (
        "SELECT owner, extract(epoch FROM until - clock_timestamp()) FROM shard"
        " WHERE campaign_id = %(id)s AND state = 'leased'"
    )
    with node.ledger.begin() as connection:
        rows = connection.exec_driver_sql(query, {"id": campaign_id})
        return [(str(owner), float(left)) for owner, left in rows]


def test_who_has_a_wrong_clock_neither_steals_nor_loses_nor_corrupts(
    faulty: Node, road: Road, library: Path
) -> None:
    campaign = Campaign(faulty, road, "clocks", blobs=400)
    with campaign.watch as watch, unsupervised(faulty), contextlib.ExitStack() as others:
        wrong = {
            name: others.enter_context(by_another_clock(faulty, name, off_s, library))
            for name, off_s in CLOCKS.items()
        }
        campaign.begin()
        (child,) = wrong["worker-2"].children()
        seen: list[tuple[str, float]] = []

        def has_done_all() -> bool:
            seen.extend(leases(faulty, campaign.id))
            return decided(faulty.document(campaign.id)) == len(campaign.blob_ids)

        until(has_done_all, "all is done, seen lease by lease")
        owners = {owner for owner, _ in seen}
        assert len(owners) > 1, owners
        assert any(owner.endswith(f":{child.pid}") for owner in owners)
        assert all(-1 < left <= LEASE_S for _, left in seen), sorted(seen)
        campaign.ends_well()
    with faulty.ledger.begin() as connection:
        query = "SELECT max(fence), max(attempt) FROM shard WHERE campaign_id = %(id)s"
        (most,) = connection.exec_driver_sql(query, {"id": campaign.id})
    assert tuple(most) == (1, 0), "a lease was taken from somebody who lived"
    assert watch.failures == []
    assert watch.fallbacks == 0
