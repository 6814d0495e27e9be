"""`rewrap backup restore` on an empty machine, typed by somebody clumsy."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import pytest

from keywrap.backups import bundle as bundles
from keywrap.backups.bundle import Kept, Manifest, PartEntry
from keywrap.backups.opening import Bundle
from keywrap.backups.vault import Vault
from keywrap.tables.store import StoreConfig, open_store
from tests.sites import Ran, run

ELSEWHERE = "file:///elsewhere"


@dataclass
class Machine:
    """A folder with blobs, one with backups, and a configuration."""

    folder: Path
    identity: str
    recipient: str

    @property
    def backups(self) -> Path:
        return self.folder / "backups"

    def put(self, name: str, data: bytes, blobs: int = 0) -> PartEntry:
        path = self.backups / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return PartEntry(name, bundles.digest(data), len(data), blobs)

    def bundle(self, campaign: int, shard: int = 1, claim: int = 1) -> str:
        """Write a backup of one blob; return its manifest's name."""
        at = f"campaign-{campaign:06d}"
        head = {
            "format": bundles.FORMAT,
            "store": ELSEWHERE,
            "campaign": campaign,
            "escrow": False,
        }
        part = bundles.seal_part(head, [Kept("a/1", None)], [self.recipient])
        manifest = Manifest(
            format=bundles.FORMAT,
            campaign=campaign,
            store=ELSEWHERE,
            escrow=False,
            recipients=[self.recipient],
            created_at="2026-11-27T00:00:00+00:00",
            blobs=1,
            keys=self.put(
                f"{at}/keys-{shard}-{claim}.age", bundles.encrypt(b"{}", [self.recipient])
            ),
            parts=[self.put(f"{at}/part-{shard}-{claim}.age", part, 1)],
        )
        name = f"{at}/manifest-{shard:09d}-{claim}.json"
        self.put(name, manifest.encode())
        return name

    def newest(self) -> str:
        place = self.backups.as_uri()
        return Bundle.find(Vault(open_store(StoreConfig(url=place)), place), None).name

    def types(self, *words: str, identity: str = "good.key", place: str | None = None) -> Ran:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HOME": str(self.folder),
            "REWRAP_CONFIG": str(self.folder / "rewrap.toml"),
            "BLOB_KEY": secrets.token_hex(32),
            "LC_ALL": "C.UTF-8",
        }
        where = (
            "--from",
            place or self.backups.as_uri(),
            "--identity",
            str(self.folder / identity),
        )
        ran = run(["backup", "restore", *where, *words], environment, self.folder, 60)
        assert "Traceback" not in ran.err, ran
        return ran


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    identity, recipient = bundles.create_identity()
    machine = Machine(tmp_path, identity, recipient)
    (tmp_path / "store").mkdir()
    (tmp_path / "good.key").write_text(f"{identity}\n")
    (tmp_path / "other.key").write_text(f"{bundles.create_identity()[0]}\n")
    (tmp_path / "junk.key").write_text("hello\n")
    (tmp_path / "rewrap.toml").write_text(
        f'[store]\nurl = "{(tmp_path / "store").as_uri()}"\n[keys.env.BLOB_KEY]\n'
        'encoding = "hex"\nscheme = "direct"\n'
    )
    return machine


@pytest.mark.parametrize(
    ("older", "newer"),
    [((2, 27, 9), (2, 27, 10)), ((999_999, 1, 1), (1_000_000, 1, 1)), ((9, 5, 5), (10, 1, 1))],
)
def test_the_newest_backup_is_that_of_the_largest_numbers(
    machine: Machine, older: tuple[int, int, int], newer: tuple[int, int, int]
) -> None:
    machine.bundle(*older)
    expected = machine.bundle(*newer)
    assert machine.newest() == expected


def test_the_plan_names_the_store_that_is_written_and_the_one_it_was_made_of(
    machine: Machine,
) -> None:
    machine.bundle(2)
    ran = machine.types("--yes", "--prefix", "a/")
    assert ran.code == 0, ran
    assert f"into   {(machine.folder / 'store').as_uri()}" in ran.out
    assert "ids that start with 'a/'" in ran.out
    assert f"another store: {ELSEWHERE}" in ran.out


def test_a_prefix_of_no_blob_is_no_success(machine: Machine) -> None:
    machine.bundle(2)
    ran = machine.types("--yes", "--prefix", "typo/")
    assert (ran.code, "[no_such_blobs]" in ran.err) == (2, True), ran
    assert "none of the 1 blobs" in ran.err


@pytest.mark.parametrize("place", ["/srv/backups", "backups", "ftp://x/y", "s3://", "file://h/x"])
def test_what_names_no_place_is_told(machine: Machine, place: str) -> None:
    machine.bundle(2)
    ran = machine.types("--yes", place=place)
    assert (ran.code, "[backup_place_invalid]" in ran.err) == (2, True), ran
    assert "nothing was changed" in ran.err


def test_a_place_that_is_not_there_is_told_as_such(machine: Machine) -> None:
    ran = machine.types("--yes", place=(machine.folder / "no/such").as_uri())
    assert (ran.code, "next: see that the place of the backups is there" in ran.err) == (3, True)
    assert not (machine.folder / "no").exists()


@pytest.mark.parametrize("identity", ["junk.key", "nobody.key"])
def test_an_identity_that_is_none_is_told_before_the_plan_and_none_is_made_in_its_place(
    machine: Machine, identity: str
) -> None:
    machine.bundle(2)
    ran = machine.types("--yes", identity=identity)
    assert (ran.code, "restore:" in ran.out) == (1, False), ran
    assert "age-keygen -o" not in ran.err


def test_the_identity_of_somebody_else_needs_no_ledger_to_be_told(machine: Machine) -> None:
    machine.bundle(2)
    ran = machine.types("--yes", identity="other.key")
    assert (ran.code, "[backup_part_does_not_open]" in ran.err) == (1, True), ran
    assert "rewrap backup list" not in ran.err


def test_keys_that_cannot_be_opened_are_told_before_the_plan(machine: Machine) -> None:
    machine.bundle(2)
    config = machine.folder / "rewrap.toml"
    config.write_text(config.read_text().replace("BLOB_KEY", "MISSING_KEY"))
    ran = machine.types("--yes")
    assert (ran.code, "restore:" in ran.out) == (2, False), ran


def test_one_json_document_and_nothing_else(machine: Machine) -> None:
    machine.bundle(2)
    assert json.loads(machine.types("--json").out)["reason_code"] == "yes_wanted"
    assert json.loads(machine.types("--json", "--yes").out)["restored"] == 0
