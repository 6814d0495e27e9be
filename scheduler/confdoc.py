"""The page `docs/configuration.md`, made of the settings classes: `python -m scheduler.confdoc`.

Names, types, limits and defaults are those that the parser goes by; what a setting means is its
line in the class's docstring; which environment variable overrides it is tried on `load` itself.
"""

import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import inspect as types

from keywrap.config import ConfigError, KeywrapConfig
from workers.settings import Settings, load

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

_HEAD = """\
# Every setting

<!-- Made by `python -m scheduler.confdoc > docs/configuration.md`: edit the docstrings instead. -->

`rewrap init` writes a commented `rewrap.toml` to begin with, `rewrap config check` says what is
wrong with yours, and `rewrap config show` prints what counts, defaults and environment filled in
and passwords hidden. The file is `--config`, else the environment variable `REWRAP_CONFIG`, else
`rewrap.toml`. A section or setting that is not on this page is refused.

An environment variable stands only where one overrides the file. Where none stands, none does:
rules of safety (keys, approvals, gates, proof) cannot be weakened from the environment. Secrets
are in no setting: a setting names the file or the variable that holds one. Two variables are
secrets themselves: `REWRAP_FLOWER_BASIC_AUTH` (`user:password`, the sign-in of Flower) and the
password in `REWRAP_LEDGER_URL` or `REWRAP_BROKER_URL`. `NAME` in a table's name is a name of your
own, or of the key, as the page about it says: [keys](keys.md), [stores](stores.md),
[pace](pace.md), [alerts](alerts.md).
"""

_UNITS = {"_percent": "percent", "_days": "days", "_per_s": "a second", "_s": "seconds"}
_TRIED = "not this"
"""Text that no number, port, choice, queue or path of a setting's default is."""


def page() -> str:
    """Return the page, in Markdown."""
    sections = [_HEAD]
    settings = _struct(Settings)
    library = _struct(KeywrapConfig)
    plain = [field for field in settings.fields if field.encode_name == "state_dir"]
    variables = _variables()
    sections.append(_section("", plain, Settings, variables))
    tables = [*library.fields, *(f for f in settings.fields if f.encode_name != "keywrap")]
    for field in tables:
        sections += _tables(field.encode_name, field.type, variables)
    return "\n".join(sections)


def _struct(kind: type[msgspec.Struct]) -> types.StructType:
    return cast("types.StructType", types.type_info(kind))


def _tables(name: str, kind: types.Type, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the section of a table and of those in it; nothing for what is no table."""
    found = _table_of(kind)
    if found is None:
        return
    inner, named = found
    path = f"{name}.NAME" if named else name
    plain = [field for field in inner.fields if _table_of(field.type) is None]
    if plain:
        yield _section(path, plain, inner.cls, variables)
    for field in inner.fields:
        yield from _tables(f"{path}.{field.encode_name}", field.type, variables)


def _table_of(kind: types.Type) -> tuple[types.StructType, bool] | None:
    """Return the table that a type is, and whether there are several by name; None: it is none."""
    if isinstance(kind, types.UnionType):
        return next((found for one in kind.types if (found := _table_of(one))), None)
    if isinstance(kind, types.DictType) and isinstance(kind.value_type, types.StructType):
        return kind.value_type, True
    return (kind, False) if isinstance(kind, types.StructType) else None


def _section(
    path: str, fields: list[types.Field], cls: type[Any], variables: Mapping[str, str]
) -> str:
    meanings = _meanings(cls)
    title = f"[{path}]" if path else "At the top, before any table"
    lines = [f"## `{title}`" if path else f"## {title}", ""]
    if path:
        lines += [(inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "), ""]
    lines += ["| setting | type | default | environment | meaning |", "|---|---|---|---|---|"]
    for field in fields:
        full = f"{path}.{field.encode_name}".lstrip(".")
        variable = f"`{variables[full]}`" if full in variables else ""
        meaning = meanings.get(field.name, "")
        cells = (f"`{field.encode_name}`", _type(field), _default(field), variable, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Return what the part `Attributes` of a docstring says of each."""
    _, _, attributes = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", attributes, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}


def _type(field: types.Field) -> str:
    text = _kind(field.type)
    unit = next((word for end, word in _UNITS.items() if field.name.endswith(end)), "")
    return f"{text}, {unit}" if unit else text


def _kind(kind: types.Type) -> str:
    match kind:
        case types.UnionType():
            text = " or ".join(_kind(one) for one in kind.types if one != types.NoneType())
        case types.LiteralType():
            text = " or ".join(f"`{value}`" for value in kind.values)
        case types.EnumType():
            text = " or ".join(f"`{one.value}`" for one in kind.cls)
        case types.IntType() | types.FloatType():
            text = _number(kind)
        case types.VarTupleType():
            text = f"list of {_kind(kind.item_type)}"
        case types.DictType():
            text = f"table: name = {_kind(kind.value_type)}"
        case types.BoolType():
            text = "`true` or `false`"
        case _:
            text = "text"
    return text


def _number(kind: types.IntType | types.FloatType) -> str:
    word = "whole number" if isinstance(kind, types.IntType) else "number"
    low, high = kind.ge if kind.gt is None else kind.gt, kind.le if kind.lt is None else kind.lt
    bounds = []
    if low is not None:
        bounds.append(f"{'from' if kind.gt is None else 'over'} {low:,}")
    if high is not None:
        bounds.append(f"{'to' if kind.lt is None else 'under'} {high:,}")
    return " ".join([word, *bounds])


def _default(field: types.Field) -> str:
    if field.required:
        return "must be set"
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return "" if default is None else f"`{json.dumps(msgspec.to_builtins(default))}`"


def _variables() -> dict[str, str]:
    """Return the environment variable of each setting that one overrides, by `table.setting`."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rewrap.toml"
        file.write_text('[store]\nurl = "file:///srv/blobs"\n')
        usual = load(str(file), {})
        for name in _names(_struct(Settings), "") + _names(_struct(KeywrapConfig), ""):
            variable = f"REWRAP_{name}".upper().replace(".", "_")
            try:
                changes = load(str(file), {variable: _TRIED}) != usual
            except ConfigError:
                changes = True
            if changes:
                found[name] = variable
    return found


def _names(table: types.StructType, path: str) -> list[str]:
    names = []
    for field in table.fields:
        name = f"{path}{field.encode_name}"
        inner = _table_of(field.type)
        names += _names(inner[0], f"{name}.") if inner else [name]
    return names


if __name__ == "__main__":
    sys.stdout.write(page())
