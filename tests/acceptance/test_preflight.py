"""The checklist as an operator types it: a sound installation, and each line made to fail once."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hvac
import pytest

from embedded import Postgres
from keywrap.config import open_store
from keywrap.control import Control, open_control_file
from keywrap.controlfile import FIRST
from keywrap.keys import KeyVersion
from keywrap.signing import SigningKey
from keywrap.testing.dpapi import Account, WrappingDpapiProvider
from tests.nodes import Node
from tests.preflights import CASES, PASSWORD, Case
from tests.sites import Ran, Site
from workers.settings import load

KEYS_OF_A_LINE = {"name", "status", "sentence", "reason_code", "next_command", "seconds"}
RING = """
[keys.dpapi.here]
mode = "ring"
ring = "{ring}"
"""


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("preflight")
    account, ring = Account(), site.directory / "here.ring.json"
    account.ring().write(ring)
    site.config.write_text(site.config.read_text() + RING.format(ring=ring))
    site._legacy = replace(site._legacy, more={"dpapi": WrappingDpapiProvider(account)})
    site.make(30)
    site.control(max_age_s=1)
    client = hvac.Client(url=site.bao.address, token=site.bao.token, timeout=5)
    client.secrets.transit.create_key("preflight-plain")
    client.adapter.close()
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


@pytest.fixture(scope="module")
def sound(node: Node) -> Ran:
    """What a sound installation is answered."""
    for words in (("inventory",), ("cutover", "off")):
        ran = node.site.rewrap(*words)
        assert ran.code == 0, ran
    before = everything_in(node.site.store)
    ran = node.site.rewrap("preflight", "--json")
    assert everything_in(node.site.store) == before
    return ran


def everything_in(folder: Path) -> dict[str, bytes]:
    """Return every file but the locks of a folder, which are empty and stay."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks"]
    return {str(path): path.read_bytes() for path in files}


def lines_of(ran: Ran) -> dict[str, dict[str, Any]]:
    lines = ran.document["checks"]
    assert ran.document.keys() == {"passed", "checks"}
    assert all(line.keys() == KEYS_OF_A_LINE for line in lines)
    return {line["name"]: line for line in lines}


def test_a_sound_installation_passes_and_nothing_in_its_store_is_changed(
    node: Node, sound: Ran
) -> None:
    assert sound.code == 0, sound
    assert sound.err == ""
    assert sound.document["passed"] is True
    kek = f"hcvault://transit/{node.site.kek}"
    assert {name: line["status"] for name, line in lines_of(sound).items()} == {
        "configuration": "pass",
        "secrets": "pass",
        "retire waits": "pass",
        "ledger": "pass",
        "clock": "pass",
        "broker": "warn",  # the embedded one is old
        "scheduler": "pass",
        "workers of queue rewrap": "pass",
        "workers' settings": "pass",
        "disk": "pass",
        "backup place": "pass",
        "backup drill": "skip",
        "store": "pass",
        "conditional writes": "pass",
        "control file": "pass",
        "readers' version": "skip",  # none was published
        "primary": "pass",
        f"key {kek}": "pass",
        f"binding of {kek}": "pass",
        "legacy key env:BLOB_KEY": "pass",
        "legacy key env:BLOB_WRAP_KEY": "pass",
        "legacy keys of [keys.dpapi.here]": "pass",
        "audit trail": "pass",
        "audit head": "warn",  # none is signed without [audit] public_key
        "staging sample": "pass",
    }
    assert lines_of(sound)["staging sample"]["sentence"].startswith("20 of 20 blobs open")


def test_a_person_reads_a_line_for_each_check_and_what_mends_it(node: Node, sound: Ran) -> None:
    ran = node.site.rewrap("preflight", "--sample", "5", BAO_TOKEN=PASSWORD)
    assert ran.code == 1, ran
    names = lines_of(sound).keys()
    lines = ran.out.splitlines()
    for name in names:
        assert any(line[2:].startswith(f"{name}: ") for line in lines), name
    again = lines.index("", len(names))
    failure = next(line for line in lines[again:] if line.startswith("✗ key hcvault"))
    assert "[" not in failure
    assert lines[lines.index(failure, again) + 1].startswith("  next: ")
    assert lines[-1].endswith("3 not checked")
    assert PASSWORD not in ran.out + ran.err


