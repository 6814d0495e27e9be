"""One process's road to one vault: azure-keyvault-keys, its time limits, its silence.

What could weaken it from outside is set here and not left to the environment: the host, the
authority that gives tokens, proxies, certificates, redirects, retries. Credentials alone come from
there: azure-identity's DefaultAzureCredential.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

try:
    import requests
    from azure.core.credentials import AccessToken, TokenCredential
    from azure.core.exceptions import HttpResponseError
    from azure.core.pipeline.transport import RequestsTransport
    from azure.core.rest import HttpRequest
    from azure.identity import CredentialUnavailableError, DefaultAzureCredential
    from azure.keyvault.keys import KeyClient
    from requests.adapters import BaseAdapter, HTTPAdapter
except ImportError as error:
    raise ImportError(
        "a key in Azure Key Vault or Managed HSM needs: pip install 'keywrap[azure]'"
    ) from error

from keywrap.providers.azure_names import AzureKeyName
from keywrap.providers.silence import silence

CONNECT_TIMEOUT_S = 3.0
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_THREADS = 16

_TOKEN_FOR_S = 3600


@dataclass(frozen=True, slots=True)
class AzureAccess:
    """How to reach a vault.

    Attributes:
        endpoint: the URL of a test's server on this host that stands for the vault; it gets a
            token that opens nothing. Empty: the vault itself, over TLS.
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.
        ca_file: certificates to trust instead of certifi's.
    """

    endpoint: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S
    threads: int = DEFAULT_THREADS
    ca_file: Path | None = None


class StaticToken:
    """A credential that is one fixed token, for a test's server.

    Args:
        token: the token; a real one has no business here.
    """

    def __init__(self, token: str = "loopback") -> None:  # noqa: S107 - it opens nothing
        self._token = token

    def get_token(self, *_: str, **__: object) -> AccessToken:
        """Return it."""
        return AccessToken(self._token, int(time.time()) + _TOKEN_FOR_S)


class AmbientToken:
    """Tokens of the credential that azure-identity finds, looked for when one is first needed.

    Args:
        authority: the host that gives them, which no environment variable changes.
    """

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._found: DefaultAzureCredential | None = None
        self._lock = threading.Lock()

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:  # noqa: ANN401 - as azure-core has it
        """Return one.

        Raises:
            azure.core.exceptions.ClientAuthenticationError: there is none.
        """
        with self._lock:
            try:
                if self._found is None:
                    self._found = DefaultAzureCredential(authority=self._authority)
                return self._found.get_token(*scopes, **options)
            # What is configured halfway is a ValueError, a file that cannot be read an OSError.
            except (ValueError, OSError) as error:
                name = type(error).__name__
        raise CredentialUnavailableError(name)


class _Session(requests.Session):
    """A session that counts what it sends, and takes nothing from the environment."""

    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__()
        self.trust_env = False
        self._count = count
        self._lock = threading.Lock()

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests has it
        with self._lock:
            self._count()
        return super().send(request, **options)


class _LoopbackAdapter(HTTPAdapter):
    """Takes what is meant for a vault to a test's server, which sees the vault's name as host."""

    def __init__(self, endpoint: str, threads: int) -> None:
        super().__init__(pool_maxsize=threads)
        self._endpoint = urlsplit(endpoint)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401 - as requests has it
        url = urlsplit(request.url or "")
        request.headers["Host"] = url.netloc
        request.url = url._replace(
            scheme=self._endpoint.scheme, netloc=self._endpoint.netloc
        ).geturl()
        return super().send(request, **options)


class VaultClient:
    """A process's clients of one vault; may be shared by threads, not by forks.

    Args:
        key: a key of the vault.
        access: how to reach it.
        count: called before each request to the vault, by one thread at a time.
        credential: gives tokens; None: the ones that azure-identity finds.
        adapter: sends the requests; None: over the network.
    """

    def __init__(
        self,
        key: AzureKeyName,
        access: AzureAccess,
        count: Callable[[], None],
        *,
        credential: TokenCredential | None = None,
        adapter: BaseAdapter | None = None,
    ) -> None:
        session = _Session(count)
        session.mount("https://", adapter or _adapter(access))
        if credential is None:
            # No real token crosses what is not TLS.
            credential = StaticToken() if access.endpoint else AmbientToken(key.authority)
        self.keys = KeyClient(
            f"https://{key.host}",
            credential,
            transport=RequestsTransport(
                session=session,
                session_owner=False,
                use_env_settings=False,
                connection_timeout=min(CONNECT_TIMEOUT_S, access.timeout_s),
                read_timeout=access.timeout_s,
                connection_verify=str(access.ca_file) if access.ca_file else True,
            ),
            retry_total=0,  # the road retries: the client leaves out 408, 502 and most 429
            permit_redirects=False,
            logging_enable=False,
        )
        silence({"azure", "msal", "urllib3"})

    def post(self, path: str, body: Mapping[str, str]) -> Any:  # noqa: ANN401 - as JSON has it
        """Send a JSON object and return the one of the answer.

        Not by CryptographyClient, which for an AES key of an HSM makes up a key in this process
        and wraps with that (4.11.3), and for any key drops the key identifier of the answer.

        Raises:
            azure.core.exceptions.AzureError: no answer, or one that says no.
        """
        response = self.keys.send_request(HttpRequest("POST", path, json=dict(body)))
        if response.status_code != HTTPStatus.OK:
            raise HttpResponseError(response=response)
        return response.json()


def _adapter(access: AzureAccess) -> BaseAdapter:
    if access.endpoint:
        return _LoopbackAdapter(access.endpoint, access.threads)
    return HTTPAdapter(pool_maxsize=access.threads)
