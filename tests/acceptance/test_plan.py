import base64
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import hvac
import pytest

from embedded import OpenBao
from tests.nodes import Node
from tests.sites import Ran, Site, campaign_in

DOCUMENT = {
    "plan",
    "kind",
    "state",
    "reason_code",
    "reason",
    "next_command",
    "store",
    "prefix",
    "target",
    "prove",
    "counts",
    "moving",
    "excluded",
    "problems",
    "sample",
    "kms_requests",
    "content_bytes",
    "store_requests",
    "cost",
    "duration_s",
    "rate",
    "notes",
}
BLOBS = 60
READ_ONLY = """
path "transit/keys/*" { capabilities = ["read"] }
path "transit/decrypt/*" { capabilities = ["update"] }
"""


def _next(ran: Ran) -> list[str]:
    """Return the command that a plan ends with, without its first word."""
    last = ran.out.splitlines()[-1]
    assert last.startswith("next: rewrap start "), ran
    return shlex.split(last)[2:]


def _fingerprint(site: Site) -> dict[str, tuple[int, int, str]]:
    """Return every file of the store, the store's own corner included."""
    own = {str(p): (0, p.stat().st_mtime_ns, "") for p in (site.store / ".rewrap").rglob("*")}
    return site.fingerprint() | own


def test_a_plan_says_what_start_would_do_and_its_last_line_does_it(acceptance: Node) -> None:
    site = acceptance.site
    ids = site.make(BLOBS, "plan a/")
    before = _fingerprint(site)
    ran = site.rewrap("plan", "migrate", "--prefix", "plan a/", "--prove", "content")
    assert ran.code == 0, ran
    assert _fingerprint(site) == before
    for said in (
        f"{BLOBS} blobs scanned; {BLOBS} would move",
        f"{BLOBS * 3 // 5} from env:BLOB_KEY",
        f"{BLOBS * 2 // 5} from env:BLOB_WRAP_KEY",
        f"{BLOBS} of {BLOBS} taken up to the write: {BLOBS} rewrapped",
        "matched against their own content",
        "env:BLOB_KEY is itself the data key",
        "prove  content",
    ):
        assert said in ran.out, said
    started = site.rewrap(*_next(ran), "--yes", "--wait")
    assert started.code == 0, started
    document = acceptance.document(campaign_in(started.out))
    assert document["counts"]["rewrapped"] == BLOBS
    assert site.wrong(ids) == []
    assert site.rewrap("plan", "migrate", "--prefix", "plan a/").code == 0
    site.remove("plan a")


def test_the_plan_document_has_its_keys_and_its_counts_balance(acceptance: Node) -> None:
    site = acceptance.site
    site.make(BLOBS, "pj/")
    document = site.ask("plan", "migrate", "--prefix", "pj/", "--sample", "20")
    assert set(document) == DOCUMENT
    counts = document["counts"]
    assert counts["scanned"] == sum(n for name, n in counts.items() if name != "scanned") == BLOBS
    assert sum(line["blobs"] for line in document["moving"]) == counts["moving"] == BLOBS
    assert document["prove"]["mode"] == "all"
    assert document["prove"]["default"] is True
    assert document["next_command"] == "rewrap start migrate --prefix pj/"
    sample = document["sample"]
    assert (sample["drawn"], sample["opened"], sample["bad"]) == (20, 20, 0)
    assert sample["upper_bound_99"] == pytest.approx(1 - 0.01 ** (1 / 20), abs=1e-6)
    kms = document["kms_requests"]
    assert kms["campaign"] == kms["sampled"] * 3
    assert kms["total"] == kms["campaign"] + kms["verifying"]
    assert document["store_requests"] is None
    assert document["content_bytes"] is None
    assert (document["cost"]["total"], document["cost"]["kms"]) == (0, None)
    assert document["duration_s"] > 0
    # In the ledger it is a campaign like any other, and nothing of it is left to seal.
    status = site.ask("status", str(document["plan"]))
    assert (status["kind"], status["state"], status["unsealed"]) == ("plan", "complete", 0)
    site.remove("pj")


