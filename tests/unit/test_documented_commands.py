"""Every command line of the README and the docs is one that the real commands parse."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from scheduler.commands import rewrap

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_INLINE = re.compile(r"`(?:\.venv/bin/)?rewrap ([^`\n]+)`")
_LINE = re.compile(r"^(?: {4}|)(?:\$ |> )?(?:\.venv/bin/)?rewrap ([^\n]+)", re.MULTILINE)
_END = re.compile(r"\s(?:#|\||&&|>|2>|;|·|&$|<).*| {3,}.*")
"""Where a command line ends, and the shell or a comment goes on."""

NO_COMMANDS = {"approval v1"}
"""What is written like a command and is none: the domain of a signature."""


def lines(text: str) -> Iterator[str]:
    """Yield what follows `rewrap` in each command line."""
    blocks = "\n".join(re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, re.DOTALL))
    indented = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    yield from _INLINE.findall(text)
    for found in _LINE.findall(f"{blocks}\n{indented}".replace("\\\n", " ")):
        yield _END.sub("", found)


COMMANDS = sorted(
    {
        (page.relative_to(ROOT).as_posix(), line)
        for page in PAGES
        for line in lines(page.read_text(encoding="utf-8"))
        if line not in NO_COMMANDS
    }
)


def parse(line: str) -> None:
    """Parse a command line without running it.

    Raises:
        click.UsageError: there is no such command or option, or too much follows.
    """
    command: click.Command = rewrap
    context = click.Context(rewrap, info_name="rewrap")
    optional = line.replace(" [", " ").replace("]", "")  # [--from URL], as manuals write it
    rest = [word for word in shlex.split(optional) if word not in {"…", "..."}]
    while True:
        _, rest, _ = command.make_parser(context).parse_args(rest)
        if not isinstance(command, click.Group) or not rest:
            break
        found = command.get_command(context, rest[0])
        if found is None:
            raise click.UsageError(f"there is no command {rest[0]!r}")
        command, rest = found, rest[1:]
        context = click.Context(command, parent=context)
    if rest:
        raise click.UsageError(f"too much: {rest}")


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_documented_command_line_parses(page: str, line: str) -> None:
    try:
        parse(line)
    except (click.UsageError, ValueError) as error:
        pytest.fail(f"{page}: rewrap {line}: {error}")


@pytest.mark.parametrize(
    "line", ["rotat", "start migrate --no-such-option", "status 1 2 3", "audit verifi"]
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def test_many_are_found() -> None:
    assert len(COMMANDS) > 150
