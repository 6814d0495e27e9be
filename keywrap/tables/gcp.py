"""`[keys.gcp."projects/…/cryptoKeys/…"]`: a key of Google Cloud KMS."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from keywrap.kms import KeyProvider
from keywrap.providers.gcp_names import SCHEME, check_key_name
from keywrap.tables.common import ConfigError, certificates, check_address, read_table

PREFIX = SCHEME

_EXAMPLE = "projects/my-project/locations/europe-west1/keyRings/blobs/cryptoKeys/blob-kek"


class GcpKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key of Google Cloud KMS: `[keys.gcp."projects/…/cryptoKeys/…"]`.

    Credentials are Application Default Credentials: of the workload, or of the file that
    `GOOGLE_APPLICATION_CREDENTIALS` names.

    Attributes:
        endpoint: the URL to ask, such as a Private Service Connect endpoint's; empty: the public
            one. No environment variable changes it. `http://` is for a test's server on this
            host, which gets no credentials.
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.
        ca_file: certificates to trust instead of certifi's.
    """

    endpoint: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    ca_file: str = ""


def read(name: str, value: object) -> GcpKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is unknown, of another type or contradicts the rest.
    """
    try:
        check_key_name(name)
    except ValueError as error:
        raise ConfigError(
            "[keys.gcp]", str(error), next_command=f'[keys.gcp."{_EXAMPLE}"]'
        ) from None
    table = read_table(_place(name), value, GcpKeyConfig)
    if table.endpoint:
        check_address(
            f"{_place(name)} endpoint",
            table.endpoint,
            allow_http=False,
            example="https://cloudkms-blobs.p.googleapis.com",
        )
    return table


def open_provider(
    name: str,
    tables: Mapping[str, GcpKeyConfig],
    environ: Mapping[str, str],  # noqa: ARG001 - google-auth looks for credentials itself
) -> KeyProvider:
    """Make the provider of a key of Cloud KMS; connects to nothing.

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
        from keywrap.providers import gcp, gcp_client  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(place, str(error), next_command="pip install 'keywrap[gcp]'") from error
    access = gcp_client.GcpAccess(
        endpoint=table.endpoint, ca_file=certificates(place, table.ca_file)
    )
    return gcp.GcpKeyProvider(
        name,
        lambda: gcp_client.kms_client(access),
        timeout_s=table.timeout_s,
        threads=table.threads,
    )


def _place(name: str) -> str:
    return f'[keys.gcp."{name}"]'
