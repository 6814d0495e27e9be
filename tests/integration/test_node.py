from pathlib import Path

import pytest

from scheduler.node import Node
from workers.settings import load


def test_a_sign_in_that_a_crash_left_empty_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REWRAP_FLOWER_BASIC_AUTH", raising=False)
    config = tmp_path / "rewrap.toml"
    config.write_text('[store]\nurl = "file:///nowhere"\n')
    urls = {"REWRAP_LEDGER_URL": "postgresql://nowhere/", "REWRAP_BROKER_URL": "redis://nowhere"}
    settings = load(str(config), urls)
    state = Path(settings.state_dir)
    state.mkdir()
    (state / "flower-sign-in").touch()
    made = Node(str(config), settings, 1).sign_in
    assert made.startswith("operator:")
    assert (state / "flower-sign-in").read_text() == made
