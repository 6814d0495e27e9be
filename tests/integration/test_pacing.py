"""The pace of all workers, in a real Redis: never more than the ceiling, slower when throttled."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from bench import quota
from embedded.redis import Redis as Server
from keywrap.config import ConfigError, KeywrapConfig
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.kms import KmsError, ThrottledError
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.calls import Road
from keywrap.testing.kms import MemoryKeyProvider, MemoryKms
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests.unit.test_aws_provider import World
from tests.worlds import KEK
from tests.yards import Yard
from workers.pace_table import KeyPace, Pace, read_pace
from workers.pacing import Bucket, Lender, Pacing, connect, lender, read


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server.start(tmp_path_factory.mktemp("pace"), supervised=True)
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Redis]:
    client = connect(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def lend(client: Redis) -> Lender:
    return lender(client)


def taken(buckets: list[Bucket], seconds: float) -> int:
    """Take tokens from buckets, a thread each, as fast as they come; return how many came."""
    over, counts = threading.Event(), [0] * len(buckets)

    def run(number: int) -> None:
        while True:
            buckets[number].take(over)
            if over.is_set():
                return
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(buckets))]
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts)


@pytest.mark.parametrize("ceiling", [20.0, 400.0])
def test_processes_together_take_what_is_allowed_and_no_more(lend: Lender, ceiling: float) -> None:
    buckets = [Bucket(lend, "k", ceiling) for _ in range(4)]
    taken(buckets, 0.5)
    seconds = 3.0
    count = taken(buckets, seconds)
    burst = max(1.0, ceiling / 10) + 4 * max(1, ceiling / 20)
    assert 0.9 * ceiling * seconds <= count <= ceiling * seconds + burst


def test_a_token_costs_no_round_trip(lend: Lender) -> None:
    asked = [0]

    def counting(*args: Any, **named: Any) -> Any:
        asked[0] += 1
        return lend(*args, **named)

    bucket = Bucket(counting, "k", 10_000.0)
    assert taken([bucket], 1.0) > 5_000
    assert asked[0] < 100


def test_what_is_throttled_slows_everybody_and_it_comes_back(lend: Lender, client: Redis) -> None:
    one, other = Bucket(lend, "k", 200.0), Bucket(lend, "k", 200.0)
    one.take()
    other.take()
    for _ in range(5):  # five answers of one moment are one cut
        one.throttled()
    other._stock = 0
    other.take()
    assert other._rate == pytest.approx(140, rel=0.1)
    assert int(client.hget("rewrap:pace:k", "throttled") or 0) == 5
    before = other._rate
    time.sleep(1.0)
    taken([other], 0.2)
    assert before < other._rate < 160
    # However often it is throttled, it does not stop.
    for _ in range(30):
        client.hset("rewrap:pace:k", "cut_at", "0")
        one.throttled()
    assert taken([other], 1.0) >= 3


def test_a_lower_ceiling_holds_at_once_and_what_lies_in_redis_raises_none(
    lend: Lender, client: Redis
) -> None:
    client.hset("rewrap:pace:k", mapping={"rate": "1e12", "tokens": "1e12", "at": "1"})
    assert taken([Bucket(lend, "k", 20.0)], 1.0) <= 20 + 2 + 1 + 10


@dataclass
class Away:
    """A Redis that can be away."""

    lend: Lender
    is_away: bool = False
    asked: list[float] = field(default_factory=list)

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.asked.append(time.monotonic())
        if self.is_away:
            raise RedisConnectionError("it is away")
        return self.lend(*args, **named)


def test_without_redis_each_goes_on_with_its_own_share_and_comes_back(
    lend: Lender, caplog: pytest.LogCaptureFixture
) -> None:
    away = Away(lend)
    buckets = [Bucket(away, "k", 100.0) for _ in range(2)]
    for bucket in buckets:
        bucket._processes = 2
    away.is_away = True
    for bucket in buckets:
        bucket._stock = 0
    count = taken(buckets, 2.0)
    assert 150 <= count <= 225, "half each"
    assert caplog.text.count("Redis is away") == 2, "once for each"
    away.is_away = False
    time.sleep(1.1)
    caplog.set_level("INFO")
    taken(buckets, 0.3)
    assert "Redis is back" in caplog.text
    assert len(away.asked) < 100


def test_redis_that_was_wiped_begins_anew_at_the_ceiling(lend: Lender, client: Redis) -> None:
    bucket = Bucket(lend, "k", 100.0)
    bucket.take()
    client.flushall()
    client.script_flush()
    assert taken([bucket], 1.0) >= 80


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ceiling=st.floats(0.5, 1e6),
    wants=st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=30),
)
def test_whatever_is_asked_no_more_is_lent_than_burst_and_rate_give(
    client: Redis, ceiling: float, wants: list[tuple[int, bool]]
) -> None:
    client.flushall()
    lend, began, lent = lender(client), time.monotonic(), 0
    for want, cut in wants:
        granted, wait_s, rate, processes = lend("k", ceiling, want, cut=cut)
        lent += granted
        assert 0 <= granted <= want
        assert 0 < rate <= ceiling * (1 + 1e-9)
        assert processes == 1
        assert wait_s >= 0
    passed = time.monotonic() - began + 0.05
    assert lent <= max(1.0, ceiling / 10) + ceiling * passed


def test_a_campaigns_own_ceiling_holds_for_all_its_keys_and_can_change(lend: Lender) -> None:
    kms = MemoryKms()
    keys = KeyRing([MemoryKeyProvider(kms, KEK)])
    pacing = Pacing(Pace(), keys, lend)
    assert pacing.batch(500) == 500
    pacing.work_for(7, 50.0)
    assert pacing.campaign is not None
    assert pacing.batch(500) == 100
    first = pacing.campaign
    pacing.work_for(7, 50.0)
    assert pacing.campaign is first, "what was borrowed stays"
    pacing.work_for(7, 10.0)
    assert pacing.batch(500) == 20
    pacing.work_for(7, None)
    assert pacing.campaign is None


def test_a_provider_asks_for_each_request_and_tells_of_each_throttled_answer() -> None:
    told: list[str] = []

    class Pacer:
        def take(self, over: threading.Event | None = None) -> None:  # noqa: ARG002
            told.append("take")

        def throttled(self) -> bool:
            told.append("throttled")
            return True

    road: Road[None] = Road(
        "k",
        lambda: None,
        lambda _error, _operation, _key: ThrottledError("slow"),
        threads=1,
        name="test",
        count=lambda: None,
    )
    road.pace_by(Pacer())
    answers: list[Callable[[], int]] = [_raise, lambda: 7]
    assert road.call("other", lambda _client: answers.pop(0)()) == 7
    assert told == ["take", "throttled", "take"]


def _raise() -> int:
    raise RuntimeError("429")


def test_the_status_of_a_pace(lend: Lender, client: Redis) -> None:
    table = Pace({"k": KeyPace(200.0, 0.5)})
    taken([Bucket(lend, "k", 100.0)], 1.0)
    found = read(client, table, "k", 10.0)
    assert found["quota_per_s"] == 200.0
    assert found["allowed_per_s"] == pytest.approx(100)
    assert 10 < found["used_per_s"] < 110
    assert (found["reserved"], found["throttled"], found["max_rate_per_s"]) == (0.5, 0, 10.0)
    assert read(client, Pace(), "unknown", None)["allowed_per_s"] is None


def test_a_campaign_that_is_paced_still_comes_to_its_end(ledger: Ledger, lend: Lender) -> None:
    yard = Yard(ledger)
    yard.plant(12, ("managed",))
    yard.world.kms.rotate(KEK)
    pacing = Pacing(Pace(), yard.world.keys, lend)
    yard.runtime = replace(yard.runtime, pacing=pacing)
    campaign = yard.start(Kind.ROTATE, max_rate=2000.0)
    assert yard.run(campaign).state is State.COMPLETE
    assert pacing.campaign is not None
    assert pacing.campaign.ceiling == 2000.0


@pytest.mark.timeout(120)
def test_four_workers_under_one_quota_use_it_give_way_to_live_traffic_and_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quota, "_WARM_S", 5.0)
    result = quota.measure(quota=300.0, reserve=0.3, seconds=3.0)
    assert result.used >= 0.9 * result.allowed, result  # of a machine that does other work, too
    assert result.throttled_percent < 1, result
    assert result.gave_way_s is not None, result
    assert result.gave_way_s <= 5, result
    assert result.came_back_s is not None, result


class HalfThrottled:
    """A KMS client whose every other answer, at random, is that it is asked too often."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._random = random.Random(7)
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        def call(**parameters: Any) -> Any:
            self.asked += 1
            if name in {"encrypt", "decrypt"} and self._random.random() < 0.5:
                error = {"Error": {"Code": "ThrottlingException", "Message": "slow down"}}
                raise ClientError(error, name)
            return getattr(self._client, name)(**parameters)

        return call


