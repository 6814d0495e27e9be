"""The control file on a real folder, noted in a real ledger."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keywrap.control import Control, ControlError, Cutover, open_control
from keywrap.controlfile import NAME
from keywrap.keys import KeyVersion
from keywrap.signing import SigningKey, SigningKeyError
from ledger import publications
from ledger.connection import Ledger
from ledger.publications import Publication
from scheduler.commands.cutover import turned
from scheduler.desk import USAGE, Desk, DeskError
from scheduler.publishing import Press, press_of, wait_until_obeyed
from tests.desks import Desk as LedgerWords
from tests.desks import desk_of

KEK = "hcvault://transit/blob-kek"
CONFIG = """\
[store]
url = "{store}"

[keys.vault."transit/blob-kek"]
address = "http://127.0.0.1:1"
token_env = "BAO_TOKEN"

[control]
public_key = "{public_key}"
store_id = "{store_id}"
max_age_s = {max_age_s}
min_serial = {min_serial}
{private}
"""


@dataclass
class Office:
    """Where a control file is published; another desk may publish it too."""

    directory: Path
    ledger: Ledger
    key: SigningKey

    def desk(self, *, max_age_s: int = 60, min_serial: int = 0, private: bool = True) -> Desk:
        path = self.directory / "control.key"
        config = self.directory / "rewrap.toml"
        config.write_text(
            CONFIG.format(
                store=(self.directory / "blobs").as_uri(),
                public_key=self.key.public,
                store_id="a" * 32,
                max_age_s=max_age_s,
                min_serial=min_serial,
                private=f'private_key_file = "{path}"' if private else "",
            )
        )
        desk = Desk(str(config))
        desk.__dict__["ledger"] = self.ledger
        assert desk.settings
        return desk

    def press(self, **options: Any) -> Press:
        return press_of(self.desk(**options))

    @property
    def path(self) -> Path:
        return self.directory / "blobs" / NAME

    @property
    def words(self) -> LedgerWords:
        return desk_of(self.ledger)

    def let_time_pass(self, seconds: float) -> None:
        self.words.run(
            "UPDATE publication SET obeyed_at = obeyed_at - make_interval(secs => :s)", s=seconds
        )


@pytest.fixture
def office(ledger: Ledger, tmp_path: Path) -> Office:
    (tmp_path / "blobs").mkdir()
    return Office(tmp_path, ledger, SigningKey.create(tmp_path / "control.key"))


def flag(cutover: Cutover) -> Callable[[Control], Control]:
    return lambda base: replace(base, cutover=cutover)


def refused(act: Callable[[], object], reason_code: str) -> ControlError:
    with pytest.raises(ControlError) as caught:
        act()
    assert caught.value.reason_code == reason_code
    return caught.value


def test_who_published_what_and_when_is_noted(office: Office) -> None:
    press = office.press()
    first = press.publish(flag(Cutover.WARN))
    office.press().publish(lambda base: replace(base, primary=KeyVersion(KEK, "3")))
    noted = office.words.rows(
        "SELECT serial, cutover, primary_key, issued_by = :by,"
        " abs(extract(epoch FROM issued_at - now())) < 60 FROM publication ORDER BY serial",
        by=first.control.issued_by,
    )
    assert noted == [(1, "warn", None, True, True), (2, "warn", f"{KEK}?version=3", True, True)]
    assert "@" in first.control.issued_by
    assert [p.control for p in press.recent()][1] == first.control
    assert press.newest().control == press.recent()[0].control


def test_until_all_obey_it_the_age_of_the_file_before_it_passes(office: Office) -> None:
    first = office.press(max_age_s=60).publish(flag(Cutover.WARN))
    assert 55 < first.obeyed_in_s <= 60
    second = office.press(max_age_s=5).publish(flag(Cutover.OFF))
    assert 55 < second.obeyed_in_s <= 60
    office.let_time_pass(100)
    assert office.press(max_age_s=5).newest().obeyed_in_s == 0
    third = office.press(max_age_s=5).publish(flag(Cutover.WARN))
    assert 3 < third.obeyed_in_s <= 5
    fourth = office.press(max_age_s=30).publish(flag(Cutover.ON))
    assert 25 < fourth.obeyed_in_s <= 30
    office.let_time_pass(100)
    assert 25 < office.press(max_age_s=5).publish(flag(Cutover.OFF)).obeyed_in_s <= 30


def test_a_publication_on_the_heels_of_another_does_not_shorten_its_wait(office: Office) -> None:
    office.press(max_age_s=60).publish(flag(Cutover.WARN))
    office.press(max_age_s=2).publish(flag(Cutover.OFF))
    third = office.press(max_age_s=2).publish(flag(Cutover.ON))
    assert 55 < third.obeyed_in_s <= 60  # who read the first just before the second obeys it still


def test_a_publisher_cut_off_before_it_noted_is_noted_by_the_next_look(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> Any:
        raise KeyboardInterrupt

    press = office.press()
    with monkeypatch.context() as patched:
        patched.setattr(publications, "note", cut_off)
        with pytest.raises(KeyboardInterrupt):
            press.publish(flag(Cutover.ON))
    assert press.recent() == []
    found = press.newest()
    assert found.control.cutover is Cutover.ON
    assert found.obeyed_in_s > 55
    assert [p.control for p in press.recent()] == [found.control]


@pytest.fixture(params=["folder", "s3"])
def press(request: pytest.FixtureRequest, office: Office) -> Press:
    """A press for each kind of store."""
    press = office.press()
    if request.param == "folder":
        return press
    return replace(press, file=replace(press.file, store=request.getfixturevalue("s3_store")))


def test_many_who_publish_at_once_are_all_heard(office: Office, press: Press) -> None:
    def edit(base: Control) -> Control:
        made = int(base.primary.version) if base.primary else 0
        return replace(base, primary=KeyVersion(KEK, str(made + 1)))

    def publish(_: int) -> int:
        while True:
            try:
                return press.publish(edit).control.serial
            except ControlError as error:
                if error.reason_code != "control_busy":
                    raise

    with ThreadPoolExecutor(4) as pool:
        serials = list(pool.map(publish, range(20)))
    assert sorted(serials) == list(range(1, 21))
    assert press.newest().control.primary == KeyVersion(KEK, "20")
    assert office.words.rows("SELECT count(*) FROM publication") == [(20,)]


@pytest.mark.parametrize("loss", ["gone", "older"])
def test_a_file_that_was_lost_is_told_and_the_next_publication_mends_it(
    office: Office, loss: str
) -> None:
    press = office.press()
    press.publish(flag(Cutover.OFF))
    old = office.path.read_bytes()
    on = press.publish(flag(Cutover.ON))
    desk = office.desk()
    source = open_control(desk.settings.keywrap, press.file.store)
    assert source is not None
    assert source.current().cutover is Cutover.ON
    if loss == "gone":
        office.path.unlink()
    else:
        office.path.write_bytes(old)
    code = {"gone": "control_missing", "older": "control_rolled_back"}[loss]
    assert refused(press.newest, code).next_command.startswith("rewrap cutover on")
    assert press.standing().control == on.control
    mended = press.publish(lambda base: base)
    assert (mended.control.serial, mended.control.cutover) == (3, Cutover.ON)
    assert press.newest().control == mended.control


def test_a_forged_file_stops_every_command(office: Office) -> None:
    press = office.press()
    press.publish(flag(Cutover.ON))
    office.path.write_bytes(office.path.read_bytes().replace(b'"on"', b'"off"'))
    before = office.path.read_bytes()
    for act in (press.newest, press.standing, lambda: press.publish(flag(Cutover.WARN))):
        refused(act, "control_forged")
    assert office.path.read_bytes() == before


def test_without_a_ledger_of_its_own_a_least_serial_is_published_above(office: Office) -> None:
    press = office.press(min_serial=12)
    assert refused(press.newest, "control_missing")
    assert press.publish(flag(Cutover.WARN)).control.serial == 13


def test_where_the_key_is_missing_or_others_can_read_it_nothing_is_published(
    office: Office,
) -> None:
    with pytest.raises(DeskError) as missing:
        office.press(private=False).publish(flag(Cutover.ON))
    assert missing.value.reason_code == "control_key_missing"
    (office.directory / "control.key").chmod(0o644)
    with pytest.raises(SigningKeyError):
        office.press().publish(flag(Cutover.ON))
    assert not office.path.exists()


def test_without_the_table_the_commands_say_how_to_make_it(office: Office) -> None:
    desk = office.desk()
    config = Path(str(desk.config))
    config.write_text(config.read_text().partition("[control]")[0])
    plain = Desk(str(config))
    with pytest.raises(DeskError) as refusal:
        press_of(plain)
    assert (refusal.value.exit_code, refusal.value.reason_code) == (USAGE, "control_not_configured")
    assert refusal.value.next_command == "rewrap control-key --out FILE"


def test_the_wait_is_as_long_as_the_ledger_says_and_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    control = Control(7, None, Cutover.ON, max_age_s=1)
    wait_until_obeyed(Publication(control, 0.3))
    said = capsys.readouterr().out
    assert "waiting 0 s more, until every application obeys control serial 7" in said
    assert said.endswith("every application obeys control serial 7\n")
    wait_until_obeyed(Publication(control, 0.0))
    wait_until_obeyed(Publication(control, 0.1), silently=True)
    assert capsys.readouterr().out == ""


def test_who_is_overtaken_after_the_scan_does_not_switch_on_unscanned() -> None:
    off = Control(3, None, Cutover.OFF)
    with pytest.raises(DeskError) as refusal:
        turned(off, Cutover.ON, None)  # it was on when we looked, so nobody scanned
    assert refusal.value.reason_code == "cutover_changed"
    assert turned(replace(off, cutover=Cutover.ON), Cutover.ON, None).cutover == "on"
