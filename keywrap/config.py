"""The store and the keys that this installation lists, and how to reach them.

The tables `[store]`, `[keys]`, `[control]` and `[cache]` of `rewrap.toml`. Secrets are never in
them: they name an environment variable or a file. What is not listed here cannot be used: a
sidecar, control file or message names keys, but never adds one.
"""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self

import msgspec

from keywrap.contents import ContentError, content_format
from keywrap.keyring import KeyRing
from keywrap.keys import DPAPI, KeyVersion
from keywrap.kms import KeyProvider
from keywrap.layout import Layout
from keywrap.reading import SidecarReader
from keywrap.stores import Store
from keywrap.tables import store as store_table
from keywrap.tables.cache import CacheConfig, read_cache
from keywrap.tables.common import ConfigError, as_mapping, read_table
from keywrap.tables.control import ControlConfig, read_control
from keywrap.tables.keys import KeysConfig, legacy_listed, read_keys
from keywrap.tables.store import StoreConfig, check_store

__all__ = [
    "TABLES",
    "CacheConfig",
    "ConfigError",
    "ControlConfig",
    "KeysConfig",
    "KeywrapConfig",
    "StoreConfig",
    "layout",
    "open_key",
    "open_keys",
    "open_reader",
    "open_store",
    "read_file",
]

_KEY_LOG = "SSLKEYLOGFILE"

TABLES = frozenset({"store", "keys", "control", "cache"})
"""The tables of `rewrap.toml` that are the library's."""


class KeywrapConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `keywrap` needs to know: one store, the KEKs of its blobs, and who controls it.

    Attributes:
        store: where the blobs lie.
        keys: the listed KEKs.
        control: whose control file is obeyed; None: none is.
        cache: how long an application keeps opened data keys; None: it does not.
    """

    store: StoreConfig
    keys: KeysConfig = msgspec.field(default_factory=KeysConfig)
    control: ControlConfig | None = None
    cache: CacheConfig | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, object]) -> Self:
        """Read and check the tables `TABLES`; reads no secret and connects to nothing.

        Args:
            table: these tables, as `tomllib` gives them, and no other.

        Raises:
            ConfigError: something is missing, unknown, of another type or contradicts the rest.
        """
        for name in sorted(table.keys() - TABLES):
            raise ConfigError(f"[{name}]", "there is no such table; expected [store] and [keys]")
        store = read_table("[store]", table.get("store", {}), StoreConfig)
        keys = read_keys(as_mapping("[keys]", table.get("keys", {})))
        control = read_control(table["control"]) if "control" in table else None
        cache = read_cache(table["cache"]) if "cache" in table else None
        config = cls(store=store, keys=keys, control=control, cache=cache)
        _check_store(config)
        _check_primary(config.keys)
        return config


def layout(config: KeywrapConfig) -> Layout:
    """Return the store's naming rule.

    Raises:
        ConfigError: the two suffixes cannot be told apart.
    """
    try:
        return Layout(config.store.blob_suffix, config.store.sidecar_suffix)
    except ValueError as error:
        raise ConfigError("[store] sidecar_suffix", str(error)) from error


def open_store(config: KeywrapConfig, *, threads: int = 8) -> Store:
    """Open the configured store; see `keywrap.tables.store.open_store`."""
    return store_table.open_store(config.store, threads=threads)


def open_reader(config: KeywrapConfig, *, threads: int = 8) -> SidecarReader:
    """Open the configured store and make the reader of its sidecars.

    Args:
        config: the configuration.
        threads: how many threads will use the store at once.

    Raises:
        ConfigError: its URL or naming rule cannot be used.
        StoreUnavailableError: the store is not there.
    """
    default = config.store.legacy_default
    legacy = None
    if default:
        legacy = DPAPI if default == DPAPI.key else KeyVersion.parse(default)
    return SidecarReader(open_store(config, threads=threads), layout(config), legacy)


def read_file(path: Path) -> dict[str, object]:
    """Read a TOML file.

    Raises:
        ConfigError: it is not there, cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            str(path), "there is no such configuration", next_command="rewrap init"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from error


def open_keys(
    config: KeywrapConfig, environ: Mapping[str, str], *, queues: Collection[str] | None = None
) -> KeyRing:
    """Make the provider of every listed KEK; connects to nothing.

    A worker is to fail at its start and not at the first blob that needs a missing secret, so
    every secret is looked for now.

    Args:
        config: the configuration.
        environ: the environment variables, as `os.environ`.
        queues: the queues that this process serves. A key whose table names another queue is not
            opened, since its secrets are on other hosts: each wrap of it is refused with the
            reason `key_elsewhere`. None: all are opened.

    Raises:
        ConfigError: a secret is missing or malformed, or an extra is not installed.
    """
    _check_environment(environ)
    providers, families = config.keys.open_all(environ, queues)
    return KeyRing(providers, primary=config.keys.primary or None, families=families)


def _check_environment(environ: Mapping[str, str]) -> None:
    """See that the clients of key services do not write down the keys of their connections."""
    if environ.get(_KEY_LOG):
        raise ConfigError(
            f"the environment variable {_KEY_LOG}",
            "lets the clients of key services write down the keys of their connections, and so "
            "every data key on them",
            next_command=f"unset {_KEY_LOG}",
        )


def open_key(config: KeywrapConfig, key: str, environ: Mapping[str, str]) -> KeyProvider:
    """Make the provider of one listed KEK, for a process that has the secrets of no other.

    Args:
        config: the configuration.
        key: URI of the KEK, without version.
        environ: the environment variables, as `os.environ`.

    Raises:
        UnlistedKeyError: the configuration does not list it.
        ConfigError: as in `open_keys`.
    """
    _check_environment(environ)
    return config.keys.open(key, environ)


def _check_store(config: KeywrapConfig) -> None:
    store = config.store
    check_store(store)
    layout(config)
    try:
        content_format(store.legacy_content)
    except ContentError as error:
        raise ConfigError("[store] legacy_content", str(error)) from error
    if store.legacy_default == DPAPI.key and config.keys.dpapi:
        return  # which master key it is, each wrap says
    if store.legacy_default and not legacy_listed(
        "[store] legacy_default", store.legacy_default, config.keys
    ):
        raise ConfigError(
            "[store] legacy_default",
            f"{store.legacy_default} is no legacy key; blobs that name no key are legacy",
            next_command='legacy_default = "env:BLOB_KEY"',
        )


def _check_primary(keys: KeysConfig) -> None:
    if keys.primary and legacy_listed("[keys] primary", keys.primary, keys):
        raise ConfigError(
            "[keys] primary",
            f"{keys.primary} is a legacy key, which new wraps never use",
            next_command='primary = "hcvault://transit/blob-kek"',
        )
