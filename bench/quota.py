"""`python -m bench.quota`: four workers under one quota, beside live traffic that comes and goes.

The KMS is the strict reference KMS behind the real client; it throttles above its quota. Exits 0
where workers use 95% of what they may, under 1% of their calls are throttled, and they give way to
live traffic within 5 seconds and come back.
"""

import json
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import click

from embedded.redis import Redis
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.kms import BatchingKeyProvider, KeyProvider, KmsError
from keywrap.pacing import Pacer
from keywrap.tables.keys import read_keys
from keywrap.testing.aws_server import AwsServer
from workers.pace_table import KeyPace, Pace
from workers.pacing import Pacing, connect, lender

WORKERS = 4
_BATCH = 20
_WARM_S = 10.0
_GIVE_WAY_S = 5.0
_LIVE_SHARE = 0.5
_STEP_S = 0.5


@dataclass
class Traffic:
    """What a side has sent, and what of it was throttled; counted in shared memory."""

    sent: Any
    throttled: Any

    @classmethod
    def new(cls) -> "Traffic":
        """Return one that has sent nothing."""
        return cls(multiprocessing.Value("q", 0), multiprocessing.Value("q", 0))

    def now(self) -> tuple[int, int]:
        """Return both counts."""
        return self.sent.value, self.throttled.value


class _Counting:
    """Counts what a pacer is told."""

    def __init__(self, inner: Pacer | None, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic

    def take(self, over: Any = None) -> None:  # noqa: ANN401 - as `Pacer`
        if self._inner is not None:
            self._inner.take(over)
        with self._traffic.sent.get_lock():
            self._traffic.sent.value += 1

    def throttled(self) -> bool:
        with self._traffic.throttled.get_lock():
            self._traffic.throttled.value += 1
        return self._inner is not None and self._inner.throttled()


def _provider(address: str, arn: str) -> KeyProvider:
    keys = read_keys({"aws": {arn: {"endpoint": address}}})
    return keys.open(keys.uris()[0], {})


def _wrap(provider: KeyProvider, count: int) -> None:
    assert isinstance(provider, BatchingKeyProvider)  # noqa: S101 - AWS's is
    keys = [(DataKey.generate(), {"blob_id": f"b{n}"}) for n in range(count)]
    failed = [one for one in provider.wrap_many(keys) if isinstance(one, KmsError)]
    if failed and failed[0].reason_code != "kms_throttled":
        raise failed[0]


def _worker(address: str, arn: str, redis: str, table: Pace, traffic: Traffic) -> None:
    provider = _provider(address, arn)
    pacing = Pacing(table, KeyRing([provider]), lender(connect(redis)))
    provider.pace_by(_Counting(provider._connection._pacer, traffic))  # type: ignore[attr-defined] # noqa: SLF001
    while True:
        _wrap(provider, pacing.batch(_BATCH))


def _live(address: str, arn: str, rate: Any, traffic: Traffic) -> None:  # noqa: ANN401
    """Send so many requests a second, whatever the answers: two for each wrap."""
    provider = _provider(address, arn)
    provider.pace_by(_Counting(None, traffic))  # type: ignore[attr-defined]
    due = time.monotonic()
    while True:
        if rate.value <= 0:
            time.sleep(0.01)
            due = time.monotonic()
            continue
        due += 2 * 4 / rate.value
        time.sleep(max(0.0, due - time.monotonic()))
        _wrap(provider, 4)


@contextmanager
def _running(*targets: tuple[Callable[..., None], tuple[Any, ...]]) -> Iterator[None]:
    processes = [
        multiprocessing.Process(target=target, args=args, daemon=True) for target, args in targets
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


@dataclass
class Result:
    """What came of it; rates are requests a second."""

    quota: float
    allowed: float
    used: float
    throttled_percent: float
    gave_way_s: float | None
    came_back_s: float | None

    @property
    def is_good(self) -> bool:
        """Whether every figure is as it is asked for."""
        return (
            self.used >= 0.95 * self.allowed
            and self.throttled_percent < 1
            and self.gave_way_s is not None
            and self.gave_way_s <= _GIVE_WAY_S
            and self.came_back_s is not None
        )


def _rate(traffic: Traffic, seconds: float) -> tuple[float, float]:
    """Watch for some seconds; return requests a second, and the share of them throttled."""
    sent, throttled = traffic.now()
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    now_sent, now_throttled = traffic.now()
    count = max(now_sent - sent, 1)
    return (now_sent - sent) / passed, (now_throttled - throttled) / count


def _until(is_so: Callable[[], bool], most_s: float) -> float | None:
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > most_s:
            return None
    return time.monotonic() - began


def measure(quota: float, reserve: float, seconds: float) -> Result:
    """Run workers under a quota, with live traffic in between.

    Args:
        quota: of the KMS, in requests a second.
        reserve: the share of it that is kept for live traffic.
        seconds: how long each steady stretch is watched.
    """
    os.environ.setdefault("AWS_ACCESS_KEY_ID", f"AKIA{secrets.token_hex(8).upper()}")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", secrets.token_hex(20))
    with tempfile.TemporaryDirectory() as folder, AwsServer.start(kms_quota=quota) as server:
        redis = Redis.start(Path(folder), supervised=True)
        try:
            return _measured(server, redis.url, quota, reserve, seconds)
        finally:
            redis.stop()


def _measured(
    server: AwsServer, redis: str, quota: float, reserve: float, seconds: float
) -> Result:
    client = boto3.client("kms", region_name="eu-central-1", endpoint_url=server.address)
    arn = client.create_key()["KeyMetadata"]["Arn"]
    uri = f"aws-kms://{arn}"
    table = Pace({uri: KeyPace(quota, reserve)})
    ours, live, live_rate = Traffic.new(), Traffic.new(), multiprocessing.Value("d", 0.0)
    workers = [(_worker, (server.address, arn, redis, table, ours))] * WORKERS
    with _running(*workers, (_live, (server.address, arn, live_rate, live))):
        time.sleep(_WARM_S)
        used, throttled = _rate(ours, seconds)
        live_rate.value = _LIVE_SHARE * quota
        # They have given way when live traffic is hardly throttled any more.
        gave_way = _until(lambda: _rate(live, _STEP_S)[1] < 0.05, 4 * _GIVE_WAY_S)  # noqa: PLR2004
        time.sleep(seconds)
        live_rate.value = 0.0
        allowed = quota * (1 - reserve)
        came_back = _until(lambda: _rate(ours, _STEP_S)[0] >= 0.95 * allowed, 60)
    return Result(quota, allowed, used, 100 * throttled, gave_way, came_back)


@click.command(help=__doc__)
@click.option("--quota", default=600.0, show_default=True)
@click.option("--reserve", default=0.3, show_default=True)
@click.option("--seconds", default=15.0, show_default=True)
def main(quota: float, reserve: float, seconds: float) -> None:
    """Measure, and print what came of it."""
    result = measure(quota, reserve, seconds)
    click.echo(json.dumps({**result.__dict__, "good": result.is_good}, indent=1))
    sys.exit(0 if result.is_good else 1)


if __name__ == "__main__":
    main()
