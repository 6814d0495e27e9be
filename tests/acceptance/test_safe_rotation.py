"""A rotation as an operator makes it, from the first backup to the old version's end."""

import json
import os
from collections.abc import Callable, Iterator

import hvac
import pytest

from tests.nodes import Node
from tests.sites import Site, campaign_in

BLOBS = int(os.environ.get("REWRAP_STORY_BLOBS", "300"))


@pytest.fixture
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("safe")
    text = site.config.read_text()
    site.config.write_text(f"{text}\n[retire]\ndrain_s = 1\nsoak_s = 2\n")
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


def typed(site: Site, *arguments: str, code: int = 0) -> str:
    ran = site.rewrap(*arguments, timeout_s=600)
    assert ran.code == code, ran
    return ran.out + ran.err


def settings_of(site: Site) -> dict[str, int]:
    client = hvac.Client(url=site.bao.address, token=site.bao.token)
    return dict(client.secrets.transit.read_key(site.kek)["data"])


@pytest.mark.timeout(1200)
def test_an_old_version_is_retired_when_nothing_needs_it_and_every_blob_opens(node: Node) -> None:
    site = node.site
    ids = site.make(BLOBS)
    identity = ("--identity", str(site.identity))
    migrated = campaign_in(typed(site, "start", "migrate", "--yes", "--wait"))
    assert "the backup is whole" in typed(site, "backup", "verify", str(migrated), *identity)
    typed(site, "rotate-kek", "--yes", "--wait")
    rotated = next(d["campaign"] for d in site.ask("status") if d["kind"] == "rotate")
    assert site.key_ids(ids) == {site.version(2)}

    refused = typed(site, "retire", site.version(1), "--yes", code=4)
    assert "keep a wrap that needs it" in refused
    assert repr(min(ids)) in refused
    assert settings_of(site)["min_decryption_version"] == 1, "it is usable"

    typed(site, "seal", str(rotated), "--yes", "--wait")
    assert site.ask("status", str(rotated))["unsealed"] == 0
    refused = typed(site, "retire", site.version(1), "--yes", code=4)
    assert "[backups_need_it]" in refused
    fresh = campaign_in(typed(site, "backup", "create", "--wait"))
    typed(site, "backup", "verify", str(fresh), *identity)
    out = typed(site, "retire", site.version(1), "--accept-unopenable", "--yes")
    assert "is retired" in out
    found = settings_of(site)
    assert (found["min_decryption_version"], found["min_encryption_version"]) == (2, 2)
    assert site.ask("retire", site.version(1), "--status")["step"] == "retired"
    assert site.wrong(ids) == []
    typed(site, "verify", "--all")
    certify(site, rotated)
    restore_in_vain(site, ids, rotated)


def restore_in_vain(site: Site, ids: list[str], campaign: int) -> None:
    """Lose a sidecar, and find that wraps of the retired version open nothing any more."""
    known = next(b for b in site.ask("backup", "list") if b["campaign_id"] == campaign)
    wrapped = next(b for b in ids if b.startswith("wrapped"))
    lost = site.store / f"{wrapped}.blob.meta"
    lost.unlink()
    identity = ("--identity", str(site.identity))
    ran = site.rewrap(
        "backup", "restore", "--manifest", known["manifest"], *identity, "--yes", "--json"
    )
    assert ran.code == 1, ran
    assert (ran.document["restored"], ran.document["quarantined"]) == (0, 1)
    assert ran.document["blobs"][0]["reason_code"] == "backup_does_not_open"


def certify(site: Site, campaign: int) -> None:
    """Certify a campaign, and verify that elsewhere with the public key alone."""
    assert "[certificate_key_missing]" in typed(site, "certificate", str(campaign), code=2)
    made = typed(site, "certificate-key", "--out", str(site.directory / "certificate.key"))
    table = made[made.index("[certificate]") :].partition("\n#")[0]
    site.config.write_text(f"{site.config.read_text()}\n{table}\n")
    files = [site.directory / "certificate.json", site.directory / "certificate.html"]
    out = typed(site, "certificate", str(campaign), "--out", str(files[0]), "--html", str(files[1]))
    public_key = out.strip().rpartition(" ")[2]
    record = json.loads(files[0].read_bytes())["record"]
    assert record["counts"]["rewrapped"] == BLOBS
    assert record["counts"]["scanned"] == BLOBS
    assert record["exceptions"] == []
    assert record["target"] == site.version(2)
    assert record["backup"]["blobs"] == BLOBS
    assert [one["kind"] for one in record["followed_by"]] == ["seal"]
    assert {"key_id": site.version(1), "step": "retired"}.items() <= record["retirements"][
        0
    ].items()
    assert record["proof"]["policy"] == "sample"
    assert record["proof"]["canary_opened"] == min(500, BLOBS)
    assert "<svg" in files[1].read_text()
    assert "[already_there]" in typed(
        site, "certificate", str(campaign), "--out", str(files[0]), code=4
    )
    elsewhere = {"REWRAP_CONFIG": "/nowhere"}
    verify = ("certificate-verify", str(files[0]), "--public-key", public_key)
    assert site.rewrap(*verify, **elsewhere).code == 0
    files[0].write_text(files[0].read_text().replace(f": {BLOBS},", f": {BLOBS + 1},", 1))
    forged = site.rewrap(*verify, **elsewhere)
    assert (forged.code, "[certificate_forged]" in forged.err) == (4, True), forged
