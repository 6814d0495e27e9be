"""The tables `[keys]`: the listed KEKs, each kind of provider in a table of its own."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec

from keywrap.keyring import UnlistedKeyError
from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.kms import KeyProvider
from keywrap.tables import aws, env, local, vault
from keywrap.tables.aws import AwsKeyConfig
from keywrap.tables.common import ConfigError, as_mapping, read_table
from keywrap.tables.env import EnvKeyConfig
from keywrap.tables.local import LocalKeyConfig
from keywrap.tables.vault import VaultKeyConfig


class Kind(Protocol):
    """One kind of key provider, as the modules of this package know it: `[keys.<kind>.NAME]`."""

    @property
    def PREFIX(self) -> str:  # noqa: N802 - a constant of its module
        """What precedes a table's name in the URI of its key."""

    def read(self, name: str, value: object, /) -> Any:  # noqa: ANN401 - each has its own table
        """Read and check one table."""

    def open_provider(
        self, name: str, tables: Mapping[str, Any], environ: Mapping[str, str], /
    ) -> KeyProvider:
        """Make the provider of one key; `tables` are all of its kind."""


_KINDS: Mapping[str, Kind] = {
    "env": env,
    "local": local,
    "aws": aws,
    "vault": vault,
}


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listed KEKs.

    Attributes:
        primary: URI of the KEK that new wraps use, without version; empty: only reading.
        env: KEKs kept in the environment, by name.
        local: KEKs kept in files of ours, by name.
        aws: keys of AWS KMS, by ARN.
        vault: Transit keys, by `<mount>/<key name>`.
    """

    primary: str = ""
    env: dict[str, EnvKeyConfig] = msgspec.field(default_factory=dict)
    local: dict[str, LocalKeyConfig] = msgspec.field(default_factory=dict)
    aws: dict[str, AwsKeyConfig] = msgspec.field(default_factory=dict)
    vault: dict[str, VaultKeyConfig] = msgspec.field(default_factory=dict)

    def uris(self) -> tuple[str, ...]:
        """Return the URI of each listed KEK."""
        return tuple(uri for uri, _, _ in self._listed())

    def _listed(self) -> Iterator[tuple[str, str, str]]:
        """Yield the URI, kind and table name of each."""
        for kind, module in _KINDS.items():
            for name in getattr(self, kind):
                yield f"{module.PREFIX}{name}", kind, name

    def open(self, key: str, environ: Mapping[str, str]) -> KeyProvider:
        """Make the provider of one listed KEK; connects to nothing.

        Args:
            key: URI of the KEK, without version.
            environ: the environment variables.

        Raises:
            UnlistedKeyError: it is not listed.
            ConfigError: its secret is missing or malformed, or an extra is not installed.
        """
        for uri, kind, name in self._listed():
            if uri == key:
                return _KINDS[kind].open_provider(name, getattr(self, kind), environ)
        raise UnlistedKeyError(key)


def read_keys(table: Mapping[str, object]) -> KeysConfig:
    """Read and check the tables of all KEKs, one by one, so that an error names its table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    table = dict(table)
    tables = {kind: as_mapping(f"[keys.{kind}]", table.pop(kind, {})) for kind in _KINDS}
    read = {
        kind: {name: _KINDS[kind].read(name, value) for name, value in named.items()}
        for kind, named in tables.items()
    }
    return msgspec.structs.replace(read_table("[keys]", table, KeysConfig), **read)


def legacy_listed(place: str, key: str, keys: KeysConfig) -> bool:
    """See that a key is listed and named without version; whether it is legacy.

    Raises:
        ConfigError: it is not, or is no key id.
    """
    try:
        named = KeyVersion.parse(key)
    except BadKeyIdError as error:
        raise ConfigError(place, str(error)) from error
    if named.version:
        raise ConfigError(place, "expected the key without its version", next_command=named.key)
    if key not in keys.uris():
        listed = ", ".join(keys.uris()) or "no key"
        raise ConfigError(place, f"{key} is not listed; [keys] lists {listed}")
    return named.is_legacy
