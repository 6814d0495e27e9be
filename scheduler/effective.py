"""The configuration as it counts, with its passwords hidden."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from workers.settings import Settings

_HIDDEN = "***"
_USER = re.compile(r"://.*@")
"""To the last `@`: a password that is not escaped may hold one, and a slash as well."""
_QUERY = re.compile(r"([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def tables(settings: Settings) -> dict[str, Any]:
    """Return the tables of `rewrap.toml` with every value that counts.

    Args:
        settings: the settings, defaults and environment filled in.
    """
    found: dict[str, Any] = msgspec.to_builtins(settings)
    found |= found.pop("keywrap")
    for name in ("ledger", "broker"):
        found[name]["url"] = hidden(found[name]["url"])
    return found


def hidden(url: str) -> str:
    """Return a URL without its user, password and whatever in its query may be a secret."""
    return _QUERY.sub(rf"\1{_HIDDEN}", _USER.sub(f"://{_HIDDEN}@", url))


def toml(tables: Mapping[str, Any]) -> str:
    """Write tables as TOML."""
    return "\n".join(_lines(tables, ())).strip()


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    values = {name: value for name, value in table.items() if value is not None}
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    if path and (plain or not values):
        yield f"\n[{'.'.join(map(_name, path))}]"
    for name, value in plain.items():
        yield f"{_name(name)} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*path, name))


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
