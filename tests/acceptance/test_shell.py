"""Colours and completion, on a real terminal and in a real shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ptys import Screen

ROOT = Path(__file__).resolve().parents[2]
FAILING = [sys.executable, "-P", "-m", "scheduler", "--config", "none.toml", "preflight"]
"""Prints a line that is red on a terminal."""

COMPLETED = """\
eval "$(rewrap completion bash)"
COMP_WORDS=(rewrap backup res) COMP_CWORD=2 COMPREPLY=()
_rewrap_completion rewrap
echo "${COMPREPLY[@]}"
"""


def _environment(**more: str) -> dict[str, str]:
    return {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


@pytest.mark.parametrize(("more", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_used_on_a_terminal_unless_they_are_not_wanted(
    tmp_path: Path, more: dict[str, str], *, is_coloured: bool
) -> None:
    with Screen(FAILING, _environment(**more), tmp_path) as screen:
        assert screen.end() == 2
        assert "✗" in screen.raw
        assert ("\x1b[" in screen.raw) == is_coloured


def test_a_file_gets_no_colours(tmp_path: Path) -> None:
    done = subprocess.run(
        FAILING,
        env=_environment(TERM="xterm"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "✗" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_bash_completes_by_what_the_command_prints(tmp_path: Path) -> None:
    command = tmp_path / "rewrap"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m scheduler "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETED],
        env=_environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "restore\n"
