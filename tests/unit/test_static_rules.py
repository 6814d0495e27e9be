"""Rules that the product's code keeps, read off its syntax; each tried on code that breaks it."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("keywrap", "ledger", "tasks", "workers", "scheduler", "embedded")
DOUBLES = ROOT / "keywrap" / "testing"

UNSAFE_FORMATS = frozenset({"pickle", "marshal", "shelve", "dill", "jsonpickle", "cloudpickle"})
"""What is read back from these runs code."""

NAMED_KEYS = {
    "encrypt": {"KeyId"},
    "decrypt": {"KeyId"},
    "re_encrypt": {"SourceKeyId", "DestinationKeyId"},
    "generate_data_key": {"KeyId"},
}
"""Operations of AWS KMS, and the parameters that say under which key: left out, the ciphertext
chooses it."""

LEAST = {
    "celery": (5, 2, 2),  # CVE-2021-23727
    "flower": (1, 2, 0),  # CVE-2022-30034
    "redis": (4, 5, 5),  # CVE-2023-28858, CVE-2023-28859
    "cryptography": (42, 0, 4),  # CVE-2024-26130
    "requests": (2, 32, 0),  # CVE-2024-35195
    "urllib3": (2, 2, 2),  # CVE-2024-37891
    "tornado": (6, 4, 2),  # CVE-2024-52804
    "certifi": (2024, 7, 4),  # CVE-2024-39689
    "mako": (1, 2, 2),  # CVE-2022-40023
}
"""The oldest version without a known hole: asked without a network, since an audit that reaches no
source of advisories finds none."""


def _unsafe_imports(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(name.partition(".")[0] in UNSAFE_FORMATS for name in names):
            yield node


def _puts_without_condition(tree: ast.AST) -> Iterator[ast.AST]:
    """Find writes of an object store's client that say nothing of what may be there."""
    for call in _calls(tree, "put"):
        of = ast.unparse(call.func.value)  # type: ignore[attr-defined]
        given = {keyword.arg for keyword in call.keywords}
        if of.endswith(("client", "obstore")) and "mode" not in given:
            yield call


def _unnamed_keys(tree: ast.AST) -> Iterator[ast.AST]:
    """Find requests to KMS that leave the choice of the key to the ciphertext."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first = call.args[0] if call.args else None
        operation = first.value if isinstance(first, ast.Constant) else None
        wanted = NAMED_KEYS.get(operation) if isinstance(operation, str) else None
        for given in call.args[1:]:
            if wanted and isinstance(given, ast.Dict):
                names = {key.value for key in given.keys if isinstance(key, ast.Constant)}
                if not wanted <= names:
                    yield call


def _late_decoders(tree: ast.AST) -> Iterator[ast.AST]:
    """Find what makes msgspec's decoder of a type only when it is needed."""
    for call in _calls(tree, "decode"):
        if any(keyword.arg == "type" for keyword in call.keywords):
            yield call


def _plain_writes(tree: ast.AST) -> Iterator[ast.AST]:
    """Find writes that leave half a file where they are cut off."""
    yield from (*_calls(tree, "write_text"), *_calls(tree, "write_bytes"))
    for call in (*_calls(tree, "open"), *_calls(tree, "fdopen")):
        modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        if any(isinstance(mode, str) and re.fullmatch("[wa]b?\\+?", mode) for mode in modes):
            yield call


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and node.func.attr == name:
            yield node


Rule = Callable[[ast.AST], Iterator[ast.AST]]

RULES: dict[str, tuple[Rule, str, frozenset[str], str]] = {
    "nothing reads a format that runs code": (
        _unsafe_imports,
        "**/*.py",
        frozenset(),
        "from pickle import loads",
    ),
    # An upload in parts takes no condition (obstore 0.12): it goes to a name that nobody else has.
    "no object is written without a condition": (
        _puts_without_condition,
        "keywrap/**/*.py",
        frozenset({"keywrap/objectuploads.py"}),
        "self._client.put(key, data, use_multipart=False)",
    ),
    "every request to KMS names its key": (
        _unnamed_keys,
        "keywrap/**/*.py",
        frozenset(),
        "send('decrypt', {'CiphertextBlob': wrap})",
    ),
    # msgspec 0.22 crashes the process where two threads make one of the same type at once.
    "decoders are made when a module is imported": (
        _late_decoders,
        "**/*.py",
        frozenset(),
        "msgspec.json.decode(data, type=Answer)",
    ),
    "the file store writes no file in place": (
        _plain_writes,
        "keywrap/file*.py",
        frozenset(),
        "Path(name).write_bytes(data)",
    ),
}


def _files(pattern: str) -> list[Path]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    matching = set(ROOT.glob(pattern))
    return [path for path in found if path in matching and DOUBLES not in path.parents]


@pytest.mark.parametrize("name", RULES)
def test_the_rule_is_kept(name: str) -> None:
    rule, pattern, exceptions, _ = RULES[name]
    files = _files(pattern)
    assert files
    broken = {
        str(path.relative_to(ROOT)): next(rule(ast.parse(path.read_text())), None) for path in files
    }
    assert {file for file, node in broken.items() if node is not None} == exceptions


@pytest.mark.parametrize("name", RULES)
def test_code_that_breaks_the_rule_is_found(name: str) -> None:
    rule, _, _, wrong = RULES[name]
    assert list(rule(ast.parse(wrong)))


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-dev.lock", "requirements-mutants.lock"]
)
def test_no_library_is_older_than_the_mend_of_a_known_hole(lock: str) -> None:
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)", (ROOT / lock).read_text(), re.MULTILINE))
    versions = {name: tuple(map(int, pinned[name].split("."))) for name in LEAST}
    assert {name for name, version in versions.items() if version < LEAST[name]} == set()
