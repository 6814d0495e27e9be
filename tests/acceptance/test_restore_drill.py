"""The drill: all sidecars are lost, and a machine with nothing on it brings every blob back."""

import base64
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import pyrage  # type: ignore[import-untyped] # no code of ours: as any age tool
import pytest

from embedded import OpenBao
from tests.nodes import Node
from tests.plaincontents import open_content
from tests.readers import PlainReader
from tests.sites import Ran, Site, run

BLOBS = 300
LATE = 60


@pytest.fixture
def node(new_site: Callable[..., Site], request: pytest.FixtureRequest) -> Iterator[Node]:
    site = new_site(f"drill-{request.node.name[5:13].replace('_', '-')}")
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


@pytest.fixture
def new_bao(server_directory: Path) -> Iterator[OpenBao]:
    """Another OpenBao, which has none of the old keys."""
    server = OpenBao.start(server_directory / "openbao-after", supervised=True)
    server.create_transit_key("after")
    yield server
    server.stop()


def typed(site: Site, *arguments: str) -> str:
    ran = site.rewrap(*arguments, timeout_s=300)
    assert ran.code == 0, ran
    return ran.out


def damage_all(store: Path, blob_ids: Sequence[str]) -> int:
    """Let no sidecar be what it was; return how many there were."""
    paths = [p for b in blob_ids if (p := store / f"{b}.blob.meta").exists()]
    originals = {path: path.read_bytes() for path in paths}
    ways = cycle(("delete", "truncate", "swap", "garbage", "large", "empty", "another format"))
    for path, way in zip(paths, ways, strict=False):
        data = originals[path]
        if way == "delete":
            path.unlink()
        elif way == "truncate":
            path.write_bytes(data[: len(data) // 2])
        elif way == "swap":
            other = originals[paths[(paths.index(path) + 8) % len(paths)]]
            path.write_bytes(other)
        elif way == "garbage":
            path.write_bytes(secrets.token_bytes(200))
        elif way == "large":
            path.write_bytes(secrets.token_bytes(100_000))
        elif way == "empty":
            path.write_bytes(b"")
        else:
            path.write_text(json.dumps(json.loads(data) | {"content": "gcm-v1"}))
    return len(paths)


class EmptyMachine:
    """A folder with a configuration of [store] and [keys], a backup, and the identity."""

    def __init__(self, site: Site, directory: Path, config: str, secret: dict[str, str]) -> None:
        self.backups = directory / "brought"
        shutil.copytree(site.state / "backups", self.backups)
        self.identity = directory / "identity"
        shutil.copy(site.identity, self.identity)
        self.config = directory / "fresh.toml"
        self.config.write_text(config)
        self.directory = directory / "work"
        self.directory.mkdir()
        names = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_ALL")
        self.environment = {name: site.environment[name] for name in names} | secret
        self.environment |= {"HOME": str(directory), "REWRAP_CONFIG": str(self.config)}

    def restore(self, *arguments: str) -> Ran:
        where = ("--from", self.backups.as_uri(), "--identity", str(self.identity))
        line = ("backup", "restore", *where, "--yes", *arguments)
        return run(line, self.environment, self.directory, 300)


def lose_the_site(node: Node) -> None:
    """End workers, scheduler and ledger, and take away all that they had but the store."""
    node.close()
    shutil.rmtree(node.site.state)


def counts(ran: Ran) -> tuple[int, int, int]:
    document = ran.document
    assert (document["failed"], document["conflict"], document["gone"]) == (0, 0, 0), ran
    return document["restored"], document["current"], document["quarantined"]


@pytest.mark.timeout(600)
def test_a_restore_on_an_empty_machine_reads_every_blob(node: Node, tmp_path: Path) -> None:
    site = node.site
    ids = site.make(BLOBS - LATE)
    typed(site, "start", "migrate", "--escrow", "--yes", "--wait")
    ids += site.make(LATE, "late/")  # so that wraps of all kinds are in the newest backup
    typed(site, "backup", "create", "--wait")
    keys = site.key_ids(ids)
    assert {site.version(1), "env:BLOB_WRAP_KEY"} < keys
    config = site.config.read_text().partition("[workers]")[0]
    machine = EmptyMachine(site, tmp_path, config, site.secrets)
    lose_the_site(node)
    lost = damage_all(site.store, ids)
    assert lost > BLOBS - LATE
    ran = machine.restore()
    assert ran.code == 0, ran
    assert " restored, " in ran.out
    assert "is unclaimed" in ran.err, "the audit segment waits for a ledger"
    assert site.wrong(ids) == []
    assert site.key_ids(ids) <= keys | {"env:BLOB_KEY"}, "the wraps that were kept, no other"
    restored, current, quarantined = counts(machine.restore("--json"))
    assert (restored, current, quarantined) == (0, BLOBS, 0), "again changes nothing"


def opened_by_age(machine: EmptyMachine) -> dict[str, bytes]:
    """Return the data keys of the escrow by blob, with the age library alone."""
    text = machine.identity.read_text().split("\n")
    line = next(line for line in text if line.startswith("AGE-SECRET-KEY-1"))
    identity = pyrage.x25519.Identity.from_str(line)
    found = {}
    for part in machine.backups.rglob("part-*.age"):
        head, *blobs, foot = pyrage.decrypt(part.read_bytes(), [identity]).splitlines()
        assert json.loads(head)["escrow"] is True
        assert json.loads(foot) == {"blobs": len(blobs)}
        lines = [json.loads(blob) for blob in blobs]
        found |= {line["blob_id"]: base64.b64decode(line["dek"]) for line in lines}
    return found


@pytest.mark.timeout(600)
def test_the_escrow_brings_every_blob_back_when_the_kek_itself_is_gone(
    node: Node, tmp_path: Path, new_bao: OpenBao
) -> None:
    site = node.site
    ids = site.make(BLOBS)
    typed(site, "start", "migrate", "--escrow", "--yes", "--wait")
    formats = {i: site.reader().sidecar(i).get("content", "records-v1") for i in ids}
    store = f'[store]\nurl = "{site.store.as_uri()}"\nblob_suffix = ".blob"\n'
    store += 'sidecar_suffix = ".blob.meta"\nlegacy_content = "records-v1"\n[keys]\n'
    table = f'[keys.vault."transit/after"]\naddress = "{new_bao.address}"\n'
    table += 'token_env = "BAO_TOKEN"\n'
    secret = {"BAO_TOKEN": new_bao.token}
    primary = 'primary = "hcvault://transit/after"\n'
    machine = EmptyMachine(site, tmp_path, store + table, secret)
    lose_the_site(node)
    damage_all(site.store, ids[: BLOBS // 2])
    lay = site.fingerprint()

    refused = machine.restore("--json")
    assert refused.code == 1, refused
    assert counts(refused) == (0, 0, BLOBS)
    assert {b["reason_code"] for b in refused.document["blobs"]} == {"no_primary"}
    assert site.fingerprint() == lay, "without a primary nothing is changed"

    # The old KEK is listed still, at a server that has none of its name.
    gone = table.replace("transit/after", f"transit/{site.kek}")
    machine.config.write_text(store + primary + table + gone)
    assert counts(machine.restore("--json")) == (BLOBS, 0, 0)
    secrets_of_nobody = {"BLOB_KEY": secrets.token_hex(32), "BLOB_WRAP_KEY": "A" * 43 + "="}
    reader = PlainReader(site.store, secrets_of_nobody, new_bao.address, new_bao.token)
    assert {reader.sidecar(i)["key_id"] for i in ids} == {"hcvault://transit/after?version=1"}
    assert reader.wrong(ids, site.original) == []
    reader.close()
    assert counts(machine.restore("--json")) == (0, BLOBS, 0)

    keys = opened_by_age(machine)
    for blob_id in ids:
        sealed = (site.store / f"{blob_id}.blob").read_bytes()
        assert open_content(formats[blob_id], keys[blob_id], sealed) == site.original(blob_id)
