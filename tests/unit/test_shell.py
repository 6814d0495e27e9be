"""What every command keeps to, for whoever types it: help, versions, completion, colours."""

import inspect
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from keywrap import __version__
from ledger import HEAD
from scheduler import commands
from scheduler.__main__ import main
from scheduler.commands import rewrap
from scheduler.commands.services import speak

EXAMPLE = re.compile(r"^Examples?: (.+?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from _walk(found, (*path, name))


COMMANDS = dict(_walk(rewrap, ("rewrap",)))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_says_what_it_does_and_has_an_example_of_itself(path: str) -> None:
    command = COMMANDS[path]
    text = inspect.cleandoc(command.help or "")
    assert text.partition("\n")[0].endswith(".")
    found = EXAMPLE.search(text)
    assert found, f"{path} has no example"
    words = shlex.split(found[1].replace("\n", " "), comments=False)
    first = words.index("rewrap")
    typed = [word for word in words[first:] if word in path.split() or path == "rewrap"]
    assert typed[: len(path.split())] == path.split()


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_says_what_it_is_for(path: str) -> None:
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option):
            assert option.help, f"{path} {option.opts}"


def test_the_exit_codes_stand_in_the_first_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 finished with", "2 wrong", "3 something", "4 refused", "130 Ctrl-C"):
        assert code in said


def test_it_tells_its_version_and_the_schema_that_it_wants(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rewrap {__version__}, ledger schema {HEAD}\n"


def test_the_list_of_commands_says_of_each_what_it_says_itself() -> None:
    assert rewrap.commands.keys() == commands._PLACES.keys()
    for name, listed in rewrap.commands.items():
        said = " ".join((COMMANDS[f"rewrap {name}"].help or "").split())
        assert said.startswith((listed.help or "?").removesuffix(".")), name


def test_a_mistyped_command_is_answered_with_what_may_be_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["statsu"]) == 2
    assert "'status'" in capsys.readouterr().err


CLIENTS = {"boto3", "celery", "hvac", "kombu", "obstore", "psycopg", "pyarrow", "redis", "requests"}
"""What only a command that opens a store, a key, the ledger or the broker has to load."""

SLOW = CLIENTS | {"cryptography", "msgspec", "rich", "sqlalchemy", "structlog", "tenacity"}


@pytest.mark.parametrize(
    ("words", "unused"),
    [("--version", SLOW), ("--help", SLOW), ("status --help", CLIENTS), ("up --help", CLIENTS)],
)
def test_nobody_waits_for_what_a_command_does_not_use(words: str, unused: set[str]) -> None:
    code = (
        "import sys; from scheduler.__main__ import main; main(sys.argv[1:])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in ran.stderr.split()}
    assert "click" in loaded
    assert loaded & unused == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_prints_what_makes_a_shell_complete(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    assert main(["completion", shell]) == 0
    assert f"_REWRAP_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("rewrap cert", "certificate-verify"), ("rewrap backup res", "restore")],
)
def test_it_completes_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, offered: str
) -> None:
    monkeypatch.setenv("_REWRAP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    assert main([]) == 0
    assert f"plain,{offered}" in capsys.readouterr().out.splitlines()


def test_what_an_embedded_server_changes_on_this_machine_is_told_as_a_sentence(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    teller = logging.getLogger("tests.embedded")
    speak(teller)
    teller.getChild("account").warning("%s may be passed through", "/srv", extra={"event": "e"})
    assert capsys.readouterr() == ("/srv may be passed through\n", "")
    assert caplog.messages == [], "and not as a line of the log besides"
