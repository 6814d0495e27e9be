"""Blobs of DPAPI and of every `env` scheme, to each managed key and from one to another."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, GCMParams, Mechanism

from embedded import OpenBao
from keywrap.providers import pkcs11_token
from keywrap.testing.dpapi import (
    LOCAL_MACHINE,
    TDES_SHA1,
    Account,
    WrappingDpapiProvider,
    make_master_key_file,
)
from tests.cloudsites import Cloud, CloudSite, MoreKeys
from tests.hsms import HsmKey, HsmToken, make_key
from tests.nodes import Node, assert_balanced
from tests.plaincontents import open_content
from tests.scale import many
from tests.sites import ROOT, campaign_in, run

BLOBS = many(250, 1000)
FOLDERS = ("bao/", "hsm/", "aws/")
ENTROPY = "entropy of the old application"

DPAPI = """
[keys.dpapi.server]
mode = "ring"
ring = "{ring}"
master_keys = ["{server}", "{machine}"]

[keys.dpapi.desktop]
mode = "ring"
ring = "{ring}"
entropy_env = "OLD_ENTROPY"
entropy_encoding = "text"
inner = "base64"
"""


def windows(folder: Path) -> MoreKeys:
    """Make three Windows accounts, and type the command that makes the ring of their keys."""
    accounts = {
        "server": Account(),
        "machine": Account(suite=TDES_SHA1, flags=LOCAL_MACHINE),
        "desktop": Account(suite=TDES_SHA1, entropy=ENTROPY.encode()),
    }
    system = b"\1\0\0\0" + os.urandom(40)
    (folder / "dpapi-system.hex").write_text(system.hex())
    for account in accounts.values():
        made = make_master_key_file(account.guid, account.master_key, system[4:24], rounds=20)
        (folder / account.guid).write_bytes(made)
    ring = folder / "ring.json"
    files = [str(folder / account.guid) for account in accounts.values()]
    made_ring = run(
        ["dpapi-ring", "--out", str(ring), "--dpapi-system-file", "dpapi-system.hex", *files],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        folder,
    )
    assert made_ring.code == 0, made_ring
    guids = {name: account.guid for name, account in accounts.items()}
    kinds = {
        f"dpapi-{name}": WrappingDpapiProvider(a, "base64" if name == "desktop" else "raw")
        for name, a in accounts.items()
    }
    return MoreKeys(DPAPI.format(ring=ring, **guids), {"OLD_ENTROPY": ENTROPY}, kinds)


class Estate:
    """A node with blobs of every kind of legacy key, and three managed keys to move them to.

    Attributes:
        ids: the blobs.
        local: those under a key file, which is a managed key already.
    """

    def __init__(self, node: Node, hsm: HsmKey, token: HsmToken) -> None:
        self.node = node
        self.site: CloudSite = node.site  # type: ignore[assignment]
        self._token = token
        self.keys = {
            "bao/": f"hcvault://transit/{self.site.kek}",
            "hsm/": hsm.uri,
            "aws/": f"aws-kms://{self.site.arns[0]}",
        }
        each = {folder: BLOBS // 3 + (folder == "aws/") for folder in FOLDERS}
        self.ids = [b for folder in FOLDERS for b in self.site.make(each[folder], folder)]
        self.local = [b for b in self.ids if "/local-" in b]

    def move(self, *what: str) -> dict[str, int]:
        """Type a command that starts a campaign; return its counts once it is complete."""
        ran = self.site.rewrap("start", *what, "--yes", "--wait", timeout_s=170)
        assert ran.code == 0, ran
        document = self.site.ask("status", str(campaign_in(ran.out)))
        assert document["state"] == "complete"
        assert_balanced(document, document["counts"]["scanned"])
        counts: dict[str, int] = document["counts"]
        return counts

    def version(self, folder: str) -> str:
        """Return the key id that new wraps under a folder's key bear."""
        return self.site.current() if folder == "aws/" else f"{self.keys[folder]}?version=1"

    def assert_under(self, folder: str, ids: list[str]) -> None:
        """See that blobs are their originals under a key, for programs that are none of ours."""
        records = self.site.reader.records(ids)
        assert {record["key_id"] for record in records.values()} == {self.version(folder)}
        assert {b: r["context"] for b, r in records.items()} == {b: {"blob_id": b} for b in ids}
        wrong = self._wrong_in_token(records) if folder == "hsm/" else self.site.wrong(ids)
        assert wrong == []

    def _wrong_in_token(self, records: dict[str, dict[str, Any]]) -> list[str]:
        """Open blobs with python-pkcs11 alone."""
        with pkcs11_token.LOCK:  # two users of the module at once would crash this process
            found = pkcs11.lib(str(self._token.hsm.module)).get_token(token_label=self._token.label)
            with found.open() as session:  # this process is logged in: it made the key
                (kek,) = session.get_objects({Attribute.LABEL: "blob-kek:v1"})
                keys = {b: _unwrapped(kek, b, record) for b, record in records.items()}
        return [b for b, key in keys.items() if self._content(b, records[b], key) is None]

    def _content(self, blob_id: str, record: dict[str, Any], key: bytes) -> bytes | None:
        sealed = self.site.reader._object(f"{blob_id}.blob")
        plain = open_content(record.get("content", "records-v1"), key, sealed)
        return plain if plain == self.site.original(blob_id) else None


