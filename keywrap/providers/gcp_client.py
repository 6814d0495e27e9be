"""The Cloud KMS client: its road, its trust, its silence.

What could weaken it from outside is set here and not left to the environment: the endpoint, the
universe, proxies, root certificates, retries, and the client's logging, which at DEBUG writes
whole requests and answers. Credentials alone come from there: Application Default Credentials,
https://cloud.google.com/docs/authentication/application-default-credentials.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

try:
    import certifi
    import google.auth
    import google_crc32c  # noqa: F401 - not a dependency of google-cloud-kms: its absence is told
    import grpc
    from google.api_core import grpc_helpers
    from google.cloud.kms_v1 import KeyManagementServiceClient
    from google.cloud.kms_v1.services.key_management_service.transports import (
        KeyManagementServiceGrpcTransport,
    )
except ImportError as error:
    raise ImportError("a key in Cloud KMS needs: pip install 'keywrap[gcp]'") from error

from keywrap.providers.silence import silence

HOST = "cloudkms.googleapis.com"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_THREADS = 16

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # no connection is shared with another client's road
]


@dataclass(frozen=True, slots=True)
class GcpAccess:
    """How to reach Cloud KMS.

    Attributes:
        endpoint: its URL, such as a Private Service Connect endpoint's; empty: the public one.
            Over `http://`, which is for a test's server on this host, no credential is sent.
        ca_file: certificates (PEM) to trust instead of certifi's.
    """

    endpoint: str = ""
    ca_file: Path | None = None


def kms_client(access: GcpAccess) -> KeyManagementServiceClient:
    """Make a client; connects to nothing. It may be shared by threads, not by forks.

    Raises:
        google.auth.exceptions.GoogleAuthError: there are no credentials, or they are unusable.
    """
    url = urlsplit(access.endpoint or f"https://{HOST}")
    address = f"{url.hostname}:{url.port or 443}"
    if url.scheme == "http":
        channel = grpc.insecure_channel(address, options=_OPTIONS)
    else:
        roots = access.ca_file.read_bytes() if access.ca_file else certifi.contents().encode()
        credentials, _ = google.auth.default(scopes=KeyManagementServiceGrpcTransport.AUTH_SCOPES)
        channel = grpc_helpers.create_channel(
            address,
            credentials=credentials,
            ssl_credentials=grpc.ssl_channel_credentials(roots),
            options=_OPTIONS,
        )
    client = KeyManagementServiceClient(
        transport=KeyManagementServiceGrpcTransport(host=address, channel=channel),
        client_options={"universe_domain": "googleapis.com"},
    )
    silence({"google", "grpc", "urllib3"})
    return client
