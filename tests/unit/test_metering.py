from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Operation
from keywrap.keys import KeyVersion
from keywrap.kms import (
    DeniedError,
    KmsError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from keywrap.metering import OUTCOMES, outcome_of
from keywrap.noted import unwrap_many, wrap_many
from keywrap.providers.calls import Road
from keywrap.providers.local import FIRST_BLOCK, LocalKeyProvider, create_key_file
from ledger.states import ShardKind
from tasks.metering import Meter, MeteredJournal
from tests.worlds import World
from workers.meters import OTHER, WorkerMeter


class Heard(Meter):
    def __init__(self) -> None:
        self.uses: Counter[tuple[str, Operation, str]] = Counter()

    def used(self, provider: str, operation: Operation, outcome: str, uses: int) -> None:
        self.uses[provider, operation, outcome] += uses


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (DataKey, "ok"),
        (RefusedError, "refused"),
        (DeniedError, "denied"),
        (ThrottledError, "throttled"),
        (UnavailableError, "unavailable"),
        (KmsError, "error"),
        (ValueError, "error"),
    ],
)
def test_each_kind_of_error_has_a_name(result: type[object], outcome: str) -> None:
    assert outcome_of(result) == outcome
    assert outcome in OUTCOMES


def test_each_attempt_is_heard_of_with_what_it_came_to() -> None:
    heard: list[tuple[str, str]] = []

    def meter(operation: str, seconds: float, failure: Exception | None) -> None:
        assert 0 <= seconds < 5
        heard.append((operation, type(failure).__name__))

    road: Road[None] = Road(
        "k",
        lambda: None,
        lambda _error, _operation, _key: UnavailableError("away"),
        threads=1,
        name="test",
        count=lambda: None,
    )
    road.meter_by(meter)
    answers: list[Any] = [OSError("reset"), 7]

    def ask(_client: None) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    assert road.call("decrypt", ask) == 7
    assert heard == [("decrypt", "UnavailableError"), ("decrypt", "NoneType")]


def test_uses_of_keys_are_counted_by_provider_and_by_what_they_came_to() -> None:
    world, heard = World(), Heard()
    journal = MeteredJournal(NO_JOURNAL, heard)
    data_keys = [DataKey.generate() for _ in range(5)]
    items = [(key, {"blob_id": f"b{n}"}) for n, key in enumerate(data_keys)]
    wraps = wrap_many(world.kek, items, world.target, journal)
    swapped = [(wrap, {"blob_id": "another"}) for wrap in wraps[:2]]
    own = [(wrap, context) for wrap, (_, context) in zip(wraps, items, strict=True)]
    unwrap_many(world.kek, own + swapped, journal)
    assert heard.uses == {
        ("vault", "wrap", "ok"): 5,
        ("vault", "unwrap", "ok"): 5,
        ("vault", "unwrap", "refused"): 2,
    }


def test_a_kek_that_refuses_as_a_whole_counts_once_for_each_wrap() -> None:
    world, heard = World(), Heard()
    wrap = world.kek.wrap(DataKey.generate(), {"blob_id": "b"})
    world.kms.fail_next(DeniedError("no", key=world.kek.key))
    journal = MeteredJournal(NO_JOURNAL, heard)
    with pytest.raises(DeniedError):
        unwrap_many(world.kek, [(wrap, {"blob_id": "b"})] * 3, journal)
    assert heard.uses == {("vault", "unwrap", "denied"): 3}


def test_made_up_key_versions_do_not_fill_the_metrics() -> None:
    meter, registry = WorkerMeter(), CollectorRegistry()
    registry.register(meter._stragglers)
    for n in range(300):
        meter.stragglers({KeyVersion("hcvault://transit/k", f"{n}"): 1})
    meter.stragglers({KeyVersion("hcvault://transit/k", "0"): 1, None: 1})
    lines = [
        line.rsplit(" ", 1)
        for line in generate_latest(registry).decode().splitlines()
        if line.startswith("rewrap_stragglers_total{")
    ]
    counts = {name: float(value) for name, value in lines}
    assert len(counts) <= 101
    assert sum(counts.values()) == 302
    assert counts['rewrap_stragglers_total{key="hcvault://transit/k?version=0"}'] == 2
    assert counts[f'rewrap_stragglers_total{{key="{OTHER}"}}'] > 190


def test_one_call_in_fifty_of_a_step_is_timed_and_every_one_is_made() -> None:
    meter, registry, done = WorkerMeter(), CollectorRegistry(), []
    registry.register(meter._store_s)

    def _read_one(number: int) -> None:
        done.append(number)
        if number == 150:
            raise OSError

    step = meter.timed(_read_one)
    for n in range(150):
        step(n)
    with pytest.raises(OSError, match=r"^$"):
        step(150)
    assert done == list(range(151))
    assert registry.get_sample_value("rewrap_store_step_seconds_count", {"step": "read"}) == 4


def test_how_far_a_local_kek_is_worn_is_shown_after_each_shard(tmp_path: Path) -> None:
    create_key_file(tmp_path / "k.json", "k")
    provider = LocalKeyProvider("k", tmp_path / "k.json")
    meter, registry = WorkerMeter(), CollectorRegistry()
    registry.register(meter._made)
    registry.register(meter._limit)
    meter.watch("local:k", provider)
    provider.wrap(DataKey.generate(), {"blob_id": "b"})
    meter.worked(ShardKind.REWRAP, 0.5)
    assert registry.get_sample_value("rewrap_local_kek_wraps", {"key": "local:k"}) == FIRST_BLOCK
    assert registry.get_sample_value("rewrap_local_kek_wrap_limit", {"key": "local:k"}) == 2**32
    (tmp_path / "k.json").unlink()
    meter.worked(ShardKind.REWRAP, 0.5)  # it hears of that where it wraps
