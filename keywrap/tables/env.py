"""`[keys.env.NAME]`: a KEK kept in the environment."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec

from keywrap.providers.env import Encoding, EnvKeyError, EnvKeyProvider, Scheme
from keywrap.tables.common import ConfigError, read_table, secret_file, secret_variable

PREFIX = "env:"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_CHOICES = {"encoding": get_args(Encoding), "scheme": get_args(Scheme)}


class EnvKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A KEK kept in the environment: `[keys.env.NAME]`.

    Attributes:
        encoding: how the key is written; never guessed.
        scheme: `aes-gcm` where it wraps data keys, `direct` where it is the data key.
        variable: the environment variable that holds it; the table's name if neither is set.
        file: the file that holds it, instead.
    """

    encoding: Encoding
    scheme: Scheme
    variable: str = ""
    file: str = ""


def read(name: str, value: object) -> EnvKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    place = f"[keys.env.{name}]"
    if not _NAME.fullmatch(name):
        raise ConfigError("[keys.env]", "a key's name has letters, digits and underscores")
    table = read_table(place, value, EnvKeyConfig, _CHOICES)
    if table.variable and table.file:
        raise ConfigError(place, "expected `variable` or `file`, not both")
    return table


def open_provider(
    name: str, tables: Mapping[str, EnvKeyConfig], environ: Mapping[str, str]
) -> EnvKeyProvider:
    """Make the provider of a KEK kept in the environment.

    Args:
        name: the key's name in `tables`.
        tables: every table of this kind.
        environ: the environment variables.

    Raises:
        ConfigError: its variable or file is missing, or does not hold such a key.
    """
    table, place = tables[name], f"[keys.env.{name}]"
    if table.file:
        text = secret_file(f"{place} file", Path(table.file))
        if table.encoding != "raw":
            text = text.removesuffix(b"\n").removesuffix(b"\r")  # as editors end a file
    else:
        variable = table.variable or name
        text = secret_variable(f"{place} variable", variable, environ).encode(
            "utf-8", "surrogateescape"
        )
    try:
        return EnvKeyProvider.from_text(name, text, table.encoding, table.scheme)
    except EnvKeyError as error:
        raise ConfigError(
            place,
            f"the key cannot be read: {error}",
            next_command=f"check `encoding` in {place} and the key that is set",
        ) from error
