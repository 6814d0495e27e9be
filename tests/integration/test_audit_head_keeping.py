"""The scheduler signs where the audit chain ends, whatever becomes of store and ledger."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from keywrap.auditchain import Head
from keywrap.audithead import NAME, HeadFile
from keywrap.segments import Source
from keywrap.signing import SigningKey, SigningKeyError
from keywrap.stores import StoreUnavailableError
from keywrap.testing.stores import MemoryStore
from ledger import audit
from ledger.connection import Ledger
from scheduler import headkeeper
from scheduler.headkeeper import HeadKeeper
from tests.desks import Desk, desk_of
from tests.nodes import until
from tests.trails import segment_of, signing_key
from workers.settings import Settings, load

CONFIG = """\
[store]
url = "file:///nowhere"
[audit]
public_key = "{public}"
private_key_file = "{file}"
"""


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return desk_of(ledger)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    key = SigningKey.create(tmp_path / "audit.key")
    config = tmp_path / "rewrap.toml"
    config.write_text(CONFIG.format(public=key.public, file="audit.key"))
    return load(str(config), {})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    store = MemoryStore()
    monkeypatch.setattr(headkeeper, "open_store", lambda _config: store)
    return store


@pytest.fixture
def keeper(settings: Settings, ledger: Ledger) -> Iterator[HeadKeeper]:
    keeper = HeadKeeper(settings, ledger)
    yield keeper
    keeper.stop()


def grow(desk: Desk, folder: Path) -> Head:
    with desk.ledger.begin() as connection:
        audit.note(connection, segment_of(folder, Source(7, 1, 1, "host:1"), ["a"]))
    with desk.ledger.begin() as connection:
        audit.chain_new(connection)
        return audit.head(connection)


def signed(settings: Settings) -> Head | None:
    file = headkeeper.head_file(settings)
    assert isinstance(file, HeadFile)
    found = file.read()
    return found.head if found else None


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.usefixtures("store")
def test_the_head_is_signed_soon_after_the_chain_has_grown(
    keeper: HeadKeeper, desk: Desk, settings: Settings, tmp_path: Path
) -> None:
    keeper.start()
    head = grow(desk, tmp_path)
    until(lambda: signed(settings) == head, "signed", 10)


@pytest.mark.usefixtures("store")
def test_what_was_chained_last_is_signed_when_the_scheduler_stops(
    keeper: HeadKeeper, desk: Desk, settings: Settings, tmp_path: Path
) -> None:
    keeper.start()
    grow(desk, tmp_path)
    until(lambda: signed(settings), "signed", 10)
    head = grow(desk, tmp_path)
    keeper.stop()
    assert signed(settings) == head


def test_a_store_that_is_away_is_said_once_and_waited_for(
    keeper: HeadKeeper,
    desk: Desk,
    settings: Settings,
    store: MemoryStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    head = grow(desk, tmp_path)
    for _ in range(3):
        store.fail_next("read", StoreUnavailableError("the store does not answer"))
        keeper.publish_once()
    assert errors(caplog) == ["audit head: the store does not answer"]
    assert (keeper.trouble_code, keeper.refused, keeper.signed_at) == ("unavailable", "", 0.0)
    keeper.publish_once()
    assert signed(settings) == head
    assert keeper.trouble_code == ""
    assert keeper.signed_at > 0


def test_what_nobody_foresaw_is_said_and_the_next_look_signs(
    keeper: HeadKeeper, desk: Desk, settings: Settings, store: MemoryStore, tmp_path: Path
) -> None:
    head = grow(desk, tmp_path)
    store.fail_next("read", ZeroDivisionError())
    keeper.publish_once()
    assert keeper.trouble_code == "internal_error"
    keeper.publish_once()
    assert signed(settings) == head
    assert keeper.trouble_code == ""


def test_a_head_that_was_removed_is_not_signed_anew_by_whoever_signed_it(
    keeper: HeadKeeper,
    desk: Desk,
    settings: Settings,
    store: MemoryStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    grow(desk, tmp_path)
    keeper.publish_once()
    store.delete(NAME)
    grow(desk, tmp_path)
    keeper.publish_once()
    assert signed(settings) is None
    assert "nothing is signed before a person has looked" in errors(caplog)[0]
    assert keeper.trouble_code == "audit_head_lost"
    assert "nothing is signed before" in keeper.refused


@pytest.mark.usefixtures("store")
def test_a_chain_that_was_cut_is_not_signed(
    keeper: HeadKeeper,
    desk: Desk,
    settings: Settings,
    ledger: Ledger,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    grow(desk, tmp_path)
    head = grow(desk, tmp_path)
    keeper.publish_once()
    desk.run("DELETE FROM audit_segment WHERE place = 2")
    keeper.publish_once()
    HeadKeeper(settings, ledger).publish_once()  # nor by one that knows nothing of it
    assert signed(settings) == head
    assert len(errors(caplog)) == 2
    assert "put back" in errors(caplog)[1]


@pytest.mark.usefixtures("store")
def test_a_chain_that_was_emptied_is_no_new_one_to_a_scheduler_that_just_started(
    keeper: HeadKeeper, desk: Desk, settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    head = grow(desk, tmp_path)
    keeper.publish_once()
    desk.run("DELETE FROM audit_segment")
    started = HeadKeeper(settings, ledger)
    started.publish_once()
    assert "put back" in started.refused
    assert signed(settings) == head


@pytest.mark.usefixtures("store")
def test_two_schedulers_sign_one_chain(
    keeper: HeadKeeper, desk: Desk, settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    other = HeadKeeper(settings, ledger)
    for _ in range(3):
        grow(desk, tmp_path)
        keeper.publish_once()
        head = grow(desk, tmp_path)
        other.publish_once()
    assert signed(settings) == head


def test_a_key_that_cannot_be_used_is_told_at_the_start(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(SigningKeyError):
        HeadKeeper(settings, ledger)


@pytest.mark.usefixtures("store")
def test_the_key_of_another_signs_nothing(
    settings: Settings, ledger: Ledger, desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = HeadKeeper(settings, ledger)
    keeper._key = signing_key(random.Random(1))
    grow(desk, tmp_path)
    keeper.publish_once()
    assert signed(settings) is None
    assert "does not belong to [audit] public_key" in errors(caplog)[0]
