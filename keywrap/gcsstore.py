"""Opening a store in Google Cloud Storage.

Where it goes and how it signs is decided by the arguments alone. obstore 0.12 reads every
`GOOGLE_…` variable of the environment, and `SERVICE_ACCOUNT`, before it looks at its own arguments,
so each of its settings that matters is given, and those that cannot be taken back are refused.
What the environment still chooses are the application default credentials (`google-auth`'s
variables), a proxy (`HTTPS_PROXY`), and which certificate authorities are trusted.

A write is conditional on the object's generation, which is new with every write.
"""

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from keywrap.endpoints import (
    BUCKETS,
    DEFAULT_CONNECTIONS,
    check_endpoint,
    client_options,
    folder_of,
    refuse_setting,
)
from keywrap.gcsbucket import GcsBucket
from keywrap.objectstore import ObjectStore, once_only
from keywrap.stores import StoreUnavailableError

try:
    import google.auth
    import requests
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request
    from obstore.store import GCSStore
except ImportError as error:
    raise ImportError("a store in Google Cloud needs: pip install 'keywrap[gs]'") from error

if TYPE_CHECKING:
    from obstore.store import GCSConfig, GCSCredential

_SERVICE = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_LAST = timedelta(minutes=8)
"""google-auth gives tokens that are good for 3 minutes 45 at least; obstore asks again 5 minutes
before this time is over."""

_NOT_OURS = re.compile("SERVICE_ACCOUNT|GOOGLE_(?i:SERVICE_ACCOUNT(_PATH|_KEY)?)")
"""obstore reads names in capitals or not, but for the first word."""


class Tokens(Protocol):
    """Whoever asks Google."""

    def token(self) -> str:
        """Return a bearer token of this moment; raise `StoreUnavailableError` for none."""


class ApplicationDefault:
    """Tokens by Google's application default credentials.

    They are looked for when they are first needed: that may ask the network.
    """

    def __init__(self) -> None:
        self._found: Any = None  # google-auth's types leave `token` open
        self._lock = threading.Lock()

    def token(self) -> str:
        """Return a token of this moment.

        Raises:
            StoreUnavailableError: there are no credentials, or they cannot be renewed.
        """
        try:
            with self._lock:
                if self._found is None:
                    self._found, _ = google.auth.default(scopes=[_SCOPE])
                if not self._found.valid:
                    self._found.refresh(Request())
                return str(self._found.token)
        # A file that is no credential is a ValueError, one that cannot be read an OSError.
        except (GoogleAuthError, ValueError, OSError) as error:
            said = str(error).strip().partition("\n")[0][:300]
            raise StoreUnavailableError(f"the Google credentials: {said}") from error


class Anonymous:
    """A token that says nothing, for an emulator."""

    def token(self) -> str:
        """Return it."""
        return "anonymous"


def open_gcs(
    bucket: str,
    prefix: str = "",
    *,
    endpoint: str = "",
    allow_http: bool = False,
    tokens: Tokens | None = None,
    timeout_s: float = 30.0,
    connections: int = DEFAULT_CONNECTIONS,
) -> ObjectStore:
    """Open a store in a bucket; connects to nothing, and looks for no credentials yet.

    Args:
        bucket: its name.
        prefix: the folder of the bucket in which the store lies; empty for all of it.
        endpoint: `https://host[:port]` of another server than Google's own.
        allow_http: whether the endpoint may be `http://`: without it, anybody on the way could
            read and change what is stored.
        tokens: sign; None for the application default credentials.
        timeout_s: of one request, in seconds.
        connections: how many idle ones are kept.

    Raises:
        ValueError: an argument is not of its form, or the environment wants what cannot be
            overruled.
    """
    if not BUCKETS["gs"].fullmatch(bucket):
        raise ValueError(f"{bucket!r} is not the name of a Google Cloud Storage bucket")
    folder = folder_of(prefix)
    refuse_setting(
        _NOT_OURS,
        "the store's client would read it as a service account; name the file in "
        "GOOGLE_APPLICATION_CREDENTIALS instead",
    )
    if endpoint and check_endpoint(endpoint, allow_http=allow_http).path.strip("/"):
        raise ValueError("the endpoint has more than https://host[:port]")
    service = endpoint.rstrip("/") or _SERVICE
    signing = _Signing(tokens or ApplicationDefault())
    config: GCSConfig = {"bucket": bucket, "base_url": service, "skip_signature": False}
    options = client_options(allow_http=allow_http, timeout_s=timeout_s, connections=connections)
    # Otherwise Google unpacks objects that are stored as gzip, and ignores ranges.
    options["default_headers"] = {"accept-encoding": "gzip"}
    client = once_only(GCSStore, config, options, signing)
    described = GcsBucket(bucket, service=service, sign=signing.sign, timeout_s=timeout_s)
    return ObjectStore(client, described, folder, tag="version")


class _Signing:
    """Gives tokens to obstore, and to our own requests."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self) -> "GCSCredential":
        return {"token": self._tokens.token(), "expires_at": datetime.now(UTC) + _LAST}

    def sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._tokens.token()}"
        return request
