"""The tables `[keys]` of the configuration: the listed KEKs, and where their secrets are.

Secrets are never in the tables: they name an environment variable or a file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec

from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.kms import KeyProvider
from keywrap.providers.env import Encoding, EnvKeyError, EnvKeyProvider, Scheme

MAX_SECRET_BYTES = 16 * 1024
"""More than any key or token has; a wrong path is not read into memory whole."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_VAULT_PATH = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)+[A-Za-z0-9_-][A-Za-z0-9._-]*")
_CHOICES = {"encoding": get_args(Encoding), "scheme": get_args(Scheme)}
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_Table = TypeVar("_Table", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used.

    Args:
        place: where it stands, such as `[store] url`.
        message: what is wrong and what is expected; never a secret.
        next_command: what to do next: a command or a line to write.
    """

    def __init__(self, place: str, message: str, *, next_command: str = "") -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.next_command = next_command


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


class VaultKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Transit key of OpenBao or Vault: `[keys.vault."<mount>/<key name>"]`.

    Attributes:
        address: the server's URL.
        token_env: the environment variable that holds the token.
        token_file: the file that holds it, instead; read again when the token is refused.
        timeout_s: how long an answer may take.
        namespace: the namespace, where the server has them.
        ca_file: certificates to trust instead of the system's.
        allow_http: whether tokens and data keys may cross a network in clear. Without it,
            `http://` is for this host only.
    """

    address: str
    token_env: str = ""
    token_file: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    namespace: str = ""
    ca_file: str = ""
    allow_http: bool = False


class KeysConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listed KEKs.

    Attributes:
        primary: URI of the KEK that new wraps use, without version; empty: only reading.
        env: KEKs kept in the environment, by name.
        vault: Transit keys, by `<mount>/<key name>`.
    """

    primary: str = ""
    env: dict[str, EnvKeyConfig] = msgspec.field(default_factory=dict)
    vault: dict[str, VaultKeyConfig] = msgspec.field(default_factory=dict)

    def uris(self) -> tuple[str, ...]:
        """Return the URI of each listed KEK."""
        return (
            *(f"env:{name}" for name in self.env),
            *(f"hcvault://{path}" for path in self.vault),
        )


def read_table(place: str, value: object, type_: type[_Table]) -> _Table:
    """Convert one table; the error names the field, and repeats no value."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        field = path.strip("`").removeprefix("$").removeprefix(".")
        message = re.sub(r" '.*'", "", message, flags=re.DOTALL)
        if choices := _CHOICES.get(field):
            message += f"; expected one of {', '.join(choices)}"
        raise ConfigError(f"{place} {field}".rstrip(), message) from None


def as_mapping(place: str, value: object) -> dict[str, object]:
    """Return a copy of a table.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(place, "expected a table")
    return {str(name): item for name, item in value.items()}


def read_keys(table: dict[str, object]) -> KeysConfig:
    """Read and check the tables of all KEKs, one by one, so that an error names its table.

    Raises:
        ConfigError: see `KeywrapConfig.from_table`.
    """
    env = as_mapping("[keys.env]", table.pop("env", {}))
    vault = as_mapping("[keys.vault]", table.pop("vault", {}))
    return msgspec.structs.replace(
        read_table("[keys]", table, KeysConfig),
        env={name: _read_env(name, value) for name, value in env.items()},
        vault={path: _read_vault(path, value) for path, value in vault.items()},
    )


def _read_env(name: str, value: object) -> EnvKeyConfig:
    place = f"[keys.env.{name}]"
    if not _NAME.fullmatch(name):
        raise ConfigError("[keys.env]", "a key's name has letters, digits and underscores")
    table = read_table(place, value, EnvKeyConfig)
    if table.variable and table.file:
        raise ConfigError(place, "expected `variable` or `file`, not both")
    return table


def _read_vault(path: str, value: object) -> VaultKeyConfig:
    place = f'[keys.vault."{path}"]'
    if not _VAULT_PATH.fullmatch(path):
        raise ConfigError(
            "[keys.vault]",
            "a table is named <mount>/<key name>",
            next_command='[keys.vault."transit/blob-kek"]',
        )
    table = read_table(place, value, VaultKeyConfig)
    if bool(table.token_env) == bool(table.token_file):
        raise ConfigError(
            place, "expected `token_env` or `token_file`", next_command='token_env = "BAO_TOKEN"'
        )
    _check_address(f"{place} address", table)
    return table


def _check_address(place: str, table: VaultKeyConfig) -> None:
    try:
        url = urlsplit(table.address)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ConfigError(place, "it is not a URL") from None
    if url.scheme not in {"http", "https"} or not host:
        raise ConfigError(
            place, "expected the server's URL", next_command='address = "https://bao.internal:8200"'
        )
    if "@" in url.netloc or url.path.strip("/") or url.query or url.fragment:
        raise ConfigError(place, "expected scheme, host and port only")
    if url.scheme == "http" and host not in _LOOPBACK and not table.allow_http:
        raise ConfigError(
            place,
            "over http:// the token and data keys cross the network in clear; expected https://",
            next_command="allow_http = true where the network itself is trusted",
        )


def legacy_listed(place: str, key: str, keys: KeysConfig) -> bool:
    """See that a key is listed and named without version; whether it is legacy."""
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


def open_env(name: str, table: EnvKeyConfig, environ: Mapping[str, str]) -> EnvKeyProvider:
    """Make the provider of a KEK kept in the environment.

    Raises:
        ConfigError: its variable or file is missing, or does not hold such a key.
    """
    place = f"[keys.env.{name}]"
    if table.file:
        text = _secret_file(f"{place} file", Path(table.file))
        if table.encoding != "raw":
            text = text.removesuffix(b"\n").removesuffix(b"\r")  # as editors end a file
    else:
        variable = table.variable or name
        text = _secret_variable(f"{place} variable", variable, environ).encode(
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


def open_vault(path: str, table: VaultKeyConfig, environ: Mapping[str, str]) -> KeyProvider:
    """Make the provider of a Transit key; connects to nothing.

    Raises:
        ConfigError: the extra is not installed, or the token is missing or malformed.
    """
    place = f'[keys.vault."{path}"]'
    try:
        # Only who lists such a key needs the extra.
        from keywrap.providers import vault, vault_connection  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(place, str(error), next_command="pip install 'keywrap[vault]'") from error
    if table.ca_file and not Path(table.ca_file).is_file():
        raise ConfigError(f"{place} ca_file", f"there is no file {table.ca_file}")
    if table.token_file:
        token = vault_connection.token_file(Path(table.token_file))
    else:
        value = _secret_variable(f"{place} token_env", table.token_env, environ)

        def token() -> str:
            return vault_connection.check_token(value)

    try:
        token()
    except vault_connection.TokenError as error:
        raise ConfigError(f"{place} token", f"there is no usable token: {error}") from error
    server = vault_connection.VaultServer(
        table.address,
        token,
        timeout_s=table.timeout_s,
        namespace=table.namespace,
        ca_file=Path(table.ca_file) if table.ca_file else None,
    )
    return vault.VaultTransitProvider(path, server)


def _secret_variable(place: str, variable: str, environ: Mapping[str, str]) -> str:
    value = environ.get(variable, "")
    if not value:
        raise ConfigError(
            place,
            f"the environment variable {variable} is not set",
            next_command=f"set {variable} in the environment of this process",
        )
    return value


def _secret_file(place: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            place,
            f"{path} cannot be read: {error.strerror}",
            next_command=f"put the key into {path}, readable by this process",
        ) from error
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(place, f"{path} is empty or too large to be a key")
    return secret
