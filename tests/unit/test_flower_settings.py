"""`[flower]`: what an environment may change, and what it may not."""

from pathlib import Path

import pytest

from keywrap.config import ConfigError
from workers.settings import Settings, load


def read(folder: Path, table: str, **environ: str) -> Settings:
    config = folder / "rewrap.toml"
    config.write_text(f'[store]\nurl = "file:///nowhere"\n\n[flower]\n{table}\n')
    return load(str(config), environ)


def test_actions_are_off_and_no_variable_turns_them_on(tmp_path: Path) -> None:
    assert not read(tmp_path, "").flower.actions
    assert not read(tmp_path, "", REWRAP_FLOWER_ACTIONS="true").flower.actions
    on = read(tmp_path, "actions = true", REWRAP_FLOWER_ACTIONS="false", REWRAP_FLOWER_PORT="99")
    assert (on.flower.actions, on.flower.port) == (True, 99)
    with pytest.raises(ConfigError):
        read(tmp_path, 'actions = "true"')


@pytest.mark.parametrize("prefix", ["flower", "/flower", "ops/flower-2", "", "/a_b/c"])
def test_a_prefix_is_a_path(tmp_path: Path, prefix: str) -> None:
    assert read(tmp_path, f'url_prefix = "{prefix}"').flower.url_prefix == prefix
    assert read(tmp_path, "", REWRAP_FLOWER_URL_PREFIX=prefix).flower.url_prefix == prefix


@pytest.mark.parametrize("prefix", ["//evil.example", "a//b", "a/", "a b", "../x", "a?b", "a\\nb"])
def test_what_is_no_path_is_no_prefix(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, f'url_prefix = "{prefix}"')
