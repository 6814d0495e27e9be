import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keywrap.dpapi import credentials
from keywrap.dpapi.blob import Blob
from keywrap.dpapi.ring import MasterKeyRing
from keywrap.testing.dpapi import Account, make_master_key_file
from scheduler.commands import dpapi, rewrap
from scheduler.desk import DeskError
from tests.sites import Premises

SID = "S-1-5-21-1111111111-2222222222-3333333333-1001"
PASSWORD = "correct hörse"
SYSTEM = b"\1\0\0\0" + os.urandom(40)


class Protect:
    """A folder with master key files, as one was copied from Windows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accounts: list[Account] = []
        self.ring = folder / "ring.json"

    def add(self, prekey: bytes, domain: rsa.RSAPrivateKey | None = None) -> Path:
        account = Account()
        self.accounts.append(account)
        path = self.folder / account.guid
        path.write_bytes(
            make_master_key_file(
                account.guid,
                account.master_key,
                prekey,
                rounds=20,
                domain_key=domain.public_key() if domain else None,
            )
        )
        return path

    def secret(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def opens_all(self) -> bool:
        ring = MasterKeyRing.read(self.ring)
        return all(
            ring.open(Blob.parse(each.protect(b"data key")), b"") == b"data key"
            for each in self.accounts
        ) and len(set(ring)) == len(self.accounts)

    def shown(self, text: str) -> bool:
        """Whether a key of this folder stands in a text."""
        return any(each.master_key.hex()[:12] in text for each in self.accounts)


@pytest.fixture
def protect(tmp_path: Path) -> Protect:
    return Protect(tmp_path)


def typed(protect: Protect, *words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(
        rewrap, ["dpapi-ring", "--out", str(protect.ring), *map(str, words)], input=answer
    )


def refusal(result: Result) -> DeskError:
    assert isinstance(result.exception, DeskError), result
    return result.exception


def local(protect: Protect) -> Path:
    return protect.add(credentials.prekeys_of_password(PASSWORD, SID)[0])


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_local_accounts_files_open_with_password_and_sid(protect: Protect, ending: str) -> None:
    files = [local(protect) for _ in range(3)]
    password = protect.secret("password", PASSWORD + ending)
    done = typed(protect, "--password-file", password, "--sid", SID, *files)
    assert done.exit_code == 0, done
    assert protect.opens_all()
    assert stat.S_IMODE(protect.ring.stat().st_mode) == 0o600
    for account in protect.accounts:
        assert f"added {account.guid}" in done.output
    assert not protect.shown(done.output)
    assert PASSWORD not in done.output


def test_a_domain_accounts_files_open_with_the_nt_hash(protect: Protect) -> None:
    prekeys = credentials.prekeys_of_nt_hash(bytes(range(16)), SID)
    files = [protect.add(prekey) for prekey in prekeys]
    secret = protect.secret("nt", bytes(range(16)).hex() + "\n")
    assert typed(protect, "--nt-hash-file", secret, "--sid", SID, *files).exit_code == 0
    assert protect.opens_all()


def test_the_machines_files_open_with_dpapi_system(protect: Protect) -> None:
    files = [protect.add(SYSTEM[4:24]), protect.add(SYSTEM[24:])]
    secret = protect.secret("system", SYSTEM.hex())
    assert typed(protect, "--dpapi-system-file", secret, *files).exit_code == 0
    assert protect.opens_all()


def test_a_domains_files_open_with_its_backup_key(protect: Protect) -> None:
    key = rsa.generate_private_key(65537, 2048)
    files = [protect.add(os.urandom(20), key) for _ in range(2)]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secret = protect.secret("backup.pem", pem)
    assert typed(protect, "--domain-backup-key", secret, *files).exit_code == 0
    assert protect.opens_all()


def test_the_password_is_asked_for_without_showing_it(
    protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = local(protect)
    asked = typed(protect, "--sid", SID, file, answer=PASSWORD + "\n")
    assert "no terminal" in str(refusal(asked))
    monkeypatch.setattr(dpapi, "_is_terminal", lambda: True)
    done = typed(protect, "--sid", SID, file, answer=PASSWORD + "\n")
    assert done.exit_code == 0, done
    assert PASSWORD not in done.output
    assert protect.opens_all()


def test_nothing_is_written_unless_every_file_opens(protect: Protect) -> None:
    good, other = local(protect), protect.add(os.urandom(20))
    preferred = protect.secret("Preferred", os.urandom(24))
    password = protect.secret("password", PASSWORD)
    missing = protect.folder / "missing"
    words = ("--password-file", password, "--sid", SID, good, other, preferred, missing)
    error = refusal(typed(protect, *words))
    assert (error.exit_code, error.reason_code) == (4, "master_key_not_opened")
    message = str(error)
    assert "1 of 4 files open; nothing was written" in message
    assert f"{other}: it does not open with this credential" in message
    assert f"{preferred}: it is no" in message
    assert f"{missing}: it cannot be read: No such file" in message
    assert str(good) not in message
    assert not protect.ring.exists()


def test_a_ring_that_is_there_is_left_as_it_is_unless_keys_are_added(protect: Protect) -> None:
    password = protect.secret("password", PASSWORD)
    words = ("--password-file", password, "--sid", SID)
    first = local(protect)
    assert typed(protect, *words, first).exit_code == 0
    before = protect.ring.read_bytes()
    second = local(protect)
    error = refusal(typed(protect, *words, second))
    assert (error.exit_code, error.reason_code) == (4, "already_there")
    assert protect.ring.read_bytes() == before
    added = typed(protect, "--add", *words, first, second)
    assert added.exit_code == 0, added
    assert f"known {protect.accounts[0].guid}" in added.output
    assert f"added {protect.accounts[1].guid}" in added.output
    assert protect.opens_all()
    assert stat.S_IMODE(protect.ring.stat().st_mode) == 0o600
    assert not [each for each in protect.folder.iterdir() if each.name.startswith(".")]


def test_a_ring_that_another_made_meanwhile_is_left_as_it_is(
    protect: Protect, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, password = local(protect), protect.secret("password", PASSWORD)
    opened, theirs = dpapi._opened, Account().ring()

    def meanwhile(*arguments: Any) -> Any:
        theirs.write(protect.ring)
        return opened(*arguments)

    monkeypatch.setattr(dpapi, "_opened", meanwhile)
    error = refusal(typed(protect, "--password-file", password, "--sid", SID, file))
    assert error.reason_code == "already_there"
    assert protect.ring.read_bytes() == theirs.to_bytes()


def test_keys_are_added_to_a_sound_ring_only_and_never_over_another_key(protect: Protect) -> None:
    file, password = local(protect), protect.secret("password", PASSWORD)
    words = ("--add", "--password-file", password, "--sid", SID, file)
    assert "is not there" in str(refusal(typed(protect, *words)))
    Account(protect.accounts[0].guid).ring().write(protect.ring)
    before = protect.ring.read_bytes()
    assert "another key under" in str(refusal(typed(protect, *words)))
    protect.ring.chmod(0o644)
    assert "chmod 600" in str(refusal(typed(protect, *words)))
    assert protect.ring.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no credential is given"),
        (["--password-file", "secret", "--nt-hash-file", "secret"], "more than one credential"),
        (["--password-file", "secret"], "--password-file needs --sid"),
        (["--nt-hash-file", "secret"], "--nt-hash-file needs --sid"),
        (["--dpapi-system-file", "secret", "--sid", SID], "takes no --sid"),
        (["--domain-backup-key", "secret", "--sid", SID], "takes no --sid"),
        (["--password-file", "secret", "--sid", "1001"], "a SID is written"),
        (["--password-file", "binary", "--sid", SID], "not UTF-8"),
        (["--nt-hash-file", "secret", "--sid", SID], "not hexadecimal"),
        (["--dpapi-system-file", "secret"], "not hexadecimal"),
        (["--domain-backup-key", "secret"], "neither PEM nor"),
        (["--dpapi-system-file", "empty"], "is empty"),
        (["--dpapi-system-file", "missing"], "cannot be read"),
    ],
)
def test_a_wrong_use_is_told_and_shows_no_secret(
    protect: Protect, words: list[str], says: str
) -> None:
    file = local(protect)
    protect.secret("secret", "hunter2-hunter2")
    protect.secret("binary", b"\xff\xfe")
    protect.secret("empty", b"")
    names = ("secret", "binary", "empty", "missing")
    full = [str(protect.folder / word) if word in names else word for word in words]
    error = refusal(typed(protect, *full, file))
    assert (error.exit_code, error.reason_code) == (2, "usage")
    assert says in str(error)
    assert "hunter2" not in str(error)
    assert not protect.ring.exists()


def test_a_ring_made_by_the_command_itself_opens_blobs(tmp_path: Path) -> None:
    protect = Protect(tmp_path)
    desk = Premises(tmp_path / "desk", "", {})
    file, password = local(protect), protect.secret("password", PASSWORD)
    words = ("--out", str(protect.ring), "--sid", SID, str(file))
    wrong = desk.rewrap("dpapi-ring", *words)
    assert (wrong.code, "no terminal" in wrong.err) == (2, True), wrong
    made = desk.rewrap("dpapi-ring", "--password-file", str(password), *words)
    assert made.code == 0, made
    assert protect.opens_all()
    again = desk.rewrap("dpapi-ring", "--password-file", str(password), *words)
    assert (again.code, "already_there" in again.err) == (4, True), again
    for ran in (wrong, made, again):
        assert not protect.shown(ran.out + ran.err)
        assert PASSWORD not in ran.out + ran.err
