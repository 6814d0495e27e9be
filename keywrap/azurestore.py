"""Opening a store in Azure Blob Storage.

Where it goes and how it signs is decided by the arguments alone. obstore 0.12 reads every `AZURE_…`
variable of the environment before it looks at its own arguments, so each of its settings that
matters is given, and the one that cannot be taken back, a key of our own to encrypt with, is
refused. What the environment still chooses is the Entra identity (azure-identity's variables), a
proxy (`HTTPS_PROXY`), and which certificate authorities are trusted.
"""

import re
from typing import TYPE_CHECKING

from keywrap.azurecontainer import AzureContainer
from keywrap.azurecredentials import Credentials, EntraCredentials
from keywrap.endpoints import (
    ACCOUNT,
    BUCKETS,
    DEFAULT_CONNECTIONS,
    check_endpoint,
    client_options,
    folder_of,
    refuse_setting,
)
from keywrap.objectstore import ObjectStore, once_only

try:
    from obstore.store import AzureStore
except ImportError as error:
    raise ImportError("a store in Azure needs: pip install 'keywrap[az]'") from error

if TYPE_CHECKING:
    from obstore.store import AzureConfig

_NOT_CARRIED = re.compile("[\0-\x1f\x7f\\\\\ud800-\udfff]")
"""As everywhere, and the backslash, which Azure takes for a slash: another blob would be meant."""

_NOT_OURS = re.compile("AZURE_ENCRYPTION_KEY", re.IGNORECASE)
"""obstore reads names in capitals or not, but for the first word."""


def open_azure(  # noqa: PLR0913 - keyword-only
    container: str,
    prefix: str = "",
    *,
    account: str,
    endpoint: str = "",
    allow_http: bool = False,
    credentials: Credentials | None = None,
    timeout_s: float = 30.0,
    connections: int = DEFAULT_CONNECTIONS,
) -> ObjectStore:
    """Open a store in a container; connects to nothing, and looks for no credentials yet.

    Args:
        container: its name.
        prefix: the folder of the container in which the store lies; empty for all of it.
        account: the storage account.
        endpoint: the account's blob service elsewhere than in Azure's public cloud:
            `https://host[:port]`, or `https://host[:port]/account` where the path names the
            account, as with Azurite.
        allow_http: whether the endpoint may be `http://`: without it, anybody on the way could
            read and change what is stored.
        credentials: sign; None for azure-identity's default chain.
        timeout_s: of one request, in seconds.
        connections: how many idle ones are kept.

    Raises:
        ValueError: an argument is not of its form, or the environment wants what cannot be
            overruled.
    """
    if not BUCKETS["az"].fullmatch(container):
        raise ValueError(f"{container!r} is not the name of a container")
    if not ACCOUNT.fullmatch(account):
        raise ValueError(f"{account!r} is not the name of a storage account")
    folder = folder_of(prefix)
    refuse_setting(
        _NOT_OURS,
        "would choose the key that blobs are encrypted with; use an encryption scope of the "
        "container instead",
    )
    service = _service(account, endpoint, allow_http=allow_http)
    signing = credentials or EntraCredentials()
    described = AzureContainer(
        container,
        account=account,
        url=f"{service}/{container}",
        credentials=signing,
        timeout_s=timeout_s,
    )
    config: AzureConfig = {
        "account_name": account,
        "container_name": container,
        "endpoint": service,
        "use_emulator": False,
        "skip_signature": False,
    }
    options = client_options(allow_http=allow_http, timeout_s=timeout_s, connections=connections)
    client = once_only(AzureStore, config, options, signing)
    return ObjectStore(client, described, folder, not_carried=_NOT_CARRIED, delete=described.delete)


def _service(account: str, endpoint: str, *, allow_http: bool) -> str:
    if not endpoint:
        return f"https://{account}.blob.core.windows.net"
    parts = check_endpoint(endpoint, allow_http=allow_http)
    path = parts.path.strip("/")
    if path not in {"", account}:
        raise ValueError("the endpoint has more than https://host[:port] or the account's name")
    return f"{parts.scheme}://{parts.netloc}/{path}".rstrip("/")