def _unwrapped(kek: Any, blob_id: str, record: dict[str, Any]) -> bytes:
    wrap = base64.b64decode(record["wrapped_dek"], validate=True)
    bound = json.dumps({"blob_id": blob_id}, separators=(",", ":"), ensure_ascii=False).encode()
    params = GCMParams(wrap[:12], bound, 128)
    opened: bytes = kek.decrypt(wrap[12:], mechanism=Mechanism.AES_GCM, mechanism_param=params)
    return opened


@pytest.fixture
def estate(
    server_directory: Path, openbao: OpenBao, hsm_token: HsmToken, tmp_path: Path
) -> Iterator[Callable[[Cloud], Estate]]:
    """Makes an estate, its node running; it ends with the test."""
    made: list[Estate] = []

    def make(cloud: Cloud) -> Estate:
        hsm, legacy = make_key(hsm_token), windows(tmp_path)
        more = MoreKeys(
            legacy.toml + hsm.toml, {**legacy.environment, **hsm.environment}, legacy.kinds
        )
        site = CloudSite(server_directory / "every-key", openbao, cloud.address, more=more)
        cloud.s3.create_bucket(site.bucket)
        made.append(Estate(Node(site), hsm, hsm_token))  # type: ignore[arg-type]
        made[0].node.start()
        return made[0]

    yield make
    for each in made:
        each.node.close()
        each.site.close()


@pytest.mark.timeout(400)
def test_blobs_of_every_legacy_key_move_to_each_managed_key_and_from_one_to_another(
    estate: Callable[[Cloud], Estate],
) -> None:
    with Cloud() as cloud:
        every = estate(cloud)
        assert len(every.ids) == BLOBS
        assert sum("dpapi-" in b for b in every.ids) > BLOBS // 10
        for folder in FOLDERS:
            mine = [b for b in every.ids if b.startswith(folder)]
            kept = [b for b in mine if b in every.local]
            counts = every.move("migrate", "--prefix", folder, "--to", every.keys[folder])
            assert counts["rewrapped"] == len(mine) - len(kept)
            assert counts["excluded"] == len(kept)
            every.assert_under(folder, [b for b in mine if b not in kept])

        # From OpenBao, AWS and a key file at once.
        counts = every.move("rotate", "--to", every.keys["hsm/"])
        inside = sum(b.startswith("hsm/") for b in every.ids if b not in every.local)
        assert counts["rewrapped"] == BLOBS - inside
        assert counts["current"] == inside
        every.assert_under("hsm/", every.ids)
        for folder in ("aws/", "bao/"):
            assert every.move("rotate", "--to", every.keys[folder])["rewrapped"] == BLOBS
            every.assert_under(folder, every.ids)

        verified = every.site.rewrap("verify", "--all", "--json", timeout_s=120)
        assert verified.code == 0, verified
        assert verified.document["counts"]["current"] == BLOBS
