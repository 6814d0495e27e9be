"""What the configuration says of old contents, and what no environment variable changes."""

from pathlib import Path

import pytest

from keywrap.config import ConfigError
from workers.settings import Settings, load

DAY_S = 86_400.0


def _load(folder: Path, more: str = "", **environ: str) -> Settings:
    path = folder / "rewrap.toml"
    path.write_text(f'[store]\nurl = "file:///nowhere"\n{more}')
    return load(str(path), environ)


def test_nothing_is_removed_unless_the_configuration_says_so(tmp_path: Path) -> None:
    found = _load(tmp_path).reencrypt
    assert (found.sweep, found.grace_s) == (False, 7 * DAY_S)


def test_no_environment_variable_lets_anything_be_removed_or_earlier(tmp_path: Path) -> None:
    environ = {"REWRAP_REENCRYPT_SWEEP": "true", "REWRAP_REENCRYPT_GRACE_S": "86400"}
    found = _load(tmp_path, **environ).reencrypt
    assert (found.sweep, found.grace_s) == (False, 7 * DAY_S)


@pytest.mark.parametrize("grace_s", ["0", "3600", "86399", "-1", "nan", '"7"'])
def test_a_grace_time_has_a_day_at_the_least(tmp_path: Path, grace_s: str) -> None:
    with pytest.raises(ConfigError):
        _load(tmp_path, f"[reencrypt]\nsweep = true\ngrace_s = {grace_s}\n")
    assert _load(tmp_path, "[reencrypt]\ngrace_s = 86400\n").reencrypt.grace_s == DAY_S