@pytest.fixture(scope="module")
def ask(node: Node, sound: Ran, postgres: Postgres) -> Callable[[Case], Ran]:
    """Ask about what is wrong in one case."""
    assert sound.code == 0
    site = node.site
    empty = postgres.url_of(f"empty_{uuid.uuid4().hex[:8]}")

    def asked(case: Case) -> Ran:
        folder = site.directory / uuid.uuid4().hex
        folder.mkdir()
        config = folder / "rewrap.toml"
        # The services are found below the state directory, which a configuration names.
        text = f'state_dir = "{site.state}"\n{site.config.read_text()}'
        config.write_text(case.edit(text))
        changes = {name: empty if v == "EMPTY" else v for name, v in case.environment.items()}
        kept = dict(site.environment)
        try:
            for name in [name for name, value in changes.items() if value is None]:
                del site.environment[name]
            given = {name: value for name, value in changes.items() if value is not None}
            return site.rewrap("preflight", "--json", REWRAP_CONFIG=str(config), **given)
        finally:
            site.environment = kept
            shutil.rmtree(folder)

    return asked


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_one_line_with_what_mends_it(
    ask: Callable[[Case], Ran], node: Node, name: str
) -> None:
    case = CASES[name]
    kek = node.site.kek
    ran = ask(case)
    lines = lines_of(ran)
    line = lines[case.name.format(kek=kek)]
    assert (line["status"], line["reason_code"]) == (case.status, case.reason_code), line
    assert case.mend in line["next_command"], line
    assert ran.code == case.code, ran
    assert ran.document["passed"] is (case.code == 0)
    for absent in case.absent:
        skipped = lines[absent.format(kek=kek)]
        assert (skipped["status"], skipped["reason_code"]) == ("skip", "needs_another"), skipped
    assert ran.err == ""
    assert PASSWORD not in ran.out


def test_a_wrong_legacy_key_is_the_failure_of_that_key_alone(ask: Callable[[Case], Ran]) -> None:
    lines = lines_of(ask(CASES["a legacy key is another"]))
    assert lines["legacy key env:BLOB_WRAP_KEY"]["status"] == "pass"
    assert lines["legacy keys of [keys.dpapi.here]"]["status"] == "pass"


@pytest.mark.parametrize("right", ["", "encrypt", "decrypt"])
def test_a_token_that_may_do_only_part_of_it_is_told(
    ask: Callable[[Case], Ran], node: Node, right: str
) -> None:
    kek = node.site.kek
    rules = f'path "transit/keys/{kek}" {{ capabilities = ["read"] }}\n'
    rules += f'path "transit/{right}/{kek}" {{ capabilities = ["update"] }}\n' if right else ""
    client = hvac.Client(url=node.site.bao.address, token=node.site.bao.token, timeout=5)
    client.sys.create_or_update_policy(f"part-{right}", rules)
    token = client.auth.token.create(policies=[f"part-{right}"])["auth"]["client_token"]
    client.adapter.close()
    ran = ask(Case("", "", "", environment={"BAO_TOKEN": token}))
    line = lines_of(ran)[f"key hcvault://transit/{kek}"]
    assert ran.code == 1, "the key service has answered"
    assert (line["status"], line["reason_code"]) == ("fail", "permission_denied"), line


def test_a_ledger_that_no_scheduler_and_no_inventory_touched_says_both(
    ask: Callable[[Case], Ran], ledger_url: str
) -> None:
    ran = ask(Case("", "", "", environment={"REWRAP_LEDGER_URL": ledger_url}))
    lines = lines_of(ran)
    assert ran.code == 3
    assert lines["scheduler"]["reason_code"] == "no_scheduler"
    assert lines["scheduler"]["next_command"] == "rewrap scheduler"
    legacy = lines["legacy key env:BLOB_KEY"]
    assert (legacy["status"], legacy["reason_code"]) == ("warn", "no_inventory")
    assert legacy["next_command"] == "rewrap inventory"
    assert lines["staging sample"]["sentence"].startswith("20 of 20"), "the store was listed"


def publish(site: Site, edit: Callable[[Control], Control]) -> None:
    settings = load(str(site.config), site.environment).keywrap
    file = open_control_file(settings, open_store(settings))
    key = SigningKey.load(site.directory / "control.key")
    file.publish(key, edit, by="tests", known=FIRST)


def test_a_published_version_that_opens_nothing_is_told_before_readers_meet_it(
    node: Node, sound: Ran
) -> None:
    site = node.site
    kek = f"hcvault://transit/{site.kek}"
    assert sound.code == 0
    publish(site, lambda base: replace(base, primary=KeyVersion(kek, "1")))
    assert lines_of(site.rewrap("preflight", "--json"))["readers' version"]["status"] == "pass"
    publish(site, lambda base: replace(base, primary=KeyVersion(kek, "7")))
    ran = site.rewrap("preflight", "--json")
    line = lines_of(ran)["readers' version"]
    assert ran.code == 3
    assert (line["status"], line["reason_code"]) == ("fail", "version_not_in_use")


def test_a_control_file_that_was_put_back_is_told(node: Node, sound: Ran) -> None:
    site = node.site
    assert sound.code == 0
    file = site.store / ".rewrap" / "control.json"
    old = file.read_bytes()
    assert site.rewrap("cutover", "warn").code == 0
    new = file.read_bytes()
    file.write_bytes(old)
    ran = site.rewrap("preflight", "--json")
    file.write_bytes(new)
    line = lines_of(ran)["control file"]
    assert (line["status"], line["reason_code"]) == ("fail", "control_rolled_back")
    assert line["next_command"].startswith("rewrap cutover ")
