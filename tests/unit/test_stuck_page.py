"""Every reason code that the code names is explained on the page for who is stuck."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("keywrap", "ledger", "tasks", "workers", "scheduler")
PAGE = (ROOT / "docs" / "stuck.md").read_text(encoding="utf-8")
LISTED = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
RAISED = re.compile(r"\w*Error|Stop|Wait|_bad|_?denied|_?refused?|_?unavailable")
"""What is called with a reason code first, or somewhere among its arguments."""
NO_CODES = {"ConfigError", "KdfError"}
CODE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+")


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _codes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (_text(k.value) for k in node.keywords if k.arg == "reason_code")
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if RAISED.fullmatch(name) and name not in NO_CODES:
                yield from filter(CODE.fullmatch, map(_text, node.args))
        elif isinstance(node, ast.Assign):
            named = [getattr(one, "id", "") for one in node.targets]
            yield _text(node.value) if "reason_code" in named else ""


@pytest.mark.parametrize("room", ROOMS)
def test_every_reason_code_of_the_code_is_on_the_page(room: str) -> None:
    found = {
        code
        for file in (ROOT / room).rglob("*.py")
        if "testing" not in file.parts
        for code in _codes(ast.parse(file.read_text(encoding="utf-8")))
        if code
    }

    assert found - LISTED == set()


def test_every_code_has_words() -> None:
    assert len(LISTED) > 250
    assert re.findall(r"^\| `\w+` \| *\|$", PAGE, re.MULTILINE) == []
