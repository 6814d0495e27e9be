"""The tables `[keys]`: the listed KEKs, each kind of provider in a table of its own."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from keywrap.elsewhere import ElsewhereFamily, ElsewhereKeyProvider
from keywrap.keyring import KeyFamily, UnlistedKeyError
from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.kms import KeyProvider
from keywrap.tables import aws, azure, dpapi, env, gcp, local, pkcs11, vault
from keywrap.tables.aws import AwsKeyConfig
from keywrap.tables.azure import AzureKeyConfig
from keywrap.tables.common import ConfigError, as_mapping, read_table
from keywrap.tables.dpapi import DpapiKeyConfig
from keywrap.tables.env import EnvKeyConfig
from keywrap.tables.gcp import GcpKeyConfig
from keywrap.tables.local import LocalKeyConfig
from keywrap.tables.pkcs11 import Pkcs11KeyConfig
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
    "gcp": gcp,
    "azure": azure,
    "vault": vault,
    "pkcs11": pkcs11,
}


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listed KEKs.

    Attributes:
        primary: URI of the KEK that new wraps use, without version; empty: only reading.
        env: KEKs kept in the environment, by name.
        local: KEKs kept in files of ours, by name.
        aws: keys of AWS KMS, by ARN.
        gcp: keys of Google Cloud KMS, by resource name.
        azure: keys of Azure Key Vault and Managed HSM, by `<host>/keys/<name>`.
        vault: Transit keys, by `<mount>/<key name>`.
        pkcs11: keys in a PKCS#11 token, by `token=<label>;object=<family>`.
        dpapi: DPAPI's master keys, each table those of one account; see `keywrap.tables.dpapi`.
    """

    primary: str = ""
    env: dict[str, EnvKeyConfig] = msgspec.field(default_factory=dict)
    local: dict[str, LocalKeyConfig] = msgspec.field(default_factory=dict)
    aws: dict[str, AwsKeyConfig] = msgspec.field(default_factory=dict)
    gcp: dict[str, GcpKeyConfig] = msgspec.field(default_factory=dict)
    azure: dict[str, AzureKeyConfig] = msgspec.field(default_factory=dict)
    vault: dict[str, VaultKeyConfig] = msgspec.field(default_factory=dict)
    pkcs11: dict[str, Pkcs11KeyConfig] = msgspec.field(default_factory=dict)
    dpapi: dict[str, DpapiKeyConfig] = msgspec.field(default_factory=dict)

    def uris(self) -> tuple[str, ...]:
        """Return the URI of each KEK that is listed by name; see `lists` for all of them."""
        return *self._names(), *dpapi.uris(self.dpapi)

    def lists(self, key: str) -> bool:
        """Whether a KEK may be used here, by its URI without version."""
        return key in self._names() or dpapi.claimant(key, self.dpapi) is not None

    def queue_of(self, key: str) -> str:
        """Return the queue of the hosts that can open a KEK's wraps; empty: every worker can.

        Args:
            key: URI of any KEK, without version; one that is not listed has no queue.
        """
        name = dpapi.claimant(key, self.dpapi)
        if name is not None:
            return self.dpapi[name].queue
        table = self.env.get(key.removeprefix(env.PREFIX)) if key.startswith(env.PREFIX) else None
        return table.queue if table else ""

    def _names(self) -> tuple[str, ...]:
        return tuple(uri for uri, _, _ in self._listed())

    def _listed(self) -> Iterator[tuple[str, str, str]]:
        """Yield the URI, kind and table name of each."""
        for kind, module in _KINDS.items():
            for name in getattr(self, kind):
                yield f"{module.PREFIX}{name}", kind, name

    def open(
        self, key: str, environ: Mapping[str, str], queues: Collection[str] | None = None
    ) -> KeyProvider:
        """Make the provider of one listed KEK; connects to nothing.

        Args:
            key: URI of the KEK, without version.
            environ: the environment variables.
            queues: see `open_all`.

        Raises:
            UnlistedKeyError: it is not listed.
            ConfigError: its secret is missing or malformed, or an extra is not installed.
        """
        served = _served(queues)
        for uri, kind, name in self._listed():
            if uri == key:
                return self._open(uri, kind, name, environ, served)
        table = dpapi.claimant(key, self.dpapi)
        if table is None:
            raise UnlistedKeyError(key)
        return self._family(table, environ, served).provider(key)

    def open_all(
        self, environ: Mapping[str, str], queues: Collection[str] | None = None
    ) -> tuple[list[KeyProvider], list[KeyFamily]]:
        """Make the providers of all listed KEKs; connects to nothing.

        Args:
            environ: the environment variables.
            queues: the queues that this process serves: a table that names another queue is not
                opened, since its secrets are on other hosts. None: all are opened.

        Returns:
            The providers of the KEKs listed by name, and the families of the others.

        Raises:
            ConfigError: as in `open`.
        """
        served = _served(queues)
        named = [self._open(*listed, environ, served) for listed in self._listed()]
        return named, [self._family(name, environ, served) for name in self.dpapi]

    def _open(
        self,
        uri: str,
        kind: str,
        name: str,
        environ: Mapping[str, str],
        served: Callable[[str], bool],
    ) -> KeyProvider:
        if not served(queue := self.queue_of(uri)):
            return ElsewhereKeyProvider(uri, queue)
        if kind == "env" and self.env[name].protected:
            place = f"[keys.env.{name}] from"
            return env.open_provider(
                name,
                self.env,
                environ,
                lambda data: dpapi.unprotect(data, self.dpapi, environ, place, served=served),
            )
        return _KINDS[kind].open_provider(name, getattr(self, kind), environ)

    def _family(
        self, name: str, environ: Mapping[str, str], served: Callable[[str], bool]
    ) -> KeyFamily:
        if not served(queue := self.dpapi[name].queue):
            return ElsewhereFamily(dpapi.claims(name, self.dpapi), queue)
        return dpapi.open_family(name, self.dpapi, environ)


def _served(queues: Collection[str] | None) -> Callable[[str], bool]:
    """Return what tells whether keys of a queue can be used by a process that serves `queues`."""
    return lambda queue: queues is None or not queue or queue in queues


def read_keys(table: Mapping[str, object]) -> KeysConfig:
    """Read and check the tables of all KEKs, one by one, so that an error names its table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    table = dict(table)
    readers = {kind: module.read for kind, module in _KINDS.items()} | {"dpapi": dpapi.read}
    tables = {kind: as_mapping(f"[keys.{kind}]", table.pop(kind, {})) for kind in readers}
    read = {
        kind: {name: readers[kind](name, value) for name, value in named.items()}
        for kind, named in tables.items()
    }
    dpapi.check_together(read["dpapi"])
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
    if not keys.lists(key):
        listed = ", ".join(keys.uris()) or "no key"
        raise ConfigError(place, f"{key} is not listed; [keys] lists {listed}")
    return named.is_legacy
