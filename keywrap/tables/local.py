"""`[keys.local.NAME]`: a KEK kept in a file of ours."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from keywrap.kms import KeyProvider, KmsError
from keywrap.tables.common import ConfigError, read_table

PREFIX = "local:"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class LocalKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A KEK kept in a file: `[keys.local.NAME]`.

    Attributes:
        file: the key file, an absolute path; one that `rewrap create-kek` makes.
    """

    file: str


def read(name: str, value: object) -> LocalKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "[keys.local]", "a key's name has letters, digits, dots, dashes and underscores"
        )
    table = read_table(_place(name), value, LocalKeyConfig)
    if not Path(table.file).is_absolute() or "\0" in table.file:
        raise ConfigError(
            f"{_place(name)} file",
            "a relative path would mean another file in every process",
            next_command=f'file = "/etc/rewrap/{name}.key.json"',
        )
    return table


def open_provider(
    name: str, tables: Mapping[str, LocalKeyConfig], _environ: Mapping[str, str]
) -> KeyProvider:
    """Make the provider of a KEK kept in a file, and see that it can be used.

    Args:
        name: the key's name in `tables`.
        tables: every table of this kind.

    Raises:
        ConfigError: the file is missing, malformed, of another key or open to others.
    """
    # Its locks are of Unix; on Windows, who lists no such key needs none.
    from keywrap.providers.local import LocalKeyProvider  # noqa: PLC0415

    provider = LocalKeyProvider(name, Path(tables[name].file))
    try:
        provider.current_version()
    except KmsError as error:
        is_missing = error.reason_code == "key_file_missing"
        raise ConfigError(
            f"{_place(name)} file",
            str(error),
            next_command=f"rewrap create-kek {PREFIX}{name}" if is_missing else "",
        ) from error
    return provider


def _place(name: str) -> str:
    return f"[keys.local.{name}]"
