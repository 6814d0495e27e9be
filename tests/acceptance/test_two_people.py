"""Two people at two terminals, on real services: nothing dangerous is done by one alone."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.approving import KEY_FILE
from tests.nodes import Node, until
from tests.sites import Ran, Site, campaign_in

PEOPLE = ("alice", "bob")
ACTIONS = ("reencrypt", "undo", "restore", "cutover_on", "retry_quarantined", "retire")


def _people(site: Site) -> str:
    """Make a key for each person, and the table of what `approval-key` printed."""
    lines = [f"[approvals]\nrequired = {json.dumps(ACTIONS)}\n\n[approvals.people]"]
    for name in PEOPLE:
        made = site.rewrap("approval-key", "--out", str(key_of(site, name)))
        assert made.code == 0, made
        lines += [line for line in made.out.splitlines() if line.startswith("YOUR_NAME")]
        lines[-1] = lines[-1].replace("YOUR_NAME", name)
    return "\n".join(lines)


def key_of(site: Site, name: str) -> Path:
    return site.directory / f"{name}.key"


def types(site: Site, name: str, *words: str) -> Ran:
    return site.rewrap(*words, timeout_s=120, **{KEY_FILE: str(key_of(site, name))})


def approves(site: Site, asked: Ran) -> None:
    """Let the one who asked try to approve it, in vain, and then the other."""
    (words,) = re.findall(r"rewrap (approve \d+)", asked.out + asked.err)
    alone = types(site, "alice", *words.split(), "--yes")
    assert (alone.code, "[own_approval]" in alone.err) == (4, True), alone
    done = types(site, "bob", *words.split(), "--yes")
    assert (done.code, "approved by bob, asked for by alice" in done.out) == (0, True), done


def twice(site: Site, *words: str) -> Ran:
    """Type a command, have it refused and approved, and type it again."""
    refused = types(site, "alice", *words)
    assert (refused.code, "[approval_wanted]" in refused.err) == (4, True), refused
    assert "nothing was changed" in refused.err
    approves(site, refused)
    done = types(site, "alice", *words)
    assert done.code == 0, done
    return done


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("two-people", batch=50)
    control = site.rewrap("control-key", "--out", str(site.directory / "control.key")).out
    tables = f"{control}\nmax_age_s = 1\n\n[retire]\ndrain_s = 0\nsoak_s = 0\n\n{_people(site)}\n"
    site.config.write_text(f"{site.config.read_text()}\n{tables}")
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


@pytest.mark.timeout(300)
def test_undo_retire_cutover_and_restore_want_two_people(node: Node) -> None:
    site = node.site
    ids = site.make(30)
    migrated = campaign_in(types(site, "alice", "start", "migrate", "--yes", "--wait").out)
    _undo(node, migrated)
    again = campaign_in(types(site, "alice", "start", "migrate", "--yes", "--wait").out)
    assert types(site, "alice", "seal", str(again), "--yes", "--wait").code == 0
    assert "no legacy wrap any more" in twice(site, "cutover", "on", "--yes").out

    rotated = types(site, "alice", "rotate-kek", "--yes", "--wait")
    assert rotated.code == 0, rotated
    newest = max(d["campaign"] for d in site.ask("status") if d["kind"] == "rotate")
    assert types(site, "alice", "seal", str(newest), "--yes", "--wait").code == 0
    fresh = campaign_in(types(site, "alice", "backup", "create", "--wait").out)
    identity = ("--identity", str(site.identity))
    assert site.rewrap("backup", "verify", str(fresh), *identity).code == 0
    done = twice(site, "retire", site.version(1), "--accept-unopenable", "--yes")
    assert "is retired" in done.out
    assert site.wrong(ids) == []
    _restore(site, ids)
    node.close()
    _restore_alone(site, ids)


def _undo(node: Node, migrated: int) -> None:
    site = node.site
    asked = types(site, "alice", "undo", str(migrated), "--yes")
    assert asked.code == 0, asked
    undoing = campaign_in(asked.out)
    assert site.ask("status", str(undoing))["state"] == "awaiting_approval"
    (waiting,) = site.ask("approve")
    assert (waiting["plan"]["follows"], waiting["requested_by"]) == (migrated, "alice")
    approves(site, asked)
    until(lambda: site.ask("status", str(undoing))["state"] == "complete", "undone")


def _lose(site: Site) -> None:
    for path in sorted(site.store.rglob("wrapped*.blob.meta"))[:5]:
        path.unlink()


def _restore(site: Site, ids: list[str]) -> None:
    _lose(site)
    done = twice(site, "backup", "restore", "--identity", str(site.identity), "--yes")
    assert re.search(r"[1-9]\d* restored", done.out)
    assert site.wrong(ids) == []


def _restore_alone(site: Site, ids: list[str]) -> None:
    """With the ledger gone and nobody else awake, one person breaks the glass."""
    _lose(site)
    words = ("backup", "restore", "--identity", str(site.identity), "--yes")
    where = ("--from", (site.state / "backups").as_uri())
    refused = types(site, "alice", *words, *where)
    assert (refused.code, "--break-glass REASON" in refused.err) == (3, True), refused
    unknown = site.rewrap(*words, *where, "--break-glass", "the database is gone")
    assert (unknown.code, "[approval_key_wanted]" in unknown.err) == (2, True), unknown
    done = types(site, "alice", *words, *where, "--break-glass", "the database is gone")
    assert done.code == 0, done
    assert "BREAK GLASS: alice" in done.err
    assert "NOT IN THE LEDGER" in done.err
    assert site.wrong(ids) == []
    events = _approvals(site)
    assert events[-1]["reason"] == "the database is gone"
    assert events[-1]["outcome"] == "break_glass"


def _approvals(site: Site) -> list[dict[str, Any]]:
    files = (site.state / "audit").rglob("*.jsonl")
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted((e for e in events if e["event"] == "approval"), key=lambda e: e["time"])


TABLES = {
    "one person": ('required = ["undo"]', 'alice = "{0}"', "two people are needed"),
    "nobody": ('required = ["undo"]', "", "two people are needed"),
    "one key twice": ("", 'alice = "{0}"\nbob = "{0}"', "have the same key"),
    "no key": ("", 'alice = "AAAA"', "32 bytes of an Ed25519 public key"),
    "no name": ("", '"a b" = "{0}"', "[approvals]"),
    "an action that is none": ('required = ["fly"]', "", "[approvals]"),
    "a moment": ("expires_s = 1", "", "[approvals]"),
    "a word more": ("two = 2", "", "[approvals]"),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_protects_nobody_is_refused(node: Node, table: str) -> None:
    site = node.site
    rules, people, said = TABLES[table]
    public = re.findall(r'^alice = "(.*)"$', site.config.read_text(), re.MULTILINE)[0]
    head = site.config.read_text().partition("[approvals]")[0]
    config = site.directory / "wrong.toml"
    config.write_text(
        f"{head}\n[approvals]\n{rules}\n[approvals.people]\n{people.format(public)}\n"
    )
    ran = site.rewrap("status", REWRAP_CONFIG=str(config))
    assert (ran.code, said in ran.err, "Traceback" in ran.err) == (2, True, False), ran


def test_no_variable_lowers_the_guard(node: Node) -> None:
    site = node.site
    for name, value in (("REQUIRED", ""), ("BREAK_GLASS", "true"), ("EXPIRES_S", "99999")):
        variable = {f"REWRAP_APPROVALS_{name}": value}
        shown = site.rewrap("config", "show", **variable)
        assert '"undo"' in shown.out, shown
        assert "99999" not in shown.out