def test_a_plan_finds_what_would_be_quarantined_and_says_so_by_its_exit_code(
    acceptance: Node,
) -> None:
    site = acceptance.site
    site.make(BLOBS, "pq/")
    (site.store / "pq/adopter-000000.blob.meta").write_bytes(b"{")
    stranger = site.store / "pq/wrapped-000002.blob.meta"
    stranger.write_text(json.dumps(json.loads(stranger.read_text()) | {"key_id": "env:STRANGER"}))
    altered = site.store / "pq/wrapped-000007.blob.meta"
    wrap = base64.b64encode(bytes(60)).decode()
    altered.write_text(json.dumps(json.loads(altered.read_text()) | {"wrapped_dek": wrap}))
    before = _fingerprint(site)
    ran = site.rewrap("plan", "migrate", "--prefix", "pq/")
    assert ran.code == 1, ran
    for said in (
        "1 would be quarantined, untouched [sidecar_not_json]",
        "1 would be quarantined, untouched [key_not_listed]",
        "1 quarantined [wrap_does_not_open]",
    ):
        assert said in ran.out, said
    assert "99% confidence" not in ran.out
    ran = site.rewrap("plan", "rotate", "--prefix", "pq/", "--json")
    assert ran.code == 1, ran
    found = {line["reason_code"]: line["blobs"] for line in ran.document["problems"]}
    assert found == {"sidecar_not_json": 1, "key_not_listed": 1}
    assert ran.document["excluded"] == [{"reason_code": "not_managed", "blobs": BLOBS - 2}]
    assert ran.document["prove"]["mode"] == "sample"
    assert _fingerprint(site) == before
    started = site.rewrap("start", "migrate", "--prefix", "pq/", "--yes", "--wait")
    assert started.code == 1, started
    failures = acceptance.document(campaign_in(started.out))["failures"]
    assert {f["reason_code"]: f["blobs"] for f in failures} == {
        "sidecar_not_json": 1,
        "key_not_listed": 1,
        "wrap_does_not_open": 1,
    }
    site.remove("pq")


@pytest.fixture
def reading_token(faulty: Node, openbao: OpenBao, server_directory: Path) -> Iterator[Node]:
    """A node whose token may read the KEK's versions and wrap nothing under it."""
    client = hvac.Client(url=openbao.address, token=openbao.token, timeout=5)
    file = server_directory / "faulty.token"
    try:
        client.sys.create_or_update_policy("reading", READ_ONLY)
        file.write_text(str(client.auth.token.create(policies=["reading"])["auth"]["client_token"]))
        yield faulty
    finally:
        file.write_text(openbao.token)
        client.adapter.close()


def test_a_plan_finds_a_right_that_the_workers_do_not_have(
    reading_token: Node, server_directory: Path
) -> None:
    node, site = reading_token, reading_token.site
    site.make(BLOBS, "pr/")
    for name in ("worker-1", "worker-2"):  # they hold the old token until it is refused
        process = node.process(name)
        process.kill()
        process.wait()
    before = _fingerprint(site)
    ran = site.rewrap("plan", "migrate", "--prefix", "pr/", "--json")
    assert ran.code == 3, ran
    assert ran.document["state"] == "blocked"
    assert ran.document["reason_code"] == "permission_denied"
    assert _fingerprint(site) == before
    node.reach(ran.document["plan"], "cancelled", 30)
    assert (server_directory / "faulty.token").exists()
    site.remove("pr")


def test_an_inventory_says_which_schemes_the_lengths_of_wraps_allow(
    acceptance: Node, tmp_path: Path
) -> None:
    site = acceptance.site
    site.make(10, "sc/")
    for number in (2, 7):
        sidecar = site.store / f"sc/wrapped-00000{number}.blob.meta"
        wrap = base64.b64encode(bytes(40)).decode()
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"wrapped_dek": wrap}))
    ran = site.rewrap("inventory", "--prefix", "sc/", "--export", str(tmp_path / "blobs.csv"))
    assert ran.code == 0, ran
    assert (
        "warning: env:BLOB_WRAP_KEY is configured as aes-gcm, but 2 wraps of 40 bytes can only be "
        "aes-kw or aes-kwp" in ran.out
    )
    assert "opening it decides" in ran.out
    exported = (tmp_path / "blobs.csv").read_text().splitlines()
    assert exported[0] == "blob_id,provider,key_id,previous_key_id,problem,wrap_bytes"
    assert "sc/wrapped-000002,env,env:BLOB_WRAP_KEY,,,40" in exported
    document = site.ask("inventory", "--prefix", "sc/")
    by_key = {line["key"]: line for line in document["by_key"]}
    assert by_key["env:BLOB_WRAP_KEY"]["wrap_bytes"] == {"40": 2, "60": 2}
    assert by_key["env:BLOB_KEY"]["wrap_bytes"] == {"0": 6}
    agrees = {(s["key"], s["wrap_bytes"]): s["agrees"] for s in document["schemes"]}
    assert agrees == {
        ("env:BLOB_KEY", 0): True,
        ("env:BLOB_WRAP_KEY", 40): False,
        ("env:BLOB_WRAP_KEY", 60): True,
    }
    site.remove("sc")
