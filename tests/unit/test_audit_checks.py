from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keywrap.auditchain import Head
from keywrap.audithead import NAME, HeadFile
from keywrap.signing import SigningKey
from keywrap.testing.stores import MemoryStore
from scheduler.checks.audit import checks
from scheduler.checks.check import Status, make
from scheduler.commands.audit import show
from scheduler.trail import Verdict
from workers.audit_table import Audit


def found(table: Audit, store: MemoryStore | None = None) -> dict[str, tuple[Status, str]]:
    store = store or MemoryStore()
    ground: Any = SimpleNamespace(
        settings=SimpleNamespace(audit=table), store=SimpleNamespace(get=lambda: store)
    )
    return {
        line.name: (line.finding.status, line.finding.reason_code) for line in make(checks(ground))
    }


def test_a_folder_that_is_not_made_yet_can_be_written_where_its_parent_can(tmp_path: Path) -> None:
    assert found(Audit(str(tmp_path / "a" / "b")))["audit trail"] == (Status.PASS, "")


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    failed = (Status.FAIL, "audit_not_writable")
    assert found(Audit(str(tmp_path / "file" / "audit")))["audit trail"] == failed
    monkeypatch.setattr("os.access", lambda *_: False)
    assert found(Audit(str(tmp_path)))["audit trail"] == failed


def test_the_head_is_signed_not_signed_or_not_to_be_trusted(tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "audit.key")
    other = SigningKey.create(tmp_path / "other.key")
    unsigned = Audit(str(tmp_path))
    signed = Audit(str(tmp_path), str(key.public), str(tmp_path / "audit.key"))
    mixed = Audit(str(tmp_path), str(other.public), str(tmp_path / "audit.key"))
    missing = Audit(str(tmp_path), str(key.public), str(tmp_path / "none.key"))
    assert found(unsigned)["audit head"] == (Status.WARN, "audit_not_signed")
    assert found(signed)["audit head"] == (Status.PASS, "")
    assert found(mixed)["audit head"] == (Status.FAIL, "audit_key_of_another")
    assert found(missing)["audit head"] == (Status.FAIL, "signing_key_missing")
    store = MemoryStore()
    HeadFile(store, key.public).publish(key, Head(1, bytes(32)), lambda _known: True)
    assert found(signed, store)["audit head"] == (Status.PASS, "")
    store._objects[NAME] += b" "
    assert found(signed, store)["audit head"] == (Status.FAIL, "audit_head_forged")


def test_what_is_chained_and_not_signed_yet_is_told_with_when_it_will_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(Verdict(is_signed=True, entries=3, events=40), 30.0)
    assert "3 of them are not signed yet: a scheduler that has the private key of [audit]" in (
        said := capsys.readouterr().out
    )
    assert "signs them within 30 s" in said
    show(Verdict(is_signed=True), 30.0)
    assert "signed" not in capsys.readouterr().out
