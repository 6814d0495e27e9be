"""The command lines of README and docs, as they stand there.

A line of an indented or `sh` block is a command line: it is executed by a test, or a comment at its
end says what it needs that is not here. `# needs Docker` on a line of its own is about the rest of
its block. What a sentence has in backquotes names a command, which some block must show.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from scheduler.commands import rewrap

ROOT = Path(__file__).resolve().parent.parent
_MARKDOWN = MarkdownIt("commonmark").enable("table")
_SHELL = {"", "sh"}
_NEEDS = re.compile(r"#\s+needs (.+?)\s*$")
_OPERATOR = re.compile(r"[|&;<>]+")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
_IN_COMPOSE = ["docker", "compose", "run", "--rm", "desk"]

NO_COMMANDS = {"rewrap approval v1", "rewrap certificate v1"}
"""What is written like a command and is none: the domains of signatures."""


@dataclass(frozen=True)
class Line:
    """A command line of a block.

    Attributes:
        page: where it stands.
        section: the heading above it.
        text: what is typed, its comment with it; of several lines where they are continued.
        needs: what it needs that is not here; empty: nothing.
    """

    page: str
    section: str
    text: str
    needs: str

    @property
    def program(self) -> str:
        return self.text.split()[0]


def pages() -> list[str]:
    """Return the pages of the documentation, the README first."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    found += sorted((ROOT / "docs").rglob("*.md"))
    return [page.relative_to(ROOT).as_posix() for page in found]


def _tokens(page: str) -> list[Token]:
    return _MARKDOWN.parse((ROOT / page).read_text(encoding="utf-8"))


def fences(page: str) -> Iterator[tuple[str, str]]:
    """Yield the info string and the content of each fenced block."""
    for token in _tokens(page):
        if token.type == "fence":
            yield token.info.strip(), token.content


def lines(page: str) -> Iterator[Line]:
    """Yield the command lines of a page, in order."""
    section = ""
    for before, token in pairwise(_tokens(page)):
        if before.type == "heading_open":
            section = token.content
        elif token.type == "code_block" or (token.type == "fence" and token.info in _SHELL):
            yield from _of_block(page, section, token.content)


def _of_block(page: str, section: str, content: str) -> Iterator[Line]:
    needs = ""
    typed = content.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in typed):  # the others are what was answered
        typed = [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]
    for text in typed:
        found = _NEEDS.search(text)
        if text.startswith("#") and found:
            needs = found[1]
        elif text.strip():
            yield Line(page, section, text.strip(), found[1] if found else needs)


def mentions(page: str) -> Iterator[str]:
    """Yield what a page has in backquotes."""
    for token in _tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell line: neither comments nor redirections."""
    reader = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    words: list[str] = []
    redirects = False
    for word in reader:
        if _OPERATOR.fullmatch(word):
            redirects = "<" in word or ">" in word
            if not redirects:
                yield words
                words = []
        elif not redirects and (words or not _ASSIGNMENT.match(word)):
            words.append(word)
        else:
            redirects = False
    yield words


def of_rewrap(text: str) -> Iterator[list[str]]:
    """Yield the words behind each `rewrap` of a shell line, also where another program runs it."""
    for words in commands(text):
        if words[:1] == ["rewrap"]:
            yield words[1:]
        elif words[: len(_IN_COMPOSE)] == _IN_COMPOSE:
            yield words[len(_IN_COMPOSE) :]
        elif "--" in words and words[words.index("--") + 1] == "rewrap":
            yield words[words.index("--") + 2 :]


def command_of(words: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Parse a command line without running it.

    Returns:
        The names of the command and the options that were given.

    Raises:
        click.UsageError: there is no such command or option, or too much follows.
    """
    command: click.Command = rewrap
    context = click.Context(rewrap, info_name="rewrap")
    rest = [word for word in words if word not in {"…", "..."}]
    path: list[str] = []
    while True:
        given, rest, _ = command.make_parser(context).parse_args(list(rest))
        if not isinstance(command, click.Group) or not rest:
            break
        name, found, rest = command.resolve_command(context, rest)
        assert name is not None
        assert found is not None
        path.append(name)
        command = found
        context = click.Context(command, parent=context)
    if rest:
        raise click.UsageError(f"too much: {rest}")
    arguments = {one.name for one in command.params if isinstance(one, click.Argument)}
    return tuple(path), frozenset(given) - arguments
