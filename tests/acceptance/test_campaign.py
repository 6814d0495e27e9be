import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.nodes import Node, assert_balanced, until
from tests.roads import Road
from tests.sites import Site, campaign_in

CONTRACT = {
    "campaign",
    "kind",
    "state",
    "reason_code",
    "reason",
    "next_command",
    "target",
    "counts",
    "rate_per_s",
    "eta_s",
    "forecast",
    "pace",
    "kms_requests",
    "unsealed",
    "pending_approvals",
    "started_at",
    "finished_at",
}
COUNTS = {
    "scanned",
    "pending",
    "rewrapped",
    "current",
    "excluded",
    "conflict",
    "gone",
    "quarantined",
    "failed",
}
BLOBS = 600


@pytest.fixture(scope="session")
def migrated() -> dict[str, list[str]]:
    """The blobs of `m/`, once they are migrated."""
    return {}


@pytest.fixture
def blobs(acceptance: Node, migrated: dict[str, list[str]]) -> list[str]:
    """Migrated blobs of all legacy kinds, under `m/`."""
    site = acceptance.site
    if "m/" not in migrated:
        ids = site.make(BLOBS, "m/")
        adopters = [b for b in ids if b.startswith("m/adopter")]
        with site.watch(ids) as watch, site.watch(adopters, site.old_application()) as before:
            ran = site.rewrap("start", "migrate", "--prefix", "m/", "--yes", "--wait")
        assert ran.code == 0, ran
        assert watch.failures == before.failures == []
        assert min(watch.reads, before.reads) > 50
        assert watch.fallbacks == 0
        document = site.ask("status", str(campaign_in(ran.out)))
        assert document["counts"]["rewrapped"] == BLOBS
        migrated["m/"] = ids
    return migrated["m/"]


def newest(site: Site, kind: str) -> dict[str, object]:
    return next(d for d in site.ask("status") if d["kind"] == kind)


def test_a_migration_moves_every_legacy_blob_and_each_still_is_its_original(
    acceptance: Node, blobs: list[str]
) -> None:
    site = acceptance.site
    assert site.wrong(blobs) == []
    assert site.key_ids(blobs) == {site.version(1)}


def test_an_application_that_knows_nothing_of_us_still_reads_what_was_migrated(
    acceptance: Node, blobs: list[str]
) -> None:
    site, old = acceptance.site, acceptance.site.old_application()
    adopters = [b for b in blobs if b.startswith("m/adopter")]
    assert len(adopters) > BLOBS // 10
    assert [b for b in adopters if old.open(b) != site.original(b)] == []


def test_a_migrated_sidecar_is_bound_to_its_blob_and_keeps_the_old_wrap_and_foreign_fields(
    acceptance: Node, blobs: list[str]
) -> None:
    reader = acceptance.site.reader()
    records = [reader.sidecar(blob_id) for blob_id in blobs]
    reader.close()
    assert {r["context"]["blob_id"] for r in records} == set(blobs)
    legacy = {r["previous"]["key_id"] for r in records}
    assert legacy == {"env:BLOB_KEY", "env:BLOB_WRAP_KEY"}
    # Fields that are not ours survive.
    assert sum("plaintext_size" in r for r in records) == BLOBS * 2 // 5
    assert sum(r.get("tenant") == {"name": "Zoë", "ratio": 1.10} for r in records) == BLOBS * 2 // 5


def test_the_status_document_has_the_keys_of_the_contract_and_its_counts_balance(
    acceptance: Node, blobs: list[str]
) -> None:
    site = acceptance.site
    listed = newest(site, "migrate")
    document = site.ask("status", str(listed["campaign"]))
    assert document == listed
    assert set(document) == CONTRACT | {"failures", "verified", "proves", "freed_bytes"}
    assert set(document["counts"]) == COUNTS
    assert_balanced(document, len(blobs))
    assert document["state"] == "complete"
    assert document["target"] == site.version(1)
    assert document["unsealed"] == len(blobs)
    assert document["failures"] == []
    assert 0 < document["kms_requests"] < len(blobs) / 10  # batched
    assert document["started_at"] < document["finished_at"]


