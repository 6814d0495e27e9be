from pathlib import Path

import pytest

from embedded import EmbeddedError
from embedded.azurite import Azurite, installed
from embedded.places import user_cache


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs, beside those of the system's own but for Node.js."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o700)


@pytest.mark.usefixtures("programs")
def test_where_there_is_no_node_there_is_no_azurite_and_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"no Node\.js.*Install"):
        Azurite.start(tmp_path / "azurite")


def test_an_old_node_is_told_apart_from_none(programs: Path, tmp_path: Path) -> None:
    put(programs, "node", "echo v12.22.9")
    with pytest.raises(EmbeddedError, match=r"needs Node\.js 20 or later, not 'v12"):
        Azurite.start(tmp_path / "azurite")


def test_an_installation_that_fails_is_told_and_leaves_nothing_behind(
    programs: Path, tmp_path: Path
) -> None:
    with pytest.raises(EmbeddedError, match="no npm"):
        installed()
    put(programs, "npm", "echo npm ERR! network >&2; exit 1")
    with pytest.raises(EmbeddedError, match="npm ERR! network"):
        installed()
    put(programs, "npm", "exit 0")
    with pytest.raises(EmbeddedError, match="did not install"):
        installed()
    assert list((tmp_path / "cache" / "rewrap").iterdir()) == []


def test_what_npm_installed_is_used_again(programs: Path) -> None:
    place = "$7/node_modules/azurite/dist/src/blob"
    put(programs, "npm", f'/bin/mkdir -p "{place}"; echo >"{place}/main.js"')
    program = installed()
    (programs / "npm").unlink()
    assert installed() == program
    assert program.is_file()


def test_the_cache_that_all_share_is_private_whoever_made_it_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "rewrap").mkdir(mode=0o755)
    for _ in range(2):
        assert user_cache().stat().st_mode & 0o777 == 0o700
