"""What README and docs name is there: commands, options, targets, modules, tests.

tests/acceptance/test_documentation.py types the command lines.
"""

import importlib.util
import re
import shlex
import tomllib

import click
import pytest

from tests.documents import (
    NO_COMMANDS,
    ROOT,
    Line,
    command_of,
    commands,
    fences,
    lines,
    mentions,
    of_rewrap,
    pages,
)

SERVICES = {"AWS", "S3", "Docker", "Kubernetes", "a collector"}
"""What a line may need that is not here."""

KINDS = {"", "sh", "toml", "json", "yaml", "python", "mermaid", "text"}
EXECUTED = {"README.md", "docs/application.md"}
"""The pages with Python, which tests/acceptance and tests/integration execute."""

STARTED_BY_UP = {("scheduler",), ("worker",), ("flower",)}
"""The commands by which `rewrap up`, which README shows, starts its processes."""

ALL = [line for page in pages() for line in lines(page)]
SHOWN = [(line.page, words) for line in ALL for words in of_rewrap(line.text)]
NAMED = [
    (page, words[1:])
    for page in pages()
    for text in mentions(page)
    if text not in NO_COMMANDS
    for words in [shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", text)) if "rewrap " in text else []]
    if words[:1] == ["rewrap"] and len(words) > 1
]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def parsed(page: str, words: list[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    try:
        return command_of(words)
    except click.UsageError as error:
        pytest.fail(f"{page}: rewrap {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("line", ALL, ids=lambda line: f"{line.page}-{line.text[:40]}")
def test_what_a_line_needs_is_something_that_cannot_be_here(line: Line) -> None:
    assert not line.needs or line.needs in SERVICES


def test_every_command_line_parses() -> None:
    for page, words in SHOWN:
        parsed(page, words)
    assert len(SHOWN) > 60


def test_every_command_that_a_sentence_names_is_shown_in_a_block_with_its_options() -> None:
    shown: dict[tuple[str, ...], set[str]] = {}
    for page, words in SHOWN:
        command, options = parsed(page, words)
        shown.setdefault(command, set()).update(options)

    missing = []
    for page, words in NAMED:
        command, options = parsed(page, words)
        if command in STARTED_BY_UP or not command:  # `rewrap --version`
            continue
        of_group = [other for other in shown if other[: len(command)] == command]
        seen = {"as_json", *(one for other in of_group for one in shown[other])}  # all that read
        if not of_group or options - seen:
            missing.append(f"{page}: rewrap {shlex.join(words)}")

    assert missing == []
    assert len(NAMED) > 60


@pytest.mark.parametrize(
    "line", ["rotat", "start migrate --no-such-option", "status 1 2 3", "audit verifi"]
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        command_of(line.split())


def test_the_words_of_a_shell_line_are_taken_apart() -> None:
    line = "A=b rewrap policy aws > 'a b' | bao write - && kubectl exec w -- rewrap status  # it's"
    assert list(commands(line))[:2] == [["rewrap", "policy", "aws"], ["bao", "write", "-"]]
    assert list(of_rewrap(line)) == [["policy", "aws"], ["status"]]
    assert list(of_rewrap("docker compose run --rm desk inventory")) == [["inventory"]]


def test_every_block_is_of_a_known_kind_and_python_stands_where_it_is_executed() -> None:
    found = {(page, info) for page in pages() for info, _ in fences(page)}
    assert {info for _, info in found} <= KINDS
    assert {page for page, info in found if info == "python"} == EXECUTED


def typed_and_named(program: str) -> set[str]:
    """Return every line and mention that begins with a program."""
    found = {line.text for line in ALL} | {text for page in pages() for text in mentions(page)}
    return {re.sub(r"\s+#.*", "", text) for text in found if text.startswith(f"{program} ")}


def test_every_target_of_make_is_there() -> None:
    """CI runs `make test`, a test of its own what `make demo` runs; the others take hours."""
    named = {text.split()[1] for text in typed_and_named("make")}
    assert {"demo", "test", "soak", "venv"} <= named <= TARGETS


def test_every_module_that_is_run_is_there() -> None:
    named = {text.split()[2] for text in typed_and_named("python") if text.split()[1] == "-m"}
    assert len(named) > 4
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


def test_every_test_that_is_named_is_there() -> None:
    wanted = {text.partition("pytest ")[2] for page in pages() for text in mentions(page)}
    named = {text for text in wanted if text.startswith("tests/")}
    assert len(named) > 10
    for text in named:
        files, _, name = text.partition(" -k ")
        for file in files.split():
            code = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"def test_\w*{name}", code), text


def test_every_extra_that_is_named_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages())
    named = set(re.findall(r"keywrap\[(\w+)\]", text))
    assert {"vault", "pkcs11"} <= named <= set(project["project"]["optional-dependencies"])


def test_every_service_and_profile_of_compose_is_there() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for text in typed_and_named("docker compose"):
        for profile in re.findall(r"--profile (\w+)", text):
            assert f"profiles: [{profile}]" in compose, text
        for service in re.findall(r"run --rm (\w+)", text):
            assert re.search(rf"^  {service}:", compose, re.MULTILINE), text
