"""`[keys.azure."<host>/keys/<name>"]`: a key of Azure Key Vault or Managed HSM."""

from collections.abc import Mapping
from typing import Annotated, get_args
from urllib.parse import urlsplit

import msgspec

from keywrap.kms import KeyProvider
from keywrap.providers.azure_names import SCHEME, Algorithm, AzureKeyName
from keywrap.tables.common import ConfigError, certificates, check_address, read_table

PREFIX = SCHEME

_CHOICES = {"algorithm": get_args(Algorithm)}


class AzureKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of Key Vault or Managed HSM: `[keys.azure."my-vault.vault.azure.net/keys/blob-kek"]`.

    Credentials are those that azure-identity's DefaultAzureCredential finds.

    Attributes:
        algorithm: how data keys are wrapped: `RSA-OAEP-256`, or, in a Managed HSM, `A256KW` or
            `A256GCM`. Not to be changed while there are wraps.
        endpoint: `http://` and a port of this host, where a test's server stands for the vault;
            it gets no credentials. Empty: the vault.
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.
        ca_file: certificates to trust instead of certifi's.
    """

    algorithm: Algorithm = "RSA-OAEP-256"
    endpoint: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    ca_file: str = ""


def read(name: str, value: object) -> AzureKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is unknown, of another type or contradicts the rest.
    """
    try:
        key = AzureKeyName.parse(name)
    except ValueError as error:
        raise ConfigError(
            "[keys.azure]",
            str(error),
            next_command='[keys.azure."my-vault.vault.azure.net/keys/blob-kek"]',
        ) from None
    place = _place(name)
    table = read_table(place, value, AzureKeyConfig, _CHOICES)
    if table.algorithm != "RSA-OAEP-256" and not key.is_managed_hsm:
        raise ConfigError(
            f"{place} algorithm",
            f"{table.algorithm} is for a Managed HSM",
            next_command='algorithm = "RSA-OAEP-256"',
        )
    if table.endpoint:
        _check_endpoint(f"{place} endpoint", table.endpoint)
    return table


def _check_endpoint(place: str, endpoint: str) -> None:
    example = "http://127.0.0.1:8443"
    check_address(place, endpoint, allow_http=False, example=example)
    if urlsplit(endpoint).scheme != "http":
        raise ConfigError(
            place,
            "it is for a test's server on this host; a vault is reached by its own name, through "
            "a private endpoint too",
            next_command=f'endpoint = "{example}", or none',
        )


def open_provider(
    name: str,
    tables: Mapping[str, AzureKeyConfig],
    environ: Mapping[str, str],  # noqa: ARG001 - azure-identity looks for credentials itself
) -> KeyProvider:
    """Make the provider of a key of Azure; connects to nothing.

    Args:
        name: the key's name in `tables`.
        tables: every table of this kind.
        environ: the environment variables.

    Raises:
        ConfigError: the extra is not installed, or there is no such certificate file.
    """
    table, place = tables[name], _place(name)
    try:
        # Only who lists such a key needs the extra.
        from keywrap.providers import azure, azure_client  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(place, str(error), next_command="pip install 'keywrap[azure]'") from error
    access = azure_client.AzureAccess(
        endpoint=table.endpoint,
        timeout_s=table.timeout_s,
        threads=table.threads,
        ca_file=certificates(place, table.ca_file),
    )
    key = AzureKeyName.parse(name)
    return azure.AzureKeyProvider(
        name,
        lambda count: azure_client.VaultClient(key, access, count),
        algorithm=table.algorithm,
        threads=table.threads,
    )


def _place(name: str) -> str:
    return f'[keys.azure."{name}"]'
