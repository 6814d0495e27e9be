"""The audit trail of whole campaigns, as an auditor looks at it, and as an attacker leaves it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import Node, until
from tests.sites import Ran, Site

BLOBS = 60


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("audit", batch=20)
    made = site.rewrap("audit", "key", "--out", str(site.directory / "audit.key"))
    assert made.code == 0, made
    site.config.write_text(f"{site.config.read_text()}\n{made.out}\nhead_every_s = 1\n")
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


@pytest.fixture(scope="module")
def campaign(node: Node) -> int:
    """A migration that is done, whose trail is chained and signed."""
    site = node.site
    site.make(BLOBS)
    started = site.campaign("migrate")
    node.reach(started, "complete")
    until(lambda: is_signed_whole(site), "its head is signed by the scheduler")
    return started


@pytest.fixture
def site(node: Node, campaign: int) -> Site:
    assert campaign
    return node.site


def is_signed_whole(site: Site) -> bool:
    found = site.rewrap("audit", "verify", "--json").document
    head = found["head"]
    return bool(head and head["entries"] == found["segments"] and not found["unchained"])


def segments(site: Site) -> list[Path]:
    return sorted((site.state / "audit").glob("*/*.jsonl"))


def found(site: Site, *arguments: str) -> list[tuple[str, str]]:
    """Return the faults, which both ways of asking tell alike."""
    ran = site.rewrap("audit", "verify", *arguments, "--json")
    plain = site.rewrap("audit", "verify", *arguments)
    faults = [(fault["kind"], fault["segment"]) for fault in ran.document["faults"]]
    assert ran.code == plain.code == (1 if faults else 0), plain
    assert all(kind in plain.out and segment in plain.out for kind, segment in faults)
    return faults


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def exported(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_a_trail_that_nobody_touched_has_no_faults_and_a_signed_head(site: Site) -> None:
    document = site.ask("audit", "verify")
    assert document["clean"] is True
    assert document["faults"] == []
    assert document["signed"] is True
    assert document["head"]["entries"] == document["segments"] == len(segments(site))
    assert document["unclaimed"] == []
    plain = site.rewrap("audit", "verify")
    assert plain.code == 0
    assert "no faults" in plain.out


def test_the_export_holds_every_use_of_a_key_for_every_blob(site: Site, campaign: int) -> None:
    ran = site.rewrap("audit", "export", "--campaign", str(campaign))
    assert ran.code == 0, ran
    events = exported(ran)
    counts = Counter(event["event"] for event in events)
    assert counts["decided"] == BLOBS
    # The canary opens a sample, here all of them, before the first is moved.
    assert counts["unwrap"] == counts["wrap"] == counts["prove"] >= BLOBS
    wraps = [event for event in events if event["event"] == "wrap"]
    assert {event["key_id"] for event in wraps} == {site.version(1)}
    assert len({event["blob_id"] for event in wraps}) == BLOBS
    file = site.directory / "export.jsonl"
    again = site.rewrap("audit", "export", "--campaign", str(campaign), "--out", str(file))
    assert again.code == 0
    assert file.read_text() == ran.out


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("edited", lambda data: data.replace(b'"ok"', b'"no"', 1)),
        ("truncated", lambda data: data[: data.rindex(b"\n", 0, -1) + 1]),
        ("missing", lambda _data: None),
    ],
)
def test_a_segment_that_somebody_changed_is_named_and_not_exported(
    site: Site, campaign: int, kind: str, damage: Callable[[bytes], bytes | None]
) -> None:
    whole = exported(site.rewrap("audit", "export", "--campaign", str(campaign)))
    path = segments(site)[0]
    before = path.read_bytes()
    path.unlink()
    damaged = damage(before)
    if damaged is not None:
        path.write_bytes(damaged)
    try:
        assert found(site) == [(kind, name_of(path))]
        ran = site.rewrap("audit", "export", "--campaign", str(campaign))
        assert ran.code == 1
        assert kind in ran.err
        assert len(exported(ran)) == len(whole) - before.count(b"\n")
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(before)
    assert found(site) == []


def test_segments_of_several_machines_are_looked_for_in_each_folder(site: Site) -> None:
    path = segments(site)[0]
    other = site.directory / "other" / path.parent.name
    other.mkdir(parents=True)
    moved = path.rename(other / path.name)
    try:
        assert found(site) == [("missing", name_of(path))]
        both = ("--directory", str(site.state / "audit"), "--directory", str(other.parent))
        assert found(site, *both) == []
    finally:
        moved.rename(path)


def test_a_file_that_the_ledger_does_not_know_is_counted_and_no_fault(site: Site) -> None:
    orphan = segments(site)[0].with_name("99-1-0-00000000.jsonl")
    orphan.write_text("{}\n")
    try:
        assert site.ask("audit", "verify")["unclaimed"] == [name_of(orphan)]
        assert "1 files are unclaimed" in site.rewrap("audit", "verify").out
    finally:
        orphan.unlink()


def test_a_head_that_was_kept_must_be_on_the_chain(site: Site) -> None:
    printed = site.rewrap("audit", "head")
    assert printed.code == 0, printed
    head = printed.out.split()[-1]
    assert found(site, "--head", head) == []
    entries, _, hashed = head.partition(":")
    other = f"{entries}:{hashed[::-1]}"
    assert [kind for kind, _ in found(site, "--head", other)] == ["head_mismatch"]


def test_a_head_that_was_forged_or_removed_is_found(site: Site) -> None:
    file = site.store / ".rewrap" / "audit-head.json"
    before = file.read_bytes()
    file.write_bytes(before.replace(b'"entries":', b'"entries":1'))
    try:
        assert [kind for kind, _ in found(site)] == ["head_not_trusted"]
        refused = site.rewrap("audit", "head", "--json")
        assert refused.code == 4
        assert refused.document["reason_code"] == "audit_head_forged"
        assert refused.document["next_command"] == "rewrap audit verify"
    finally:
        file.write_bytes(before)
    assert found(site) == []


def test_a_ledger_that_was_changed_and_chained_anew_does_not_fit_the_head(
    node: Node, site: Site
) -> None:
    with node.ledger.begin() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM audit_segment ORDER BY id").all()
        connection.exec_driver_sql("DELETE FROM audit_segment WHERE id = %s", (rows[0].id,))
        connection.exec_driver_sql(
            "UPDATE audit_segment SET place = NULL, previous = NULL, hash = NULL"
        )
    until(lambda: not site.rewrap("audit", "verify", "--json").document["unchained"], "chained")
    kinds = {kind for kind, _ in found(site)}
    assert kinds == {"chain_cut"}
    refused = site.rewrap("audit", "head")
    assert refused.code == 4
    assert "audit_chain_rolled_back" in refused.err
    with node.ledger.begin() as connection:
        connection.exec_driver_sql("DELETE FROM audit_segment")
        for row in rows:
            values = dict(row._mapping)
            names = ", ".join(values)
            marks = ", ".join(f"%({name})s" for name in values)
            connection.exec_driver_sql(
                f"INSERT INTO audit_segment ({names}) OVERRIDING SYSTEM VALUE VALUES ({marks})",  # noqa: S608
                values,
            )
    assert found(site) == []


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("verify", "--directory", "nowhere"), 2, "usage"),
        (("verify", "--head", "7:abc"), 2, "usage"),
        (("export",), 2, "usage"),
        (("export", "--campaign", "9999"), 2, "no_such_campaign"),
        (("export", "--campaign", "1", "--out", "no/such/folder/f"), 3, "file_not_writable"),
        (("key", "--out", "audit.key"), 4, "already_there"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason_and_the_next_step(
    site: Site, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    ran = site.rewrap("audit", *arguments)
    assert ran.code == code, ran
    assert reason in ran.err
    assert "next: " in ran.err
    assert "Traceback" not in ran.err


def test_without_a_key_verify_says_that_nothing_is_signed(site: Site) -> None:
    config = site.directory / "unsigned.toml"
    text = site.config.read_text()
    config.write_text(text[: text.index("[audit]")])
    ran = site.rewrap("audit", "verify", REWRAP_CONFIG=str(config))
    assert ran.code == 0
    assert "no head is signed" in ran.out
    refused = site.rewrap("audit", "head", REWRAP_CONFIG=str(config))
    assert refused.code == 2
    assert "audit_key_missing" in refused.err


def test_the_environment_does_not_say_whose_signature_counts(site: Site) -> None:
    ran = site.rewrap("audit", "verify", "--json", REWRAP_AUDIT_PUBLIC_KEY="x" * 44)
    assert ran.document["clean"] is True
