"""Old contents are removed, and nothing else, whoever writes, crashes or lies meanwhile."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from keywrap.blobs import EncryptedBlobs
from keywrap.contentwriting import COMMIT_WITHIN_S, TooSlowError
from keywrap.filestore import FileStore
from keywrap.kms import UnavailableError
from keywrap.layout import Layout
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Goal, Outcome, Prove, Report, Selection
from keywrap.scan import contents
from keywrap.stores import StoreUnavailableError
from keywrap.sweeping import CLOCK, MIN_GRACE_S, CannotSweepError, Sweeper, take_bearings
from tests.worlds import KINDS, SimulatedCrash, World, at, by_id, crash, spoilt

GRACE_S = 7 * 86_400.0
STEPS = ("read", "age", "open", "match", "remove")


class Journal:
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def used(self, *_: object) -> None:
        pass

    def removes(self, _blob_id: str, name: str, _size: int) -> None:
        self.removed.append(name)


class Yard:
    """A world whose blobs were re-encrypted, and whatever is to be swept there."""

    def __init__(self) -> None:
        self.world = World()
        self.journal = Journal()

    def reencrypt(self, *blob_ids: str, mark: bytes = b"one") -> None:
        world = self.world
        goal = Goal(world.target, Selection.ALL, Prove.ALL, mark=mark)
        means = world.reader, world.keys, world.legacy_content, world.pool
        done = Reencrypter(*means).rewrap(blob_ids, goal)
        assert {r.outcome for r in done.results} <= {Outcome.REWRAPPED, Outcome.QUARANTINED}

    def let_grace_pass(self) -> None:
        self.world.store.let_time_pass(GRACE_S + 60)

    def leftovers(self) -> dict[str, list[str]]:
        """Return all contents, as if no sidecar named any: a scan that is as wrong as can be."""
        return contents(self.world.aside, self.world.layout)

    def sweep(
        self,
        *blob_ids: str,
        leftovers: dict[str, list[str]] | None = None,
        before: Callable[[str], None] = lambda _step: None,
        **changed: Any,
    ) -> Report:
        world = self.world
        bearings = take_bearings(world.reader.store)
        engine = Sweeper(
            world.reader,
            world.keys,
            world.legacy_content,
            world.pool,
            before,
            self.journal,
            leftovers=self.leftovers() if leftovers is None else leftovers,
            horizon=bearings.now - timedelta(seconds=GRACE_S),
            heeds=bearings.heeds,
        )
        goal = Goal(world.target, Selection.ALL, Prove.ALL)
        return replace(engine, **changed).rewrap(blob_ids, goal)

    def live(self) -> set[str]:
        """Return the names that readers go to."""
        layout = self.world.layout
        return {
            layout.content_name(b, self.world.reader.read(b).sidecar.object)
            for b in self.world.originals
        }

    def stored(self) -> set[str]:
        return {n for n in self.world.snapshot() if not n.endswith(".sidecar.json")}


@pytest.fixture
def yard() -> Yard:
    return Yard()


@pytest.fixture
def swept(yard: Yard) -> Iterator[Yard]:
    """Blobs of every kind, re-encrypted so long ago that they may be swept."""
    ids = [yard.world.plant(kind, f"t/{kind}") for kind in KINDS]
    yard.reencrypt(*ids)
    yard.let_grace_pass()
    yield yard
    assert yard.world.wrong() == []


def test_old_contents_go_and_every_blob_opens(swept: Yard) -> None:
    world = swept.world
    before = world.snapshot()
    done = swept.sweep(*world.originals)
    assert {r.outcome for r in done.results} == {Outcome.REWRAPPED}
    assert swept.stored() == swept.live()
    assert sum(r.content_bytes for r in done.results) == sum(len(before[b]) for b in KIND_IDS)
    assert sorted(swept.journal.removed) == sorted(KIND_IDS)
    assert {n for n in world.store._objects if n.startswith(".rewrap/clock")} == set()


KIND_IDS = tuple(f"t/{kind}" for kind in KINDS)


def test_sweeping_twice_changes_nothing(swept: Yard) -> None:
    found = swept.leftovers()
    swept.sweep(*KIND_IDS)
    before = swept.world.snapshot()
    done = swept.sweep(*KIND_IDS, leftovers=found)
    assert {r.outcome for r in done.results} == {Outcome.CURRENT}, "gone already is fine"
    assert sum(r.content_bytes for r in done.results) == 0
    assert swept.world.snapshot() == before


@pytest.mark.parametrize("seconds", [0, GRACE_S - 60])
def test_nothing_goes_before_the_grace_time(yard: Yard, seconds: float) -> None:
    yard.world.plant("direct", "a")
    yard.world.store.let_time_pass(10 * GRACE_S)
    yard.reencrypt("a")  # the old content is as old as can be: what took its place is not
    yard.world.store.let_time_pass(seconds)
    before = yard.world.snapshot()
    result = by_id(yard.sweep("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "too_young")
    assert yard.world.snapshot() == before


def test_an_old_application_that_wrote_lately_keeps_what_it_wrote(swept: Yard) -> None:
    world = swept.world
    world.write_content("t/direct", b"it knows no sidecars", world.direct_key, "records-v1")
    result = by_id(swept.sweep("t/direct"))["t/direct"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "too_young")
    assert "t/direct" in swept.stored()


def test_what_put_has_replaced_goes_likewise(yard: Yard) -> None:
    for edition in range(3):
        yard.world.put("a", b"%d" % edition)
    yard.let_grace_pass()
    assert len(yard.stored()) == 3
    assert by_id(yard.sweep("a"))["a"].outcome is Outcome.REWRAPPED
    assert yard.stored() == yard.live()
    assert yard.world.wrong() == []


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "bare"])
def test_a_blob_whose_content_has_its_own_name_loses_nothing(yard: Yard, kind: str) -> None:
    yard.world.plant(kind, "a")
    yard.let_grace_pass()
    before = yard.world.snapshot()
    result = by_id(yard.sweep("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "content_in_use")
    assert yard.world.snapshot() == before


@pytest.mark.parametrize("blob_id", ["t/direct", "t/managed"])
def test_a_lost_sidecar_keeps_every_content(swept: Yard, blob_id: str) -> None:
    world = swept.world
    lost = world.layout.sidecar_name(blob_id)
    data = world.store._objects.pop(lost)
    before = world.snapshot()
    assert by_id(swept.sweep(blob_id))[blob_id].outcome is not Outcome.REWRAPPED
    assert world.snapshot() == before
    world.store._objects[lost] = data


@pytest.mark.parametrize("spoil", ["sidecar", "format", "wrap", "content", "truncated", "missing"])
def test_a_blob_that_does_not_open_keeps_every_content(swept: Yard, spoil: str) -> None:
    world, blob_id = swept.world, "t/managed"
    sidecar, live = world.raw(blob_id), f"{blob_id}.~{world.sidecar(blob_id)['object']}"
    content = world.store._objects[live]
    if spoil == "sidecar":
        world.store._objects[world.layout.sidecar_name(blob_id)] = b"{"
    elif spoil in {"format", "wrap"}:
        wrap = world.sidecar("t/direct")["wrapped_dek"]
        changed = {"content": "rot13-v1"} if spoil == "format" else {"wrapped_dek": wrap}
        other = {**world.sidecar(blob_id), **changed}
        world.store._objects[world.layout.sidecar_name(blob_id)] = json.dumps(other).encode()
    elif spoil == "content":
        world.store._objects[live] = content[:-1] + bytes([content[-1] ^ 1])
    elif spoil == "truncated":
        world.store._objects[live] = content[:50]
    else:
        del world.store._objects[live]
    before = world.snapshot()
    result = by_id(swept.sweep(blob_id))[blob_id]
    assert result.outcome is Outcome.QUARANTINED
    assert world.snapshot() == before
    assert swept.journal.removed == []
    world.store._objects |= {world.layout.sidecar_name(blob_id): sidecar, live: content}


def test_a_large_content_is_read_to_its_end_first(yard: Yard) -> None:
    yard.world.plant("direct", "a", b"x" * 1_000_000)
    yard.reencrypt("a")
    yard.let_grace_pass()
    live = f"a.~{yard.world.sidecar('a')['object']}"
    yard.world.store._objects[live] = spoilt(yard.world.store._objects[live])
    assert by_id(yard.sweep("a"))["a"].outcome is Outcome.QUARANTINED
    assert "a" in yard.stored()


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_during_the_sweep_keeps_its_blob(swept: Yard, step: str) -> None:
    world = swept.world
    swept.sweep(*KIND_IDS, before=at(step, lambda: world.put("t/direct", b"newer")))
    assert world.wrong() == []


@pytest.mark.parametrize("operation", ["read", "look", "read_range", "remove"])
def test_a_writer_at_any_request_of_the_sweep_keeps_its_blob(operation: Any) -> None:
    for nth in range(40):
        yard = Yard()
        yard.world.plant("direct", "a")
        yard.reencrypt("a")
        yard.let_grace_pass()
        found = yard.leftovers()
        wrote: list[int] = []

        def put(yard: Yard = yard, wrote: list[int] = wrote) -> None:
            wrote.append(1)
            yard.world.put("a", b"newer")

        for _ in range(nth):
            yard.world.store.before(operation, lambda: None)
        yard.world.store.before(operation, put)
        yard.sweep("a", leftovers=found)
        assert yard.world.wrong() == []
        if not wrote:
            assert nth > 0
            return
    pytest.fail("no run passed clean")


def roll_back(world: World, blob_id: str, record: bytes) -> None:
    """Put an older sidecar back, as a person does who restores a file."""
    name = world.layout.sidecar_name(blob_id)
    world.store._objects[name] = record
    world.store.stamp(name)


@pytest.mark.parametrize("step", [None, *STEPS])
def test_a_sidecar_that_is_rolled_back_keeps_its_content(yard: Yard, step: str | None) -> None:
    world = yard.world
    world.put("a", b"the same")
    old = world.raw("a")
    yard.reencrypt("a")
    yard.let_grace_pass()
    if step is None:
        roll_back(world, "a", old)
    yard.sweep("a", before=at(step or "never", lambda: roll_back(world, "a", old)))
    assert world.raw("a") == old
    assert world.wrong() == []


def test_a_sidecar_rolled_back_for_good_is_what_the_next_sweep_goes_by(yard: Yard) -> None:
    world = yard.world
    world.put("a", b"the same")
    old = world.raw("a")
    yard.reencrypt("a")
    roll_back(world, "a", old)
    yard.let_grace_pass()
    assert by_id(yard.sweep("a"))["a"].outcome is Outcome.REWRAPPED
    assert yard.stored() == yard.live()
    assert world.wrong() == []


@pytest.mark.parametrize("field", ["x-old-content", "previous"])
def test_a_content_that_a_sidecar_mentions_anywhere_stays(yard: Yard, field: str) -> None:
    world = yard.world
    world.put("a", b"the same")
    record = world.sidecar("a")
    yard.reencrypt("a")
    kept = {k: record[k] for k in ("key_id", "wrapped_dek")} | {"object": record["object"]}
    world.edit("a", **{field: kept})
    yard.let_grace_pass()
    result = by_id(yard.sweep("a"))["a"]
    assert result.outcome is not Outcome.REWRAPPED
    assert f"a.~{record['object']}" in yard.stored()


def test_a_blob_that_is_called_as_a_content_of_another_stays(yard: Yard) -> None:
    world = yard.world
    world.put("a", b"ours")
    stranger = f"a.~{'0' * 32}"
    world.store._objects |= {stranger: b"a stranger's", f"{stranger}.sidecar.json": b"{}"}
    yard.let_grace_pass()
    result = by_id(yard.sweep("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "has_a_sidecar")
    assert stranger in yard.stored()


@pytest.mark.parametrize("step", STEPS)
def test_killed_before_any_step_every_blob_opens_and_the_next_run_ends_it(
    swept: Yard, step: str
) -> None:
    found = swept.leftovers()
    with pytest.raises(SimulatedCrash):
        swept.sweep(*KIND_IDS, before=at(step, crash))
    assert swept.world.wrong() == []
    swept.sweep(*KIND_IDS, leftovers=found)
    assert swept.stored() == swept.live()


@pytest.mark.parametrize("operation", ["look", "remove", "read", "read_range"])
def test_killed_at_any_request_every_blob_opens_and_the_next_run_ends_it(operation: Any) -> None:
    for nth in range(200):
        yard = Yard()
        ids = [yard.world.plant(kind, f"t/{kind}") for kind in KINDS]
        yard.reencrypt(*ids)
        yard.let_grace_pass()
        found = yard.leftovers()
        for _ in range(nth):
            yard.world.store.before(operation, lambda: None)
        yard.world.store.before(operation, crash)
        try:
            yard.sweep(*ids, leftovers=found)
        except SimulatedCrash:
            assert yard.world.wrong() == []
            yard.sweep(*ids, leftovers=found)
            assert yard.stored() == yard.live()
        else:
            assert nth > len(ids) - 1
            return
    pytest.fail("no run passed clean")


@pytest.mark.parametrize("step", STEPS)
def test_two_sweeps_at_once_remove_no_more_than_one(swept: Yard, step: str) -> None:
    found = swept.leftovers()
    other: list[Report] = []
    act = at(step, lambda: other.append(swept.sweep(*KIND_IDS, leftovers=found)))
    first = swept.sweep(*KIND_IDS, leftovers=found, before=act)
    assert swept.stored() == swept.live()
    freed = sum(r.content_bytes for report in (first, *other) for r in report.results)
    assert freed == sum(r.content_bytes for r in other[0].results), "counted once"


class History:
    """One blob, and every sidecar that it had: each may be put back until its grace is over."""

    def __init__(self, yard: Yard, random: Random) -> None:
        self.yard, self.random, self.now = yard, random, 0.0
        self.editions: list[tuple[float, bytes, bytes]] = []  # ended when, sidecar, text
        yard.world.put("a", b"first")

    def end_edition(self) -> None:
        world = self.yard.world
        self.editions.append((self.now, world.raw("a"), world.originals["a"]))

    def put(self) -> None:
        self.end_edition()
        self.yard.world.put("a", b"%d" % len(self.editions))

    def reencrypt(self) -> None:
        self.end_edition()
        self.yard.reencrypt("a", mark=b"%d" % len(self.editions))

    def roll_back(self) -> None:
        kept = [e for e in self.editions if self.now - e[0] < GRACE_S]
        if kept:
            _, record, text = self.random.choice(kept)
            self.end_edition()
            roll_back(self.yard.world, "a", record)
            self.yard.world.originals["a"] = text

    def wait(self) -> None:
        seconds = self.random.choice([0.1, 0.6, 1.1]) * GRACE_S
        self.now += seconds
        self.yard.world.store.let_time_pass(seconds)

    def sweep(self) -> None:
        """Sweep while something else happens, or the worker dies."""
        act = self.random.choice([self.put, self.roll_back, self.reencrypt, crash, lambda: None])
        step = self.random.choice(STEPS)
        with suppress(SimulatedCrash):
            self.yard.sweep("a", before=at(step, act))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_blob_opens_and_may_be_put_back_within_the_grace_time(
    seed: int,
) -> None:
    for n in range(15):
        random = Random(100 * seed + n)
        yard = Yard()
        history = History(yard, random)
        for _ in range(15):
            random.choice(
                [history.put, history.reencrypt, history.roll_back]
                + 3 * [history.wait]
                + 3 * [history.sweep]
            )()
            assert yard.world.wrong() == [], f"seed {seed}, run {n}"
            for ended, record, text in history.editions:
                if history.now - ended < GRACE_S:
                    assert text == opened(yard.world, record), f"seed {seed}, run {n}"


def opened(world: World, record: bytes) -> bytes:
    """Open the blob as another sidecar of it says."""
    now = world.raw("a")
    roll = world.layout.sidecar_name("a")
    world.store._objects[roll] = record
    try:
        return world.app.get("a")
    finally:
        world.store._objects[roll] = now


def test_a_removal_without_an_answer_is_looked_at_again(swept: Yard) -> None:
    swept.world.store.fail_next("remove", StoreUnavailableError("lost"))  # that of the probe
    with pytest.raises(StoreUnavailableError):
        swept.sweep("t/direct")
    found = swept.leftovers()
    engine_sees = at("remove", lambda: swept.world.store.fail_next("remove", _LOST))
    done = by_id(swept.sweep("t/direct", leftovers=found, before=engine_sees))
    assert done["t/direct"].outcome is Outcome.REWRAPPED
    assert swept.stored() & {"t/direct"} == set()


_LOST = StoreUnavailableError("lost")


def test_a_kms_that_is_away_keeps_everything_and_is_waited_for(swept: Yard) -> None:
    before = swept.world.snapshot()
    swept.world.kms.fail_next(UnavailableError("away", key="hcvault://memory/blob-kek"))
    assert swept.sweep(*KIND_IDS).interruption is not None
    assert swept.world.snapshot() == before


def test_a_store_that_removes_unconditionally_keeps_what_others_may_be_writing(yard: Yard) -> None:
    world = yard.world
    world.plant("direct", "a")
    for mark in (b"one", b"two"):
        yard.reencrypt("a", mark=mark)
    yard.let_grace_pass()

    def heedless(name: str, _seen: object) -> bool:
        return world.store._objects.pop(name, None) is not None

    world.store.remove = heedless  # type: ignore[method-assign]
    assert not take_bearings(world.store).heeds
    result = by_id(yard.sweep("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "store_ignores_conditions")
    assert yard.stored() == {"a"} | yard.live(), "names that nobody writes again are safe"
    assert world.wrong() == []


def test_clocks_that_others_left_are_tidied_and_those_in_use_are_not(yard: Yard) -> None:
    store = yard.world.store
    store.create(f"{CLOCK}abandoned", b"what time is it?")
    store.let_time_pass(4000)
    store.create(f"{CLOCK}in-use", b"what time is it?")
    take_bearings(store)
    assert list(store.names(CLOCK)) == [f"{CLOCK}in-use"]


def test_a_store_without_ages_is_not_swept() -> None:
    class Plain:
        create = names = read = None

    with pytest.raises(CannotSweepError):
        take_bearings(Plain())  # type: ignore[arg-type]


def test_what_a_writer_has_not_named_yet_is_named_in_time_or_not_at_all(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COMMIT_WITHIN_S * 2 < MIN_GRACE_S
    world = yard.world
    world.put("a", b"first")
    before = world.raw("a")
    wraps: list[float] = [0.0]
    monkeypatch.setattr("keywrap.contentwriting._clocks", lambda: (wraps[0], 0.0))
    create = world.aside.create

    def slowly(name: str, data: bytes) -> None:
        create(name, data)
        wraps[0] += COMMIT_WITHIN_S + 1

    monkeypatch.setattr(world.aside, "create", slowly)
    with pytest.raises(TooSlowError):
        world.put("a", b"second")
    assert world.raw("a") == before
    assert world.app.get("a") == b"first"


def test_a_worker_that_thaws_names_no_content_of_long_ago(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = yard.world
    world.plant("direct", "a")
    passed = [0.0]
    monkeypatch.setattr("keywrap.contentwriting._clocks", lambda: (0.0, passed[0]))
    goal = Goal(world.target, Selection.ALL, Prove.ALL, mark=b"one")
    means = world.reader, world.keys, world.legacy_content, world.pool

    def freeze(step: str) -> None:
        if step == "replace":
            passed[0] += COMMIT_WITHIN_S + 1

    before = world.raw("a")
    result = by_id(Reencrypter(*means, freeze).rewrap(["a"], goal))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.CONFLICT, "content_too_old")
    assert world.raw("a") == before
    assert yard.stored() == {"a"}, "what it wrote is removed"


@pytest.mark.parametrize("suffix", ["", ".blob"])
def test_contents_are_told_by_their_names(suffix: str) -> None:
    layout = Layout(suffix)
    generation = "0123456789abcdef" * 2
    for blob_id in ("a", "t/x", "t/x.~y", "a.b"):
        assert layout.content_of(layout.content_name(blob_id)) == (blob_id, "")
        assert layout.content_of(layout.content_name(blob_id, generation)) == (blob_id, generation)
        assert layout.content_of(layout.sidecar_name(blob_id)) is None
    for name in (
        ".rewrap/control.json",
        f".rewrap/a.~{generation}",
        f"a.sidecar.json.~{generation}",
    ):
        assert layout.content_of(name) is None


def test_on_real_files_old_contents_go_and_their_age_is_the_inodes(tmp_path: Path) -> None:
    world = World()
    store = FileStore(tmp_path)
    reader = replace(world.reader, store=store)
    app = EncryptedBlobs(reader, world.keys)
    for edition in range(2):
        app.put("t/a", b"%d" % edition)
    generations = contents(store, world.layout)["t/a"]
    bearings = take_bearings(store)
    assert bearings.heeds
    means = reader, world.keys, "gcm-v1", world.pool
    goal = Goal(world.target, Selection.ALL, Prove.ALL)
    engine = Sweeper(*means, leftovers={"t/a": generations}, heeds=True)
    young = replace(engine, horizon=bearings.now - timedelta(seconds=GRACE_S))
    assert by_id(young.rewrap(["t/a"], goal))["t/a"].reason_code == "too_young"
    old = replace(engine, horizon=bearings.now + timedelta(seconds=1))
    assert by_id(old.rewrap(["t/a"], goal))["t/a"].outcome is Outcome.REWRAPPED
    live = reader.read("t/a").sidecar.object
    assert contents(store, world.layout)["t/a"] == [live]
    assert app.get("t/a") == b"1"
