"""The end of legacy unwrapping, as an operator types it, beside an application that obeys it."""

import json
import os
import signal
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keywrap.config import TABLES, KeywrapConfig, open_store
from keywrap.control import Control, Cutover, open_control
from keywrap.keys import KeyVersion
from tests.nodes import Node, until
from tests.sites import Ran, Site, campaign_in

AGE_S = 2
BLOBS = 50


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("cutover", batch=50)
    (site.directory / "control.toml").write_text(site.control(AGE_S))
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


@pytest.fixture
def site(node: Node) -> Site:
    return node.site


def obeyed(site: Site) -> Control:
    """Return what an application that starts now obeys."""
    table = tomllib.loads(site.config.read_text())
    config = KeywrapConfig.from_table({name: table[name] for name in TABLES if name in table})
    source = open_control(config, open_store(config))
    assert source is not None
    return source.current()


def refused(ran: Ran) -> dict[str, Any]:
    assert ran.code == 4, ran
    document: dict[str, Any] = ran.document
    assert document["reason_code"] == "legacy_wraps_remain"
    assert "nothing was changed" in document["reason"]
    assert document["next_command"].startswith("rewrap ")
    return document


def test_the_table_that_control_key_prints_is_the_whole_table(site: Site) -> None:
    printed = (site.directory / "control.toml").read_text()
    table = tomllib.loads(printed)["control"]
    assert set(table) == {"public_key", "store_id", "private_key_file"}
    key = site.directory / "control.key"
    assert table["private_key_file"] == str(key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().splitlines()[1] not in printed
    before = key.read_bytes()
    again = site.rewrap("control-key", "--out", str(key))
    assert (again.code, "already_there" in again.err) == (4, True), again
    assert key.read_bytes() == before
    nowhere = site.rewrap("control-key", "--out", str(site.directory / "no/such/control.key"))
    assert (nowhere.code, "next: mkdir -m 700" in nowhere.err) == (3, True), nowhere


def test_bad_words_and_a_missing_table_are_told_without_a_traceback(site: Site) -> None:
    wrong = site.rewrap("cutover", "maybe")
    assert (wrong.code, "Traceback" in wrong.err) == (2, False), wrong
    config = site.directory / "plain.toml"
    config.write_text(site.config.read_text().partition("[control]")[0])
    for words in (("status",), ("on", "--yes"), ("warn",)):
        ran = site.rewrap("cutover", *words, REWRAP_CONFIG=str(config))
        assert ran.code == 2, ran
        assert "control_not_configured" in ran.err
        assert "next: rewrap control-key --out FILE" in ran.err


def test_nothing_is_cut_off_before_anything_was_published(site: Site) -> None:
    document = site.ask("cutover", "status")
    assert (document["cutover"], document["serial"]) == ("off", 0)
    assert document["changes"] == []
    assert obeyed(site).cutover is Cutover.OFF


def test_the_rehearsal_needs_no_scan(site: Site) -> None:
    ran = site.rewrap("cutover", "warn")
    assert ran.code == 0, ran
    assert "raise an alert each time, from 20" in ran.out
    assert obeyed(site).cutover is Cutover.WARN
    document = site.ask("cutover", "status")
    assert (document["cutover"], document["serial"], document["scan"]) == ("warn", 1, None)
    (change,) = document["changes"]
    assert "@" in change["issued_by"]
    assert site.ask("status") == []


def test_without_a_terminal_and_without_yes_nothing_is_switched_on(site: Site) -> None:
    ran = site.rewrap("cutover", "on")
    assert (ran.code, "next: rewrap cutover on --yes" in ran.err) == (2, True), ran
    assert site.ask("status") == []


def test_it_is_refused_while_a_legacy_wrap_is_live_then_previous_then_hidden_and_then_on(
    site: Site, node: Node
) -> None:
    ids = site.make(BLOBS, "c/")
    live = refused(site.rewrap("cutover", "on", "--yes", "--json"))
    assert live["counts"] == {"scanned": BLOBS, "legacy": BLOBS, "previous": 0, "unreadable": 0}
    assert live["next_command"] == "rewrap start migrate --wait"
    assert node.document(live["scan"])["kind"] == "inventory"
    assert (live["cutover"], obeyed(site).cutover) == ("warn", Cutover.WARN)

    assert site.rewrap("start", "migrate", "--yes", "--wait").code == 0
    previous = refused(site.rewrap("cutover", "on", "--yes", "--json"))
    assert previous["counts"]["legacy"] == 0
    assert previous["counts"]["previous"] == BLOBS
    assert previous["scan"] > live["scan"]  # a fresh one each time

    rotated = site.rewrap("rotate-kek", "--yes", "--wait")
    assert rotated.code == 0, rotated
    assert "until every application obeys control serial 2" in rotated.out
    assert obeyed(site).primary == KeyVersion.parse(site.version(2))
    assert site.key_ids(ids) == {site.version(2)}

    broken = site.store / "c/adopter-broken.blob.meta"
    broken.write_bytes(b"{")
    plain = site.rewrap("cutover", "on", "--yes")
    assert (plain.code, "[legacy_wraps_remain]" in plain.err) == (4, True), plain
    assert "1 cannot be read" in plain.err
    assert obeyed(site).cutover is Cutover.WARN
    broken.unlink()

    ran = site.rewrap("cutover", "on", "--yes")
    assert ran.code == 0, ran
    assert "every application obeys control serial 3" in ran.out
    assert "min_serial = 3" in ran.out
    control = obeyed(site)
    assert (control.cutover, control.primary) == (Cutover.ON, KeyVersion.parse(site.version(2)))
    assert site.wrong(ids) == []


def test_switched_on_already_it_is_not_scanned_for_again(site: Site) -> None:
    assert obeyed(site).cutover is Cutover.ON
    scans = len(site.ask("status"))
    document = site.ask("cutover", "on")
    assert (document["cutover"], document["serial"], document["obeyed_in_s"]) == ("on", 3, 0.0)
    assert len(site.ask("status")) == scans


def test_a_control_file_that_was_put_back_is_told_and_mended(site: Site) -> None:
    path = site.store / ".rewrap/control.json"
    on = path.read_bytes()
    assert site.rewrap("cutover", "off").code == 0
    path.write_bytes(on)
    ran = site.rewrap("cutover", "status", "--json")
    assert (ran.code, ran.document["reason_code"]) == (1, "control_rolled_back"), ran
    assert ran.document["cutover"] == "off"
    mended = site.ask("cutover", "off")
    assert mended["serial"] == 5
    assert site.ask("cutover", "status")["reason_code"] is None
    assert [change["serial"] for change in site.ask("cutover", "status")["changes"]] == [
        5, 4, 3, 2, 1,
    ]  # fmt: skip


def test_a_forged_control_file_stops_rotation_and_cutover_and_makes_no_version(site: Site) -> None:
    path = site.store / ".rewrap/control.json"
    sound, latest = path.read_bytes(), site.latest_version
    path.write_text(json.dumps(json.loads(sound) | {"cutover": "on"}))
    try:
        for words in (("cutover", "warn"), ("cutover", "on", "--yes"), ("rotate-kek", "--yes")):
            ran = site.rewrap(*words)
            assert (ran.code, "[control_forged]" in ran.err) == (4, True), ran
            assert "Traceback" not in ran.err
        status = site.rewrap("cutover", "status")
        assert (status.code, "[control_forged]" in status.err) == (1, True), status
    finally:
        path.write_bytes(sound)
    assert site.latest_version == latest


def test_a_rotation_killed_while_it_waits_goes_on_and_makes_no_second_version(
    site: Site, node: Node
) -> None:
    latest = site.latest_version
    command = site.start("rotate-kek", "--yes")
    with command:
        until(lambda: obeyed(site).primary == KeyVersion.parse(site.version(latest + 1)), "told")
        os.killpg(command.pid, signal.SIGKILL)
    status = site.ask("rotate-kek", "--status")
    assert status["step"] in {"made", "published"}  # it may have died before it noted that
    assert status["to"] == site.version(latest + 1)
    ran = site.rewrap("rotate-kek", "--yes")
    assert ran.code == 0, ran
    node.reach(campaign_in(ran.out), "complete")
    assert site.latest_version == latest + 1
    over = site.ask("rotate-kek", "--status")
    assert (over["step"], over["campaign"]) == ("over", campaign_in(ran.out))
    assert site.rewrap("rotate-kek", "--json").code == 2
