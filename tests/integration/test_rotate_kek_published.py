"""`rewrap rotate-kek` where a control file tells applications of the new version."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from keywrap.control import ControlError, Cutover
from keywrap.controlfile import NAME
from keywrap.filestore import FileStore
from keywrap.keys import KeyVersion
from keywrap.signing import SigningKey, SigningKeyError
from keywrap.testing.kms import SimpleMemoryKeyProvider
from ledger import campaigns, publications, rotations
from ledger.connection import Ledger
from ledger.states import State
from scheduler.commands.rotation import rotation_status
from scheduler.desk import REFUSED, UNREACHABLE, DeskError
from scheduler.publishing import Press, press_of
from tests.desks import desk_of
from tests.rotations import STORE, Rotating, desk_at

CONFIG = f"""{STORE}
[keys.vault."memory/blob-kek"]
address = "http://127.0.0.1:1"
token_env = "BAO_TOKEN"

[control]
public_key = "{{public_key}}"
store_id = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
private_key_file = "{{private_key}}"
"""


class Cut(BaseException):
    """A run that is cut off: a crash, or Ctrl-C."""


@dataclass
class Published:
    """A rotation that is published in a control file, with a clock that nobody waits for.

    Attributes:
        steps: what a run did, in order.
        cut: the step before or after which a run is cut off, counted from 1.
    """

    rotating: Rotating
    press: Press
    steps: list[str] = field(default_factory=list)
    cut: float = float("inf")
    now: float = 0.0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Let each step of a run be counted, and cut off as `cut` says."""
        watched: list[tuple[Any, str]] = [
            (SimpleMemoryKeyProvider, "create_version"),
            (SimpleMemoryKeyProvider, "wrap"),
            (SimpleMemoryKeyProvider, "unwrap"),
            (FileStore, "read"),
            (FileStore, "create"),
            (FileStore, "replace"),
            *((rotations, name) for name in ("begin", "ask", "minted", "opened")),
            (publications, "note"),
            (campaigns, "request"),
            (self, "sleep"),
        ]
        for owner, name in watched:
            patch.setattr(owner, name, self._step(name, getattr(owner, name)))
        patch.setattr("scheduler.publishing.time", self)

    def _step(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*values: Any, **options: Any) -> Any:
            self.steps.append(name)
            number = len(self.steps)
            if number == self.cut:
                raise Cut(f"before {number}, {name}")
            done = do(*values, **options)
            if number + 0.5 == self.cut:
                raise Cut(f"after {number}, {name}")
            return done

        return stepped

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, cut: float = float("inf")) -> int:
        self.steps.clear()
        self.cut = cut
        return self.rotating.rotate()

    def cut_off_at(self, owner: object, step: str) -> None:
        """Run it, and cut it off where it is about to make a step."""

        def cut_off(*_: Any, **__: Any) -> Any:
            raise Cut

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, step, cut_off)
            with pytest.raises(Cut):
                self.run()

    def finish(self) -> int:
        """Run it to its end, however often it was cut off before."""
        try:
            return self.run()
        except DeskError as error:
            if error.reason_code != "rotation_not_seen":  # it was never asked for
                raise
            self.rotating.ledger.run(
                "UPDATE kek_rotation SET begun_at = begun_at - interval '16 min'"
            )
            return self.run()

    def counts(self) -> tuple[int, int, int]:
        """Return how many versions, publications and campaigns there are."""
        ((made, opened),) = self.rotating.ledger.rows(
            "SELECT (SELECT count(*) FROM publication), (SELECT count(*) FROM campaign)"
        )
        return int(self.rotating.provider.current_version().version), made, opened


