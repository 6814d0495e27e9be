"""What to type next: that it names what is known, and leads on."""

from pathlib import Path

import pytest

from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import waits
from scheduler.checks import staging
from scheduler.checks.ground import Ground
from tests.desks import desk_of
from tests.rotations import STORE, desk_at

KEYS = """
legacy_default = "env:BLOB_KEY"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.env.OTHER_KEY]
encoding = "hex"
scheme = "direct"
"""


def test_a_backup_ends_with_the_command_that_verifies_it(ledger: Ledger) -> None:
    desk = desk_of(ledger)
    campaign = desk.campaign(Kind.BACKUP)
    desk.force(campaign, State.COMPLETE)
    assert waits.after(desk.get(campaign)) == f"rewrap backup verify {campaign} --identity FILE"


def test_a_key_that_wraps_nothing_is_taken_out_of_legacy_default_too(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blobs").mkdir()
    store = STORE.format(store=(tmp_path / "blobs").as_uri())
    desk = desk_at(tmp_path, ledger, store + KEYS)
    for name in ("BLOB_KEY", "OTHER_KEY"):
        monkeypatch.setenv(name, "07" * 32)
    asked = desk_of(ledger)
    place = desk.settings.keywrap.store.place
    asked.force(asked.campaign(Kind.INVENTORY, store=place), State.COMPLETE)
    asked.run("UPDATE campaign SET finished_at = clock_timestamp()")
    default, other = (
        staging.of_keys(Ground(desk, 1), key.__eq__) for key in ("env:BLOB_KEY", "env:OTHER_KEY")
    )
    assert default.reason_code == other.reason_code == "no_blob_of_key"
    also = " and legacy_default, which names it, out of [store]"
    assert f"out of [keys]{also}, unless" in default.next_command
    assert "out of [keys], unless" in other.next_command
