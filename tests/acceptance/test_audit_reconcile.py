"""The audit log of a real OpenBao beside our trail, with somebody else at work in between."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hvac
import pytest

from embedded import OpenBao
from embedded.launching import Program
from keywrap.auditing import JsonLines
from keywrap.blobs import EncryptedBlobs
from keywrap.config import open_keys, open_reader
from tests.nodes import Node, until
from tests.sites import Site
from workers.settings import load

BLOBS = 40


class AuditedBao(OpenBao):
    """An OpenBao that writes its audit log."""

    @property
    def log(self) -> Path:
        return self._directory / "audit.log"

    def _program(self) -> Program:
        program = super()._program()
        config = self._directory / "audit.hcl"
        config.write_text(
            f'audit "file" "log" {{\n  options = {{ file_path = "{self.log}" }}\n}}\n'
        )
        return replace(program, argv=(*program.argv, f"-config={config}"))


@pytest.fixture(scope="module")
def bao(server_directory: Path) -> Iterator[AuditedBao]:
    server = AuditedBao.start(server_directory / "audited-bao", supervised=True)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(server_directory: Path, bao: AuditedBao) -> Iterator[Node]:
    bao.create_transit_key("reconcile-kek")
    site = Site(server_directory / "reconcile", bao, "reconcile-kek", batch=20)
    site.control(1)
    node = Node(site, workers=1)
    node.start()
    site.make(BLOBS)
    node.reach(site.campaign("migrate"), "complete")
    until(lambda: not site.ask("audit", "verify")["unchained"], "chained")
    yield node
    node.close()


@pytest.fixture
def site(node: Node) -> Site:
    return node.site


@pytest.fixture
def log(bao: AuditedBao, tmp_path: Path) -> Path:
    """What OpenBao has logged up to now."""
    copy = tmp_path / "audit.log"
    copy.write_bytes(bao.log.read_bytes())
    return copy


def reconciled(site: Site, log: Path, *more: str, code: int = 0) -> dict[str, Any]:
    ran = site.rewrap("audit", "reconcile", "--log", str(log), *more, "--json")
    assert ran.code == code, ran
    document: dict[str, Any] = ran.document
    assert document["clean"] is (code == 0)
    plain = site.rewrap("audit", "reconcile", "--log", str(log), *more)
    assert plain.code == code, plain
    assert ("both tell the same" if code == 0 else "they differ") in plain.out
    return document


def totals(document: dict[str, Any], column: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in document["lines"]:
        found[line["operation"]] = found.get(line["operation"], 0) + line[column]
    return found


def wrap_of(site: Site, blob_id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((site.store / f"{blob_id}.blob.meta").read_text())
    return record


def test_a_migrations_trail_and_openbaos_log_tell_the_same(site: Site, log: Path) -> None:
    document = reconciled(site, log)
    ours = totals(document, "ours")
    assert ours == totals(document, "logged")
    assert ours["wrap"] == ours["unwrap"] >= BLOBS
    assert document["lines"][0]["key"] == "hcvault://transit/reconcile-kek"
    assert document["unseen"] == document["unknown"] == []


def test_a_rotation_with_its_canaries_is_told_by_both(
    site: Site, bao: AuditedBao, tmp_path: Path
) -> None:
    done = site.rewrap("rotate-kek", "--yes", "--wait")
    assert done.code == 0, done
    until(lambda: not site.ask("audit", "verify")["unchained"], "chained")
    log = tmp_path / "audit.log"
    log.write_bytes(bao.log.read_bytes())
    document = reconciled(site, log)
    assert totals(document, "ours")["rewrap"] >= BLOBS
    canaries = site.rewrap("audit", "export", "--campaign", "0").out.splitlines()
    assert [json.loads(line)["event"] for line in canaries] == ["wrap", "prove"] * 2


def test_what_a_person_with_the_token_opened_is_found_and_named(
    site: Site, bao: AuditedBao, tmp_path: Path
) -> None:
    before = bao.log.stat().st_size
    blob_id = next(path for path in site.store.rglob("*.blob.meta")).name.removesuffix(".blob.meta")
    folder = next(site.store.rglob(f"{blob_id}.blob.meta")).parent.relative_to(site.store)
    record = wrap_of(site, str(folder / blob_id))
    version = record["key_id"].rpartition("=")[2]
    client = hvac.Client(url=bao.address, token=bao.token)
    context = json.dumps(record["context"], sort_keys=True, separators=(",", ":"))
    opened = client.secrets.transit.decrypt_data(
        "reconcile-kek",
        f"vault:v{version}:{record['wrapped_dek']}",
        context=base64.b64encode(context.encode()).decode(),
    )
    client.adapter.close()
    assert opened["data"]["plaintext"]
    whole = tmp_path / "whole.log"
    whole.write_bytes(bao.log.read_bytes())
    (stranger,) = reconciled(site, whole, code=1)["unknown"]
    assert (stranger["operation"], stranger["count"]) == ("unwrap", 1)
    assert stranger["who"] == "token at 127.0.0.1"
    assert stranger["request_id"] == opened["request_id"]
    # Of the log before it, nothing is missing.
    cut = tmp_path / "cut.log"
    cut.write_bytes(whole.read_bytes()[:before])
    reconciled(site, cut)


def test_what_the_log_does_not_have_is_found(site: Site, log: Path) -> None:
    lines = log.read_text().splitlines(keepends=True)
    gone = next(
        n
        for n, line in enumerate(lines)
        if "transit/encrypt" in line and '"type":"response"' in line
    )
    count = len(json.loads(lines[gone])["request"]["data"]["batch_input"])
    cut = log.with_name("cut.log")
    cut.write_text("".join(line for n, line in enumerate(lines) if n != gone))
    until_now = ("--until", _until(log))
    document = reconciled(site, cut, *until_now, code=1)
    assert {own["operation"] for own in document["unseen"]} == {"wrap"}
    assert len(document["unseen"]) == count
    assert sum(line["unseen"] for line in document["lines"]) == count


def _until(log: Path) -> str:
    """Return a time after the migration."""
    last = [line for line in log.read_text().splitlines() if "transit/encrypt" in line][-1]
    at = datetime.fromisoformat(json.loads(last)["time"]).astimezone(UTC)
    return (at + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S")


def test_what_an_application_says_it_did_is_counted_as_ours(
    site: Site, bao: AuditedBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in site.secrets.items():
        monkeypatch.setenv(name, value)
    since = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
    until(lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S") > since, "a second later")
    config = load(str(site.config), {}).keywrap
    events = tmp_path / "app.jsonl"
    sink = JsonLines(events)
    app = EncryptedBlobs(
        open_reader(config),
        open_keys(config, site.secrets),
        config.store.legacy_content,
        audit=sink,
    )
    app.put("by-application", b"text")
    assert app.get("by-application") == b"text"
    sink.close()
    whole = tmp_path / "whole.log"
    whole.write_bytes(bao.log.read_bytes())
    document = reconciled(site, whole, "--since", since, "--events", str(events))
    assert totals(document, "ours") == {"wrap": 1, "unwrap": 2}
    assert len(reconciled(site, whole, "--since", since, code=1)["unknown"]) == 3


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((), "usage"),
        (("--log", "nowhere"), "usage"),
        (("--log", "rewrap.toml"), "log_unreadable"),
        (("--log", "empty.log"), "log_unreadable"),
        (("--log", "one.log", "--key", "hcvault://transit/other"), "usage"),
        (("--log", "one.log", "--since", "yesterday"), "usage"),
        (("--log", "one.log", "--events", "rewrap.toml"), "log_unreadable"),
        (("--log", "one.log", "--window", "0"), "usage"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_reason(
    site: Site, more: tuple[str, ...], reason: str
) -> None:
    (site.directory / "empty.log").write_text("")
    (site.directory / "one.log").write_text(
        '{"time":"2026-11-27T11:12:55Z","type":"request","request":{}}\n'
    )
    ran = site.rewrap("audit", "reconcile", *more)
    assert ran.code == 2, ran
    assert reason in ran.err
    assert "next: " in ran.err
    assert "Traceback" not in ran.err