def test_the_same_campaign_again_finds_all_current_and_writes_nothing(
    acceptance: Node, blobs: list[str]
) -> None:
    site = acceptance.site
    before = site.fingerprint("m")
    assert len(before) == 2 * len(blobs)
    ran = site.rewrap("start", "migrate", "--prefix", "m/", "--yes", "--wait")
    assert ran.code == 0, ran
    document = acceptance.document(campaign_in(ran.out))
    assert document["counts"]["current"] == len(blobs)
    assert_balanced(document, len(blobs))
    assert site.fingerprint("m") == before


def test_verify_opens_a_sample_or_all_and_tells_a_damaged_blob(
    acceptance: Node, blobs: list[str]
) -> None:
    site = acceptance.site
    sampled = site.ask("verify", "--sample", "100", "--prefix", "m/")
    assert sampled["counts"]["current"] == 100
    assert_balanced(sampled, 100)
    content = site.store / f"{next(b for b in blobs if 'wrapped' in b)}.blob"
    whole = content.read_bytes()
    content.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        ran = site.rewrap("verify", "--all", "--prefix", "m/", "--json")
    finally:
        content.write_bytes(whole)
    assert ran.code == 1
    assert_balanced(ran.document, len(blobs))
    assert ran.document["counts"]["quarantined"] == 1
    assert [f["reason_code"] for f in ran.document["failures"]] == ["content_does_not_open"]
    ran = site.rewrap("verify", "--all", "--prefix", "m/")
    assert (ran.code, "complete" in ran.out) == (0, True), ran


def assert_droppable(site: Site, inventory: str) -> None:
    """See that the lists of an inventory can be dropped, and that commands say so afterwards."""
    ran = site.rewrap("ledger", "drop", inventory)
    assert (ran.code, "[yes_wanted]" in ran.err) == (2, True), ran
    ran = site.rewrap("ledger", "drop", inventory, "--yes")
    assert (ran.code, f"next: rewrap status {inventory}" in ran.out) == (0, True), ran
    assert site.rewrap("ledger", "drop", "99999999999", "--yes").code == 2
    for words in (("blobs", inventory), ("ledger", "drop", inventory, "--yes")):
        ran = site.rewrap(*words)
        assert (ran.code, "[lists_dropped]" in ran.err) == (4, True), ran
    assert site.ask("status", inventory)["counts"]["scanned"] > 0, "its counts stay"


