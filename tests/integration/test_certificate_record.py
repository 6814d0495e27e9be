"""The record of a campaign, signed: of one moment, no better than what was proved, whole or not."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.exc import DBAPIError

from keywrap.config import ConfigError
from keywrap.datakey import DataKey
from keywrap.signing import SigningKey
from ledger import certificates, findings
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import certifying
from scheduler.certifying import record_of
from scheduler.commands.certificate import certificate, certificate_verify
from scheduler.desk import REFUSED, UNREACHABLE, Desk, DeskError
from tests.rotations import STORE, desk_at
from tests.yards import Yard
from workers.settings import load

DIRECT = '\n[keys.env.BLOB_KEY]\nencoding = "hex"\nscheme = "direct"\n'
DIRECT += '\n[keys.env.OLD_KEK]\nencoding = "hex"\nscheme = "aes-gcm"\n'


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "certificate.key")


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path, key: SigningKey) -> Desk:
    table = f'\n[certificate]\nprivate_key_file = "{tmp_path / "certificate.key"}"\n'
    assert key.public
    return desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()) + DIRECT + table)


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def _done(yard: Yard, kind: Kind, *states: State, **asked: object) -> int:
    campaign = yard.start(kind, **asked)
    assert yard.run(campaign).state in (states or (State.COMPLETE,))
    return campaign


def _typed(desk: Desk, *arguments: object) -> Result:
    return CliRunner().invoke(certificate, [str(a) for a in arguments], obj=desk)


def _refused(result: Result) -> DeskError:
    assert isinstance(result.exception, DeskError), result
    return result.exception


def test_a_record_is_of_one_moment_whatever_is_committed_while_it_is_read(
    yard: Yard, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(3)
    yard.world.write_sidecar("000-direct", b"{ no sidecar")
    campaign = _done(yard, Kind.MIGRATE, State.COMPLETE_WITH_EXCEPTIONS)
    before = record_of(desk, campaign)
    sections = list(certifying.SECTIONS)

    def retry(_subject: certifying.Subject) -> dict[str, Any]:
        for change in (
            "DELETE FROM outcome WHERE outcome = 'quarantined'",
            "UPDATE shard SET quarantined = 0",
            "UPDATE inventory SET key_version_id = NULL",
        ):
            yard.desk.run(change)
        return {}

    monkeypatch.setattr(certifying, "SECTIONS", (sections[0], retry, *sections[1:]))
    now = record_of(desk, campaign)
    assert [e["blob_id"] for e in now["exceptions"]] == ["000-direct"]
    assert now | {"certified_at": ""} == before | {"certified_at": ""}


def test_reading_a_record_cannot_write(ledger: Ledger) -> None:
    with ledger.begin() as connection:
        certificates.of_one_moment(connection)
        with pytest.raises(DBAPIError, match="read-only"):
            findings.add(connection, 1, 0, [])
        connection.rollback()


def test_a_bound_is_stated_for_a_sample_without_a_failure_only(yard: Yard, desk: Desk) -> None:
    yard.plant(6)
    campaign = _done(yard, Kind.VERIFY, sample_size=6)
    bound = record_of(desk, campaign)["proof"]["bad_at_most_ppm_with_99_percent"]
    assert bound == 535_842, "1 - 0.01^(1/6) is 0.53584…, and is rounded up"
    yard.world.write_content("000-direct", b"other", DataKey.generate(), "records-v1")
    campaign = _done(yard, Kind.VERIFY, State.COMPLETE_WITH_EXCEPTIONS, sample_size=6)
    record = record_of(desk, campaign)
    assert record["counts"]["quarantined"] == 1
    assert "bad_at_most_ppm_with_99_percent" not in record["proof"]


def test_a_shared_key_is_counted_where_it_still_opens_content(yard: Yard, desk: Desk) -> None:
    for n in range(4):
        yard.world.plant("direct", f"d{n}")
    yard.world.plant("wrapped", "w")
    migrated = _done(yard, Kind.MIGRATE)
    shared = "shared_keys_that_still_open_content"
    assert record_of(desk, migrated)[shared] == {"env:BLOB_KEY": 4}, "a new wrap ends nothing"
    yard.desk.run(
        "UPDATE outcome SET outcome = 'gone' WHERE blob_id = 'd0';"
        "UPDATE shard SET gone = 1, rewrapped = rewrapped - 1 WHERE kind = 'rewrap'"
    )
    assert record_of(desk, migrated)[shared] == {"env:BLOB_KEY": 3}, "one is gone"
    reencrypted = _done(yard, Kind.REENCRYPT)
    found = record_of(desk, reencrypted)
    assert found["counts"]["rewrapped"] == 5
    assert found[shared] == {}, "a new data key ends it"


@pytest.mark.parametrize(("listed", "room"), [(2, 1 << 20), (100, 200)])
def test_exceptions_beyond_the_list_are_counted_and_digested(
    yard: Yard, desk: Desk, monkeypatch: pytest.MonkeyPatch, listed: int, room: int
) -> None:
    monkeypatch.setattr(certifying, "LISTED", listed)
    monkeypatch.setattr(certifying, "LISTED_BYTES", room)
    for blob_id in yard.plant(5):
        yard.world.write_sidecar(blob_id, b"{ no sidecar")
    campaign = _done(yard, Kind.MIGRATE, State.COMPLETE_WITH_EXCEPTIONS)
    record = record_of(desk, campaign)
    assert len(record["exceptions"]) <= 2
    assert record["more_exceptions"]["blobs"] + len(record["exceptions"]) == 5
    monkeypatch.setattr(certifying, "LISTED_BYTES", 0)
    code = certificate.main([str(campaign)], obj=desk, standalone_mode=False)
    assert code == 1, "it has exceptions, though none is listed"


def _finished(yard: Yard) -> int:
    yard.plant(3)
    return _done(yard, Kind.MIGRATE)


@pytest.mark.parametrize("taken", ["c.json", "c.html"])
def test_nothing_is_written_where_one_of_the_files_is_there(
    yard: Yard, desk: Desk, tmp_path: Path, taken: str
) -> None:
    campaign = _finished(yard)
    (tmp_path / taken).symlink_to("nowhere")
    lay = sorted(tmp_path.iterdir())
    refused = _refused(
        _typed(desk, campaign, "--out", tmp_path / "c.json", "--html", tmp_path / "c.html")
    )
    assert (refused.reason_code, refused.exit_code) == ("already_there", REFUSED)
    assert sorted(tmp_path.iterdir()) == lay


def test_one_file_for_both_is_a_usage_error(yard: Yard, desk: Desk, tmp_path: Path) -> None:
    campaign = _finished(yard)
    (tmp_path / "sub").mkdir()
    result = _typed(desk, campaign, "--out", tmp_path / "c", "--html", tmp_path / "sub/../c")
    assert result.exit_code == 2
    assert "the same file" in result.output
    assert not (tmp_path / "c").exists()


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let files grow to so many bytes and no further, as on a full disk.

    For no longer than a command: what pytest itself writes may go to a larger file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_half_of_a_file_is_left(yard: Yard, desk: Desk, tmp_path: Path) -> None:
    campaign = _finished(yard)
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    with small_files(100):
        refused = _refused(_typed(desk, campaign, "--out", out, "--html", html))
    assert (refused.reason_code, refused.exit_code) == ("file_not_writable", UNREACHABLE)
    assert not out.exists()
    assert not html.exists()


def test_where_the_page_cannot_be_written_the_certificate_stays(
    yard: Yard, desk: Desk, tmp_path: Path
) -> None:
    campaign = _finished(yard)
    out = tmp_path / "c.json"
    refused = _refused(_typed(desk, campaign, "--out", out, "--html", tmp_path / "no" / "c.html"))
    assert refused.reason_code == "file_not_writable"
    assert f"{out} was written" in str(refused)
    assert json.loads(out.read_bytes())["record"]["campaign"] == campaign


def test_both_commands_print_one_document(
    yard: Yard, desk: Desk, tmp_path: Path, key: SigningKey
) -> None:
    campaign = _finished(yard)
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    made = json.loads(_typed(desk, campaign, "--out", out, "--html", html, "--json").output)
    assert (made["campaign"], made["certificate"], made["page"]) == (campaign, str(out), str(html))
    assert made["sha256"] in html.read_text(), "the page names what was signed"
    verify = [str(out), "--public-key", str(key.public), "--json"]
    found = json.loads(CliRunner().invoke(certificate_verify, verify).output)
    assert (found["signed_by"], found["sha256"]) == (str(key.public), made["sha256"])
    assert found["record"] == json.loads(out.read_bytes())["record"]
    assert json.loads(_typed(desk, campaign, "--json").output).keys() == {
        "record",
        "public_key",
        "signature",
    }


def test_a_person_is_told_what_was_certified_and_how_it_is_verified(
    yard: Yard, desk: Desk, tmp_path: Path, key: SigningKey
) -> None:
    campaign = _finished(yard)
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    said = _typed(desk, campaign, "--out", out, "--html", html).output.splitlines()
    assert said[0] == f"wrote {out}, and the page {html}: the certificate of"
    assert said[1].startswith(f"campaign {campaign}, migrate of")
    assert "complete: " in said[2]
    assert f"to {yard.world.target}" in said[2]
    assert said[3] == f"next: rewrap certificate-verify {out} --public-key {key.public}"


def test_the_private_key_is_named_by_an_absolute_path(tmp_path: Path) -> None:
    config = tmp_path / "rewrap.toml"
    store = STORE.format(store=tmp_path.as_uri())
    config.write_text(f'{store}\n[certificate]\nprivate_key_file = "certificate.key"\n')
    with pytest.raises(ConfigError, match="another file"):
        load(str(config), {})