def test_a_kms_that_throttles_half_of_all_calls_costs_two_calls_each(lend: Lender) -> None:
    world = World()
    client = HalfThrottled(world.client())
    provider = AwsKeyProvider(world.kms.create_key(), lambda: client, threads=4)
    bucket = Bucket(lend, provider.key, 4000.0)
    provider.pace_by(bucket)
    items, made = [(DataKey.generate(), {"blob_id": f"b{n}"}) for n in range(200)], 0
    provider.current_version()
    client.asked = 0
    while items:  # what a batch leaves over is taken again, as the ledger does
        some, items = items[:20], items[20:]
        results = provider.wrap_many(some)
        made += sum(not isinstance(one, KmsError) for one in results)
        failed = [one for one in results if isinstance(one, KmsError)]
        assert all(isinstance(one, ThrottledError) for one in failed), "nothing is refused"
        items += [item for item, one in zip(some, results, strict=True) if one in failed]
    assert made == 200
    assert client.asked <= 2.2 * 2 * 200


@pytest.mark.parametrize(
    "table",
    [
        {"keys": {"hcvault://nobody/x": {"requests_per_s": 5}}},
        {"keys": {KEK: {"requests_per_s": 0}}},
        {"keys": {KEK: {"requests_per_s": 5, "reserve": 1}}},
        {"keys": {KEK: {}}},
        {"key": {}},
        7,
    ],
)
def test_a_table_that_paces_nothing_is_refused(table: Any) -> None:
    config = KeywrapConfig.from_table({"store": {"url": "file:///blobs"}})
    with pytest.raises(ConfigError):
        read_pace(table, config)