@pytest.fixture
def published(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    provider = SimpleMemoryKeyProvider()
    store, key = tmp_path / "blobs", tmp_path / "control.key"
    store.mkdir()
    public = SigningKey.create(key).public
    config = CONFIG.format(store=store.as_uri(), public_key=public, private_key=key)
    desk = desk_at(tmp_path, ledger, config)
    made = Published(Rotating(desk, desk_of(ledger), provider), press_of(desk))
    made.watch(monkeypatch)
    return made


def test_a_new_version_is_published_waited_for_and_opened_before_any_wrap_is_moved(
    published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign_id, did = published.run(), list(published.steps)
    new = KeyVersion(published.rotating.provider.key, "2")
    assert published.press.newest().control.primary == new
    assert published.rotating.ledger.get(campaign_id).target == new
    order = ["create_version", "wrap", "unwrap", "create", "note", "sleep", "wrap", "unwrap"]
    told = [s for s in did if s in {*order, "request"}]
    assert [s for n, s in enumerate(told) if told[n - 1 : n] != [s]] == [*order, "request"]
    assert 55 < published.now <= 60
    said = capsys.readouterr().out
    assert "every application obeys control serial 1" in said


def test_a_rotation_cut_off_before_or_after_any_step_goes_on_and_makes_no_second_of_anything(
    published: Published,
) -> None:
    published.finish()
    number = len(published.steps)
    assert number > 15
    for cut in [n / 2 for n in range(2, 2 * number + 2)]:
        ((open_one,),) = published.rotating.ledger.rows("SELECT max(id) FROM campaign")
        published.rotating.ledger.force(open_one, State.COMPLETE)
        published.rotating.ledger.run("UPDATE publication SET obeyed_at = now()")
        versions, publications_, opened = published.counts()
        waited = published.now
        with pytest.raises(Cut) as where:
            published.run(cut)
        campaign_id = published.finish()
        then = (versions + 1, publications_ + 1, opened + 1)
        assert published.counts() == then, where.value
        new = KeyVersion(published.rotating.provider.key, str(versions + 1))
        assert published.press.newest().control.primary == new
        assert published.rotating.ledger.get(campaign_id).target == new
        # A run that is cut off in its wait loses at most the moment that it slept.
        assert published.now - waited > 45, where.value
        assert published.run() == campaign_id


def test_a_wait_that_was_cut_off_goes_on_where_the_ledgers_clock_is(published: Published) -> None:
    published.cut_off_at(published, "sleep")
    assert published.now == 0
    published.rotating.ledger.run("UPDATE publication SET obeyed_at = obeyed_at - interval '50 s'")
    published.finish()
    assert 5 < published.now <= 10


def test_ctrl_c_in_the_wait_says_that_no_wrap_is_moved_and_how_to_go_on(
    published: Published, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(published, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        published.run()
    said = capsys.readouterr().out
    assert "published and no wrap is moved yet" in said
    assert f"next: rewrap rotate-kek {published.rotating.provider.key}" in said
    assert published.counts()[2] == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_version_that_cannot_be_opened_moves_no_wrap(published: Published, when: str) -> None:
    provider = published.rotating.provider
    create = FileStore.create

    def create_and_break(*values: Any) -> None:
        create(*values)
        provider.kms.corrupt_next_wrap()

    with pytest.MonkeyPatch.context() as patched:
        if when == "before":
            provider.kms.corrupt_next_wrap()
        else:
            patched.setattr(FileStore, "create", create_and_break)
        refused = published.rotating.refused()
    assert (refused.exit_code, refused.reason_code) == (REFUSED, "canary_failed")
    assert "no wrap was moved" in str(refused)
    # Nobody is told to write what nobody can read.
    assert published.counts() == ((2, 0, 0) if when == "before" else (2, 1, 0))
    published.run()
    assert published.counts() == (2, 1, 1)


def test_a_version_that_is_not_everywhere_yet_is_asked_for_once(published: Published) -> None:
    published.rotating.provider.kms.wrong_version_next()
    refused = published.rotating.refused()
    assert (refused.exit_code, refused.reason_code) == (UNREACHABLE, "version_not_in_use")
    assert refused.next_command.startswith("rewrap rotate-kek")
    published.run()
    assert published.counts() == (2, 1, 1)


@pytest.mark.parametrize("trouble", ["forged", "no key", "others read the key"])
def test_no_version_is_made_that_could_not_be_published(
    published: Published, tmp_path: Path, trouble: str
) -> None:
    if trouble == "forged":
        published.press.publish(lambda base: replace(base, cutover=Cutover.WARN))
        file = tmp_path / "blobs" / NAME
        file.write_bytes(file.read_bytes().replace(b"warn", b"off"))
        with pytest.raises(ControlError):
            published.run()
    elif trouble == "no key":
        (tmp_path / "control.key").unlink()
        with pytest.raises(SigningKeyError):
            published.run()
    else:
        (tmp_path / "control.key").chmod(0o640)
        with pytest.raises(SigningKeyError):
            published.run()
    assert published.rotating.provider.current_version().version == "1"


def test_a_cutover_that_is_published_survives_a_rotation(published: Published) -> None:
    published.press.publish(lambda base: replace(base, cutover=Cutover.WARN))
    published.run()
    control = published.press.newest().control
    assert (control.cutover, control.serial) == (Cutover.WARN, 2)


def test_the_status_of_a_rotation_names_the_step_that_it_has_reached(published: Published) -> None:
    provider = published.rotating.provider

    def step() -> str:
        return str(rotation_status(published.rotating.desk, provider.key)["step"])

    seen = [step()]
    for place in ("create_version", "wrap", "sleep"):
        published.cut_off_at(published if place == "sleep" else provider, place)
        seen.append(step())
        if place == "create_version":
            provider.kms.rotate(provider.key)
    campaign_id = published.run()
    seen.append(step())
    published.rotating.ledger.force(campaign_id, State.COMPLETE)
    seen.append(step())
    assert seen == ["none", "asked", "made", "published", "rolling_out", "over"]
    document = rotation_status(published.rotating.desk, provider.key)
    assert document["to"] == f"{provider.key}?version=2"
    assert document["campaign"] == campaign_id
