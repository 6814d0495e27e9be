from pathlib import Path

import pytest

from scheduler.node import Node
from workers.settings import Settings, load


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("REWRAP_FLOWER_BASIC_AUTH", raising=False)
    config = tmp_path / "rewrap.toml"
    config.write_text('[store]\nurl = "file:///nowhere"\n')
    return config


def settings_of(config: Path, **environment: str) -> Settings:
    urls = {"REWRAP_LEDGER_URL": "postgresql://nowhere/", "REWRAP_BROKER_URL": "redis://nowhere"}
    return load(str(config), urls | environment)


@pytest.mark.parametrize(("port", "pages"), [("0", []), ("5555", ["flower"])])
def test_there_is_no_flower_where_its_port_is_0(config: Path, port: str, pages: list[str]) -> None:
    settings = settings_of(config, REWRAP_FLOWER_PORT=port)
    services = Node(str(config), settings, 1).services()
    assert [service.name for service in services] == ["scheduler", "worker-1", *pages]


def test_a_sign_in_that_a_crash_left_empty_is_made_anew(config: Path) -> None:
    settings = settings_of(config)
    state = Path(settings.state_dir)
    state.mkdir()
    (state / "flower-sign-in").touch()
    made = Node(str(config), settings, 1).sign_in
    assert made.startswith("operator:")
    assert (state / "flower-sign-in").read_text() == made
