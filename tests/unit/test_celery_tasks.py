import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from keywrap.config import ConfigError
from ledger.states import ShardKind
from tasks import celery_tasks, runtime
from tasks.runtime import Counts, Progress, Runtime

SHELLS = celery_tasks.SHELLS

Calls = list[tuple[ShardKind, UUID]]


@pytest.fixture(autouse=True)
def _no_runtime_is_left() -> Iterator[None]:
    before = runtime._make, runtime._made
    yield
    runtime._make, runtime._made = before


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Shells that note what they were to do instead of doing it."""
    noted: Calls = []

    def body(kind: ShardKind) -> Callable[[Runtime, UUID, Progress], Counts]:
        def note(_runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
            noted.append((kind, shard_id))
            progress(1, 2)
            return {"rewrapped": 2}

        return note

    for kind in ShardKind:
        monkeypatch.setitem(celery_tasks.WORK, kind, body(kind))
    runtime.install(object)
    return noted


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for shell in SHELLS.values():
        monkeypatch.setattr(
            shell, "send_event", lambda name, **fields: told.append({"name": name} | fields)
        )
    return told


def test_the_names_of_tasks_are_stable() -> None:
    # Old messages and old workers know these: a new name is a new task.
    assert {kind: shell.name for kind, shell in SHELLS.items()} == {
        ShardKind.INVENTORY: "rewrap.inventory_shard",
        ShardKind.REWRAP: "rewrap.rewrap_shard",
        ShardKind.STRAGGLERS: "rewrap.straggler_shard",
        ShardKind.VERIFY: "rewrap.verify_shard",
        ShardKind.BACKUP: "rewrap.backup_shard",
        ShardKind.MANIFEST: "rewrap.manifest_shard",
    }
    assert {kind: shell.name for kind, shell in SHELLS.items()} == celery_tasks.NAMES
    assert set(celery_tasks.NAMES) == set(ShardKind)


@pytest.mark.parametrize("kind", ShardKind)
@pytest.mark.usefixtures("events")
def test_a_task_does_the_work_of_its_kind_for_the_shard_that_is_named(
    kind: ShardKind, calls: Calls
) -> None:
    shard_id = uuid4()
    assert SHELLS[kind].run(str(shard_id)) == {"rewrapped": 2}
    assert calls == [(kind, shard_id)]


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "1",
        "not-a-uuid-but-as-long-as-a-uuid-is!",
        "{" + str(uuid4()) + "}",
        uuid4().hex,
        f"urn:uuid:{uuid4()}",
        uuid4(),
        str(uuid4()).encode(),
        1,
        None,
        True,
        ["00000000-0000-0000-0000-000000000000"],
        {"shard_id": "00000000-0000-0000-0000-000000000000"},
        "x" * 1_000_000,
    ],
    ids=lambda argument: type(argument).__name__,
)
@pytest.mark.parametrize("kind", ShardKind)
@pytest.mark.usefixtures("events")
def test_anything_but_a_uuid_is_refused_before_it_reaches_anything(
    kind: ShardKind, argument: object, calls: Calls
) -> None:
    with pytest.raises(ValueError, match=r"UUID|hexadecimal"):
        SHELLS[kind].run(argument)
    assert calls == []


@pytest.mark.parametrize("kind", ShardKind)
def test_a_task_takes_one_argument_and_no_more(kind: ShardKind, calls: Calls) -> None:
    with pytest.raises(TypeError):
        SHELLS[kind].run(str(uuid4()), "delete everything")
    with pytest.raises(TypeError):
        SHELLS[kind].run()
    assert calls == []


@pytest.mark.usefixtures("calls")
def test_what_the_broker_sees_is_counts_and_percentages(events: list[dict[str, Any]]) -> None:
    result = SHELLS[ShardKind.REWRAP].run(str(uuid4()))
    assert all(type(k) is str and type(v) is int for k, v in result.items())
    assert json.loads(json.dumps(result)) == result
    assert events == [{"name": "task-progress", "result": "1/2 blobs (50%)"}]


def test_progress_is_told_at_a_bounded_rate(events: list[dict[str, Any]]) -> None:
    tell = celery_tasks._flower_progress(SHELLS[ShardKind.REWRAP])
    for done in range(1000):
        tell(done, 1000)
    assert len(events) == 1


def test_progress_of_nothing_is_all_of_it(events: list[dict[str, Any]]) -> None:
    celery_tasks._flower_progress(SHELLS[ShardKind.REWRAP])(0, 0)
    assert events == [{"name": "task-progress", "result": "0/0 blobs (100%)"}]


def test_a_task_outside_a_worker_says_that_it_has_no_runtime() -> None:
    runtime._make = runtime._made = None
    with pytest.raises(RuntimeError, match="rewrap worker"):
        SHELLS[ShardKind.REWRAP].run(str(uuid4()))


def test_a_process_makes_its_runtime_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def make() -> Any:
        made.append(object())
        return made[-1]

    runtime.install(make)
    assert made == [], "not before it is needed: the pool forks first"
    work = {ShardKind.REWRAP: lambda r, *_: {"same": int(r is made[0])}}
    monkeypatch.setattr(celery_tasks, "WORK", work)
    for _ in range(2):
        assert SHELLS[ShardKind.REWRAP].run(str(uuid4())) == {"same": 1}
    assert len(made) == 1


@pytest.mark.parametrize("kind", ShardKind)
def test_a_worker_that_cannot_be_put_together_says_so_in_a_line_and_claims_nothing(
    kind: ShardKind, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> Runtime:
        raise ConfigError("[keys.local.a] file", "it is open to others")

    runtime.install(make)
    assert SHELLS[kind](str(uuid4())) == {}
    assert calls == []
    assert [r.getMessage() for r in caplog.records] == [
        "this worker takes no shard: [keys.local.a] file: it is open to others"
    ]
    assert caplog.records[0].exc_info is None
