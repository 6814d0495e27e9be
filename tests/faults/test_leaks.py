"""Where a plaintext key must not be left: broker, database, logs, results, events, memory."""

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hvac
import psycopg
import pytest
import requests
from redis import Redis as RedisClient

from embedded import OpenBao, Postgres
from tests.leaks import Canaries
from tests.nodes import Node
from tests.sites import ROOT

BLOBS = 60
MOVED = 60


def test_what_is_hidden_in_any_form_is_found(tmp_path: Path) -> None:
    secret = bytes(range(100, 132))
    canaries = Canaries({"it": secret})
    sentence = b"before it and "
    for hidden in (
        secret,
        secret[16:],
        secret.hex().encode(),
        base64.b64encode(secret),
        base64.b64encode(b"x" + secret + b"y"),
        base64.urlsafe_b64encode(b"xy" + secret[:16]),
        json.dumps({"key": secret.hex().upper()}).encode(),
    ):
        (tmp_path / "file").write_bytes(sentence + hidden + sentence)
        assert canaries.in_files([tmp_path / "file"]) == {"file": {"it"}}, hidden
    (tmp_path / "file").write_bytes(sentence * 1000)
    assert canaries.in_files([tmp_path / "file"]) == {}


@pytest.fixture
def canaries(acceptance: Node) -> Iterator[Canaries]:
    """The keys and the token of a campaign, as they are known before it."""
    site = acceptance.site
    blob_ids = site.make(BLOBS, "leaks/")
    reader = site.reader()
    keys = {blob_id: reader.data_key(blob_id) for blob_id in blob_ids if "wrapped" in blob_id}
    reader.close()
    assert len(keys) >= BLOBS / 3
    keys["BLOB_KEY"] = bytes.fromhex(site.secrets["BLOB_KEY"])
    keys["BLOB_WRAP_KEY"] = base64.b64decode(site.secrets["BLOB_WRAP_KEY"])
    keys["BAO_TOKEN"] = site.secrets["BAO_TOKEN"].encode()
    # A wrap that does not open, whose error must not tell what it was to open to.
    name = next(site.store.glob("leaks/wrapped-0*.blob.meta"))
    record = json.loads(name.read_bytes())
    wrap = bytearray(base64.b64decode(record["wrapped_dek"]))
    wrap[-1] ^= 1
    name.write_text(json.dumps(record | {"wrapped_dek": base64.b64encode(wrap).decode()}))
    yield Canaries(keys)
    site.remove("leaks/")


def test_no_key_and_no_token_is_left_in_broker_database_logs_or_flower(
    acceptance: Node, canaries: Canaries
) -> None:
    site = acceptance.site
    scope = ("--prefix", "leaks/", "--yes", "--wait")
    migrated = site.rewrap("start", "migrate", *scope)
    assert "quarantined" in migrated.out + migrated.err
    rotated = site.rewrap("rotate-kek", f"hcvault://transit/{site.kek}", "--yes", "--wait")
    assert rotated.code in {0, 1}, rotated
    assert site.rewrap("start", "reencrypt", *scope).code in {0, 1}

    postgres = Postgres.running(site.state / "postgres")
    assert postgres is not None
    with psycopg.connect(postgres.url_of("rewrap"), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    with RedisClient(unix_socket_path=str(site.state / "redis" / "redis.sock")) as redis:
        redis.save()
    files = [path for path in site.state.rglob("*") if path.is_file()]
    assert any("pg_wal" in path.parts for path in files)
    assert any(path.suffix == ".rdb" for path in files)
    assert sum(path.name.endswith(".log") for path in files) >= 4
    assert canaries.in_files([acceptance.out, *files]) == {}
    assert canaries.in_bytes(_flower(acceptance)) == set()


def _flower(node: Node) -> bytes:
    user, _, password = (node.site.state / "flower-sign-in").read_text().partition(":")
    address = f"http://127.0.0.1:{node.site.flower_port}"
    seen = b""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = user, password
        for page in ("/api/tasks?limit=10000", "/api/workers?refresh=1", "/workers", "/metrics"):
            seen += session.get(f"{address}{page}", timeout=20).content
    assert b"rewrap.rewrap_shard" in seen
    return seen


_MOVER = """
import json, sys
from keywrap.config import KeywrapConfig, open_keys
from keywrap.keys import KeyVersion, WrappedKey
import base64
asked = json.load(sys.stdin)
config = KeywrapConfig.from_table(asked["config"])
(provider,) = [open_keys(config, asked["environment"]).provider(asked["key"])]
olds = [
    (WrappedKey(KeyVersion(asked["key"], "1"), base64.b64decode(wrap)), {"blob_id": blob_id})
    for blob_id, wrap in asked["wraps"].items()
]
if asked["opens"]:
    kept = provider.unwrap_many(olds)
moved = provider.rewrap_many(olds)
print(sum(str(wrap.key_version).endswith("=2") for wrap in moved), flush=True)
sys.stdin.close(); sys.stdin = open("/dev/null"); import time; time.sleep(60)
"""


@pytest.mark.parametrize("opens", [False, True], ids=["rewrapped in the service", "opened"])
def test_what_the_service_moves_never_comes_into_the_memory_of_the_worker(
    openbao: OpenBao,
    opens: bool,  # noqa: FBT001 - pytest gives it
) -> None:
    name = f"leaks-{opens}".lower()
    openbao.create_transit_key(name)
    client = hvac.Client(url=openbao.address, token=openbao.token, timeout=5)
    keys = {f"blob-{n}": secrets.token_bytes(32) for n in range(MOVED)}
    wraps = {}
    for blob_id, key in keys.items():
        context = base64.b64encode(
            json.dumps({"blob_id": blob_id}, separators=(",", ":")).encode()
        ).decode()
        made = client.secrets.transit.encrypt_data(
            name=name, plaintext=base64.b64encode(key).decode(), context=context
        )
        wraps[blob_id] = made["data"]["ciphertext"].rpartition(":")[2]
    client.secrets.transit.rotate_key(name=name)
    client.adapter.close()
    table = {"address": openbao.address, "token_env": "BAO_TOKEN"}
    asked = {
        "config": {
            "store": {"url": "file:///nowhere"},
            "keys": {
                "primary": f"hcvault://transit/{name}",
                "vault": {f"transit/{name}": table},
            },
        },
        "environment": {"BAO_TOKEN": openbao.token},
        "key": f"hcvault://transit/{name}",
        "wraps": wraps,
        "opens": opens,
    }
    with subprocess.Popen(
        [sys.executable, "-c", _MOVER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as mover:
        assert mover.stdin is not None
        assert mover.stdout is not None
        mover.stdin.write(json.dumps(asked))
        mover.stdin.close()
        assert mover.stdout.readline().strip() == str(MOVED)
        found = Canaries(keys).in_memory(mover.pid)
        mover.kill()
    # Opened, they are there as long as they are used: the search can find what there is.
    assert len(found) == (MOVED if opens else 0)
