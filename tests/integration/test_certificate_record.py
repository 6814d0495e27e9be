"""What a certificate says, from a real ledger: of one moment, and no more than it proves."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keywrap.config import ConfigError
from keywrap.rewrapping import Outcome, Prove
from keywrap.signing import SigningKey
from ledger import certificates, progress, wishes
from ledger.connection import Connection, Ledger
from ledger.states import Kind, State
from scheduler import certifying
from scheduler.commands.certificate import certificate, certificate_verify
from scheduler.desk import Desk, DeskError
from tests.rotations import STORE, desk_at
from tests.yards import Yard
from workers.settings import load

KEYS = """
[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"
"""


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    SigningKey.create(tmp_path / "certificate.key")
    table = f'[certificate]\nprivate_key_file = "{tmp_path / "certificate.key"}"\n'
    store = STORE.format(store=(tmp_path / "blobs").as_uri())
    return desk_at(tmp_path, ledger, f"{store}{table}{KEYS}")


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def types(desk: Desk, *words: str) -> Result:
    return CliRunner().invoke(certificate, list(words), obj=desk)


def refused(desk: Desk, *words: str) -> DeskError:
    error = types(desk, *words).exception
    assert isinstance(error, DeskError), error
    return error


def test_a_retry_while_it_is_made_does_not_let_it_contradict_itself(
    desk: Desk, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.world.edit(yard.plant(4, ("wrapped",))[0], wrapped_dek="AAAA")
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS

    def retry() -> None:
        with yard.ledger.begin() as connection:
            wishes.retry(connection, yard.desk.get(campaign), quarantined=True)

    recount = certificates.recount

    def meanwhile(connection: Connection, campaign_id: int) -> dict[str, int]:
        found = recount(connection, campaign_id)
        if yard.desk.get(campaign).is_finished:
            thread = threading.Thread(target=retry)
            thread.start()
            thread.join(20)
        return found

    monkeypatch.setattr(certificates, "recount", meanwhile)
    record = certifying.record_of(desk, campaign)
    assert yard.desk.get(campaign).state is State.RUNNING, "it was retried in the middle"
    assert record["state"] == "complete_with_exceptions"
    assert (record["counts"]["quarantined"], len(record["exceptions"])) == (1, 1)


def _proof(desk: Desk, campaign: int) -> dict[str, Any]:
    found: dict[str, Any] = certifying.record_of(desk, campaign)["proof"]
    return found


def test_a_bound_is_given_only_where_nothing_failed_and_is_rounded_up(
    desk: Desk, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = yard.plant(7, ("managed",))
    clean = yard.start(Kind.VERIFY, sample_size=7)
    yard.run(clean)
    # 1 - 0.01^(1/7) = 0.48205…: a bound that is rounded down would claim too much.
    assert _proof(desk, clean)["bad_at_most_ppm_with_99_percent"] == 482_053
    moved = yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=1.0)
    yard.run(moved)
    yard.world.edit(ids[0], wrapped_dek="AAAA")
    bad = yard.start(Kind.VERIFY, sample_size=7)
    yard.run(bad)
    assert "bad_at_most_ppm_with_99_percent" not in _proof(desk, bad)
    # Nor where a proof of a campaign's own has failed.
    counts = dict.fromkeys(Outcome, 0) | {Outcome.FAILED: 1}
    assert "bad_at_most_ppm_with_99_percent" in _proof(desk, moved)
    monkeypatch.setattr(progress, "counts", lambda _c, _id, _kind: counts)
    assert "bad_at_most_ppm_with_99_percent" not in _proof(desk, moved)


def test_a_shared_key_is_named_for_the_blobs_that_it_opens_still(desk: Desk, yard: Yard) -> None:
    ids = yard.plant(5, ("direct",))
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    found = certifying.record_of(desk, campaign)
    assert found["shared_keys_that_still_open_content"] == {"env:BLOB_KEY": 5}
    yard.desk.run(
        "UPDATE outcome SET outcome = 'gone' WHERE blob_id = :b AND campaign_id = :c",
        b=ids[0],
        c=campaign,
    )
    with yard.ledger.begin() as connection:
        counted = certificates.still_opened_by(
            connection, campaign, ["env:BLOB_KEY"], [Outcome.GONE]
        )
    assert counted == {"env:BLOB_KEY": 4}


def test_after_a_reencryption_the_shared_key_opens_nothing_more(desk: Desk, yard: Yard) -> None:
    yard.plant(3, ("direct",))
    campaign = yard.start(Kind.REENCRYPT)
    yard.run(campaign)
    found = certifying.record_of(desk, campaign)
    assert found["shared_keys_that_still_open_content"] == {}


@pytest.fixture
def certified(yard: Yard) -> str:
    yard.plant(2)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    return str(campaign)


def test_neither_file_is_written_where_one_is_there_already(
    desk: Desk, certified: str, tmp_path: Path
) -> None:
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    html.write_text("mine")
    error = refused(desk, certified, "--out", str(out), "--html", str(html))
    assert error.reason_code == "already_there"
    assert (out.exists(), html.read_text()) == (False, "mine")
    html.unlink()
    html.symlink_to(tmp_path / "nowhere")
    assert refused(desk, certified, "--html", str(html)).reason_code == "already_there"


def test_one_file_is_not_two(desk: Desk, certified: str, tmp_path: Path) -> None:
    both = str(tmp_path / "c.json")
    ran = types(desk, certified, "--out", both, "--html", both)
    assert (ran.exit_code, "two files" in ran.output) == (2, True)
    assert not Path(both).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_half_a_certificate_does_not_stay(
    desk: Desk, certified: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.fdopen

    def full(file: int, mode: str) -> Any:
        os.dup2(os.open("/dev/full", os.O_WRONLY), file)
        return opened(file, mode)

    monkeypatch.setattr(os, "fdopen", full)
    out = tmp_path / "c.json"
    assert refused(desk, certified, "--out", str(out)).reason_code == "file_not_writable"
    assert not out.exists()


def test_machines_read_what_was_written(desk: Desk, certified: str, tmp_path: Path) -> None:
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    ran = types(desk, certified, "--out", str(out), "--html", str(html), "--json")
    document = json.loads(ran.output)
    assert document["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    verify = [str(out), "--public-key", document["public_key"], "--json"]
    seen = json.loads(CliRunner().invoke(certificate_verify, verify).output)
    assert (seen["verified"], seen["record"]["campaign"]) == (True, int(certified))
    page = html.read_text()
    record = json.dumps(seen["record"], sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(record).hexdigest() in page


def test_which_file_signs_does_not_hang_on_where_one_stands(tmp_path: Path) -> None:
    path = tmp_path / "rewrap.toml"
    store = STORE.format(store=tmp_path.as_uri())
    path.write_text(f'{store}\n[certificate]\nprivate_key_file = "certificate.key"\n')
    with pytest.raises(ConfigError, match="absolute"):
        load(str(path), {})
