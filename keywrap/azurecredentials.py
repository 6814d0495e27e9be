"""Who asks Azure: Microsoft Entra, an account key, or a shared access signature.

Each is given to obstore, which calls it again when what it gave is old, and signs our own requests.
"""

import base64
import binascii
import hashlib
import hmac
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, urlsplit

from keywrap.stores import StoreUnavailableError

try:
    import requests
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential
except ImportError as error:
    raise ImportError("a store in Azure needs: pip install 'keywrap[az]'") from error

if TYPE_CHECKING:
    from obstore.store import AzureCredential

_SCOPE = "https://storage.azure.com/.default"
"""The same in all of Azure's clouds ("Authorize access to blobs using Microsoft Entra ID")."""

_LAST = timedelta(minutes=8)
"""azure-identity gives tokens that are good for 5 minutes at least; obstore asks again 5 minutes
before this time is over, so that a changed file is noticed soon as well."""

_UNSIGNED_HEADERS = 7, 3
"""Content-Encoding to If-Modified-Since, If-None-Match to Range: none of them is sent, and a length
of 0 is signed as none. If-Match stands in between."""

ReadSecret = Callable[[], str]
"""Returns a secret as it stands now; raises `StoreUnavailableError` where there is none."""


class Credentials(Protocol):
    """Whoever asks Azure."""

    def __call__(self) -> "AzureCredential":
        """Return what obstore signs with."""

    def sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request without a body."""


class EntraCredentials:
    """Tokens by azure-identity: environment, workload identity, managed identity, Azure CLI.

    They are looked for when they are first needed: that may ask the network.
    """

    def __init__(self) -> None:
        self._found: DefaultAzureCredential | None = None
        self._lock = threading.Lock()

    def __call__(self) -> "AzureCredential":
        """Return a token in obstore's manner."""
        return {"token": self._token(), "expires_at": datetime.now(UTC) + _LAST}

    def sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add a token to a request."""
        request.headers["Authorization"] = f"Bearer {self._token()}"
        return request

    def _token(self) -> str:
        try:
            with self._lock:
                if self._found is None:
                    self._found = DefaultAzureCredential()
            return self._found.get_token(_SCOPE).token
        # An identity that is configured halfway is a ValueError, a token file an OSError.
        except (AzureError, ValueError, OSError) as error:
            said = str(error).strip().partition("\n")[0][:300]
            raise StoreUnavailableError(f"the Azure credentials: {said}") from error


class AccountKey:
    """The key of a storage account ("Authorize with Shared Key").

    Args:
        account: the account's name.
        read: returns the key, in base64.
    """

    def __init__(self, account: str, read: ReadSecret) -> None:
        self._account = account
        self._read = read

    def __call__(self) -> "AzureCredential":
        """Return the key in obstore's manner."""
        self._key()
        return {"access_key": self._read().strip(), "expires_at": datetime.now(UTC) + _LAST}

    def sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request without a body."""
        request.headers["x-ms-date"] = formatdate(usegmt=True)
        parts = urlsplit(request.url or "")
        named = sorted((k.lower(), str(v)) for k, v in request.headers.items() if _is_signed(k))
        before, after = _UNSIGNED_HEADERS
        match = str(request.headers.get("If-Match", ""))
        lines = [str(request.method), *[""] * before, match, *[""] * after]
        lines += [f"{name}:{value}" for name, value in named]
        lines.append(f"/{self._account}{parts.path}")
        lines += [f"{k}:{v}" for k, v in sorted(parse_qsl(parts.query, keep_blank_values=True))]
        signed = hmac.digest(self._key(), "\n".join(lines).encode(), hashlib.sha256)
        signature = base64.b64encode(signed).decode()
        request.headers["Authorization"] = f"SharedKey {self._account}:{signature}"
        return request

    def _key(self) -> bytes:
        try:
            key = base64.b64decode(self._read().strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise StoreUnavailableError("the account key is not base64") from None
        return key


class SharedAccessSignature:
    """A signature that somebody made for a container ("Create a service SAS").

    Args:
        read: returns it, percent-encoded as Azure gives it.
    """

    def __init__(self, read: ReadSecret) -> None:
        self._read = read

    def __call__(self) -> "AzureCredential":
        """Return it in obstore's manner."""
        return {"sas_token": self._text(), "expires_at": datetime.now(UTC) + _LAST}

    def sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add it to a request."""
        joint = "&" if "?" in (request.url or "") else "?"
        request.url = f"{request.url}{joint}{self._text()}"
        return request

    def _text(self) -> str:
        text = self._read().strip().removeprefix("?")
        if not any(part.startswith("sig=") for part in text.split("&")):
            raise StoreUnavailableError("the shared access signature has no `sig`")
        return text


def _is_signed(header: str) -> bool:
    return header.lower().startswith("x-ms-")
