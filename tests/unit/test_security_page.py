"""Each attack that the page of security names is made by a test."""

import ast
import re
from pathlib import Path

import pytest
from kombu import serialization
from kombu.exceptions import ContentDisallowed

from workers.celery_settings import SETTINGS

ROOT = Path(__file__).parent.parent.parent
NAMED = re.findall(
    r"^\| .* \| `(tests/[\w/]+\.py)::(\w+)` \|$",
    (ROOT / "docs" / "security.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_many_attacks_are_named() -> None:
    assert len(set(NAMED)) >= 30


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))

    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_a_pickle_in_a_message_is_not_opened() -> None:
    body = [["a shard"], {}, {}]
    accepted = serialization.prepare_accept_content(SETTINGS["accept_content"])

    def loads(name: str) -> object:
        kind, encoding, data = serialization.dumps(body, name)
        return serialization.loads(data, kind, encoding, accept=accepted)  # type: ignore[no-untyped-call]

    assert loads("json") == body
    with pytest.raises(ContentDisallowed):
        loads("pickle")