def test_an_inventory_is_exported_whole_with_odd_ids_as_they_are(
    acceptance: Node, tmp_path: Path
) -> None:
    site = acceptance.site
    odd = ['odd/adopter-"quoted", with commas', "odd/wrapped-☃ snow", "odd/adopter-Ω=1;2"]
    odd += ["odd/wrapped-'='+cmd", "odd/adopter-empty"]
    site.make_named(odd)
    (site.store / "odd/line\nbreak.blob").write_bytes(b"x")
    (site.store / "odd/adopter-broken.blob.meta").write_bytes(b"{")
    every = {*odd, "odd/line\nbreak", "odd/adopter-broken"}
    csv_file, jsonl_file = tmp_path / "blobs.csv", tmp_path / "blobs.jsonl"
    ran = site.rewrap("inventory", "--prefix", "odd/", "--export", str(csv_file))
    assert ran.code == 0, ran
    document = site.ask("inventory", "--prefix", "odd/", "--export", str(jsonl_file))
    with csv_file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert rows == [json.loads(line) for line in jsonl_file.read_text().splitlines()]
    assert {row["blob_id"] for row in rows} == every
    assert len(rows) == len(every) == document["scanned"]
    ran = site.rewrap("inventory", "--prefix", "odd/", "--export", str(tmp_path / "b.parquet"))
    assert ran.code == 0, ran
    assert {
        row["blob_id"] for row in parquet.read_table(tmp_path / "b.parquet").to_pylist()
    } == every
    ran = site.rewrap("inventory", "--prefix", "odd/", "--export", str(tmp_path / "none/b.csv"))
    assert ran.code == 3
    assert "no part of it was left: No such file or directory [file_not_writable]" in ran.err
    first = str(document["campaign"])
    listed = site.ask("inventory", "--prefix", "odd/", "--from", str(csv_file))
    assert_droppable(site, first)
    assert (listed["listed"], listed["scanned"]) == (len(every), len(every))
    assert listed["by_key"] == document["by_key"]
    few = tmp_path / "few.txt"
    few.write_text(f"{odd[1]}\n{odd[1]}\nodd/gone\nelse/where\n", encoding="utf-8")
    ran = site.rewrap("inventory", "--prefix", "odd/", "--from", str(few))
    assert ran.code == 0, ran
    assert f"2 blobs named by {few}; what it leaves out is not looked at" in ran.out
    assert "1 of the blobs that the list names are not in the store" in ran.out
    for text in ("", "else/where\n"):
        few.write_text(text, encoding="utf-8")
        ran = site.rewrap("inventory", "--prefix", "odd/", "--from", str(few))
        assert (ran.code, "names no blob" in ran.err, "[source_empty]" in ran.err) == (
            2,
            True,
            True,
        ), ran
    by_id = {row["blob_id"]: row for row in rows}
    assert by_id["odd/adopter-broken"]["problem"] == "sidecar_not_json"
    assert by_id["odd/line\nbreak"]["problem"] == "blob_id_control_character"
    assert by_id["odd/wrapped-☃ snow"]["key_id"] == "env:BLOB_WRAP_KEY"
    assert sum(line["blobs"] for line in document["by_key"]) == len(every)
    site.remove("odd")


def test_a_second_campaign_over_the_same_blobs_is_refused(acceptance: Node) -> None:
    site = acceptance.site
    site.make(10, "two/a/")
    scheduler = acceptance.process("scheduler")
    scheduler.suspend()  # nothing moves while we look
    try:
        first = site.campaign("migrate", "--prefix", "two/a/")
        count = len(site.ask("status"))
        for overlapping in ("two/", "two/a/", "two/a/wrapped"):
            ran = site.rewrap("start", "migrate", "--prefix", overlapping, "--yes")
            assert ran.code == 4, ran
            assert "already_open" in ran.err
            assert f"next: rewrap status {first}" in ran.err
        assert len(site.ask("status")) == count
        assert site.rewrap("start", "migrate", "--prefix", "two/b/", "--yes").code == 0
    finally:
        scheduler.resume()
    acceptance.reach(first, "complete")


def test_without_a_terminal_and_without_yes_nothing_is_started(
    acceptance: Node, blobs: list[str]
) -> None:
    site = acceptance.site
    before, latest, count = site.fingerprint("m"), site.latest_version, len(site.ask("status"))
    for words in (("start", "migrate"), ("start", "rotate"), ("rotate-kek",)):
        ran = site.rewrap(*words)
        assert ran.code == 2, ran
        assert f"next: rewrap {' '.join(words)} --yes" in ran.err
    assert len(site.ask("status")) == count
    assert site.latest_version == latest
    assert site.fingerprint("m") == before
    assert blobs


def test_a_campaign_is_paused_between_two_batches_and_resumed(acceptance: Node, road: Road) -> None:
    site = acceptance.site
    ids = site.make(BLOBS, "p/")
    road.delay_s = 0.4
    campaign_id = site.campaign("migrate", "--prefix", "p/")
    acceptance.reach(campaign_id, "running")
    assert site.rewrap("pause", str(campaign_id)).code == 0
    paused = acceptance.reach(campaign_id, "paused")
    assert paused["reason_code"] == "paused_by_operator"
    assert paused["next_command"] == f"rewrap resume {campaign_id}"
    assert 0 < paused["counts"]["pending"] < BLOBS
    assert paused["counts"]["scanned"] == BLOBS
    moved = [b for b in ids if site.key_ids([b]) == {site.version(acceptance.site.latest_version)}]
    assert len(moved) == paused["counts"]["rewrapped"]  # what is done is recorded
    time.sleep(1)
    assert acceptance.document(campaign_id)["counts"] == paused["counts"]
    assert site.wrong(ids) == []
    road.delay_s = 0.0
    assert site.rewrap("resume", str(campaign_id)).code == 0
    document = acceptance.reach(campaign_id, "complete")
    assert document["counts"]["rewrapped"] == BLOBS
    assert site.wrong(ids) == []
    site.remove("p")
    for wish in ("pause", "resume", "cancel", "retry"):
        ran = site.rewrap(wish, str(campaign_id))
        assert (ran.code, "wrong_state" in ran.err) == (4, True), ran
    ran = site.rewrap("pause", "999999")
    assert (ran.code, "no_such_campaign" in ran.err) == (2, True), ran


