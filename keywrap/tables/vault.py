"""`[keys.vault."<mount>/<key name>"]`: a Transit key of OpenBao or Vault."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from keywrap.kms import KeyProvider
from keywrap.tables.common import (
    ConfigError,
    certificates,
    check_address,
    read_table,
    secret_variable,
)

PREFIX = "hcvault://"

_PATH = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)+[A-Za-z0-9_-][A-Za-z0-9._-]*")


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


def read(path: str, value: object) -> VaultKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    place = _place(path)
    if not _PATH.fullmatch(path):
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
    check_address(
        f"{place} address",
        table.address,
        allow_http=table.allow_http,
        example="https://bao.internal:8200",
    )
    return table


def open_provider(
    path: str, tables: Mapping[str, VaultKeyConfig], environ: Mapping[str, str]
) -> KeyProvider:
    """Make the provider of a Transit key; connects to nothing.

    Args:
        path: the key's name in `tables`.
        tables: every table of this kind.
        environ: the environment variables.

    Raises:
        ConfigError: the extra is not installed, or the token is missing or malformed.
    """
    table, place = tables[path], _place(path)
    try:
        # Only who lists such a key needs the extra.
        from keywrap.providers import vault, vault_connection  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(place, str(error), next_command="pip install 'keywrap[vault]'") from error
    if table.token_file:
        token = vault_connection.token_file(Path(table.token_file))
    else:
        value = secret_variable(f"{place} token_env", table.token_env, environ)

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
        ca_file=certificates(place, table.ca_file),
    )
    return vault.VaultTransitProvider(path, server)


def _place(path: str) -> str:
    return f'[keys.vault."{path}"]'
