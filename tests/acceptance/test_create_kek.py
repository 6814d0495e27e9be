import json
import os
import shlex
from pathlib import Path

import pytest

from tests.sites import Premises, Ran

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CONFIG = """\
[store]
url = "{folder}"

[keys]
primary = "local:blobs"

[keys.local.blobs]
file = "{file}"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.aws."{arn}"]

[keys.vault."team/transit/blob-kek"]
address = "https://bao.internal:8200"
token_env = "BAO_TOKEN"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the listed key's file is to lie."""
    (tmp_path / "keys").mkdir(mode=0o700)
    return tmp_path / "keys" / "blobs.key.json"


@pytest.fixture
def desk(tmp_path: Path, file: Path) -> Premises:
    """A desk where no service runs."""
    (tmp_path / "blobs").mkdir()
    config = CONFIG.format(folder=(tmp_path / "blobs").as_uri(), file=file, arn=ARN)
    return Premises(tmp_path, config, {"BLOB_KEY": os.urandom(32).hex(), "BAO_TOKEN": "none"})


def next_command(ran: Ran) -> list[str]:
    line = next(line for line in ran.err.splitlines() if line.startswith("next: "))
    return shlex.split(line.removeprefix("next: "))


def test_it_makes_the_file_that_a_process_missed_and_tells_nobody_the_key(
    desk: Premises, file: Path
) -> None:
    missed = desk.rewrap("up")
    assert (missed.code, "is not there" in missed.err) == (2, True), missed
    program, *words = next_command(missed)
    assert (program, words) == ("rewrap", ["create-kek", "local:blobs"])
    made = desk.rewrap(*words)
    assert made.code == 0, made
    assert made.out.startswith("created local:blobs?version=1-")
    assert f" in {file}\n" in made.out
    assert file.stat().st_mode & 0o777 == 0o600
    (version,) = json.loads(file.read_bytes())["versions"]
    secrets = [value for value in version.values() if isinstance(value, str) and len(value) > 40]
    assert secrets
    assert not any(secret in made.out + made.err for secret in secrets)


def test_a_file_that_is_there_is_left_as_it_is(desk: Premises, file: Path) -> None:
    assert desk.rewrap("create-kek", "local:blobs").code == 0
    before = file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino
    again = desk.rewrap("create-kek", "local:blobs")
    assert (again.code, again.out) == (4, ""), again
    assert "already_there" in again.err
    assert next_command(again) == ["rewrap", "rotate-kek", "local:blobs"]
    assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) == before


def test_a_file_that_is_no_key_is_left_as_it_is_too(desk: Premises, file: Path) -> None:
    file.write_bytes(b"")
    ran = desk.rewrap("create-kek", "local:blobs")
    assert (ran.code, ran.out, file.read_bytes()) == (4, "", b""), ran


@pytest.mark.parametrize(
    ("key", "says", "step"),
    [
        ("local:blob", "local keys that are: local:blobs", "add [keys.local.blob]"),
        ("local:blobs?version=1", "names a version", "rewrap create-kek local:blobs"),
        ("env:BLOB_KEY", "only unwraps", ""),
        (f"aws-kms://{ARN}", "in its key service", "aws kms create-key"),
        (
            "hcvault://team/transit/blob-kek",
            "in its key service",
            "bao write -f team/transit/keys/blob-kek derived=true",
        ),
        ("azure-kv://blobs.vault.azure.net/keys/kek", "in its key service", "make it there"),
        ("blobs", "not the URI of a key", "rewrap create-kek local:NAME"),
    ],
)
def test_no_file_is_made_for_a_key_that_is_not_listed_or_of_another_kind(
    desk: Premises, file: Path, key: str, says: str, step: str
) -> None:
    ran = desk.rewrap("create-kek", key)
    assert (ran.code, ran.out) == (2, ""), ran
    assert says in ran.err
    assert f"next: {step}" in ran.err if step else "next:" not in ran.err
    assert "nothing was changed" in ran.err
    assert list(file.parent.iterdir()) == []


def test_where_the_folder_is_missing_it_says_how_to_make_it(desk: Premises, file: Path) -> None:
    file.parent.rmdir()
    ran = desk.rewrap("create-kek", "local:blobs")
    assert (ran.code, "key_file_missing" in ran.err) == (3, True), ran
    program, *words = next_command(ran)
    assert (program, words) == ("mkdir", ["-m", "700", str(file.parent)])