def test_a_cancelled_campaign_keeps_what_it_has_moved_and_every_blob_opens(
    acceptance: Node, road: Road
) -> None:
    site = acceptance.site
    ids = site.make(BLOBS, "c/")
    road.delay_s = 0.4
    campaign_id = site.campaign("migrate", "--prefix", "c/")
    acceptance.reach(campaign_id, "running")
    assert site.rewrap("cancel", str(campaign_id)).code == 0
    until(lambda: acceptance.document(campaign_id).get("finished_at"), "cancelled")
    document = site.ask("status", str(campaign_id))
    assert document["state"] == "cancelled"
    assert 0 < document["counts"]["rewrapped"] < BLOBS
    assert site.wrong(ids) == []
    pending = site.ask("blobs", str(campaign_id))
    assert len(pending) == BLOBS
    assert sum(b["outcome"] == "pending" for b in pending) == document["counts"]["pending"]
    road.delay_s = 0.0
    again = site.rewrap("start", "migrate", "--prefix", "c/", "--yes", "--wait")
    assert again.code == 0, again
    counts = acceptance.document(campaign_in(again.out))["counts"]
    assert counts["current"] == document["counts"]["rewrapped"]
    assert counts["rewrapped"] == BLOBS - counts["current"]
    site.remove("c")


def test_a_rotation_moves_every_wrap_to_one_new_version(acceptance: Node, blobs: list[str]) -> None:
    site = acceptance.site
    latest = site.latest_version
    with site.watch(blobs) as watch:
        ran = site.rewrap("rotate-kek", "--yes", "--wait")
    assert ran.code == 0, ran
    assert watch.failures == []
    assert watch.reads > 50
    assert site.latest_version == latest + 1
    assert site.key_ids(blobs) == {site.version(latest + 1)}
    assert site.wrong(blobs) == []
    document = acceptance.document(campaign_in(ran.out))
    assert document["kind"] == "rotate"
    assert document["verified"] >= 500
    assert_balanced(document, document["counts"]["scanned"])


def test_a_rotation_cut_off_after_the_kms_made_the_version_is_taken_up(
    acceptance: Node, road: Road, blobs: list[str]
) -> None:
    site = acceptance.site
    latest = site.latest_version
    road.delay_s = 0.8  # the answer to the command's next question is that far away
    command = site.start("rotate-kek", "--yes")
    with command:
        until(lambda: site.latest_version == latest + 1, "the version is made", every_s=0.01)
        os.killpg(command.pid, signal.SIGKILL)
    road.delay_s = 0.2
    first = site.rewrap("rotate-kek", "--yes")
    assert "took up" in first.out, first
    # Two more, both at once, while its campaign is open.
    with site.start("rotate-kek", "--yes") as one, site.start("rotate-kek", "--yes") as two:
        said = [one.communicate()[0], two.communicate()[0]]
    campaign_id = campaign_in(first.out)
    assert not acceptance.document(campaign_id)["finished_at"]
    assert all(f"by campaign {campaign_id}" in out for out in said), said
    road.delay_s = 0.0
    acceptance.reach(campaign_id, "complete")
    assert site.latest_version == latest + 1
    assert site.key_ids(blobs) == {site.version(latest + 1)}
    assert site.wrong(blobs) == []
