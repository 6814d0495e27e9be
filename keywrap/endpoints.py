"""How a bucket is reached, whosever it is."""

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from obstore.store import ClientConfig

CONNECT_TIMEOUT_S = 5.0
DEFAULT_CONNECTIONS = 256

BUCKETS = {
    "s3": re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    "az": re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*"),
    "gs": re.compile(r"(?!goog|.*google|.*\.\.)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
}
"""Names of buckets and containers, by the scheme of their URLs. Amazon S3 user guide, "General
purpose bucket naming rules"; REST API of Azure Storage, "Naming and referencing containers, blobs,
and metadata"; Google Cloud Storage, "About Cloud Storage buckets"."""

ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
"""Azure, "Storage account overview": storage account name."""

_IDLE = timedelta(seconds=15)
"""Shorter than servers keep a connection, so that few are found closed when they are needed."""


def client_options(*, allow_http: bool, timeout_s: float, connections: int) -> "ClientConfig":
    """Return obstore's options; they replace what the environment says of its client, as a whole.

    Args:
        allow_http: whether `http://` may be asked.
        timeout_s: of one request, in seconds.
        connections: how many idle ones are kept.
    """
    return {
        "allow_http": allow_http,
        "allow_invalid_certificates": False,
        "http1_only": True,  # HTTP/2 would let the client send a refused request again
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)),
        "timeout": timedelta(seconds=timeout_s),
        "pool_idle_timeout": _IDLE,
        "pool_max_idle_per_host": str(connections),
    }


def check_endpoint(endpoint: str, *, allow_http: bool) -> SplitResult:
    """Return the parts of an endpoint's URL; whether a path fits is for the caller to say.

    Args:
        endpoint: `https://host[:port]`.
        allow_http: whether it may be `http://`.

    Raises:
        ValueError: it is no endpoint, or `http://` without leave. No password is repeated.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("the endpoint is not of the form https://host[:port]")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the endpoint has more than https://host[:port]")
    if parts.scheme == "http" and not allow_http:
        raise ValueError("an http:// endpoint needs allow_http: what goes over it is not protected")
    return parts


def refuse_setting(names: re.Pattern[str], why: str) -> None:
    """See that the environment has no setting that obstore obeys and nothing here can overrule.

    Args:
        names: of variables.
        why: what the setting would do, and what to do instead.

    Raises:
        ValueError: it has one.
    """
    if found := next(filter(names.fullmatch, os.environ), None):
        raise ValueError(f"{found} is set in the environment, and {why}, and unset it")


def folder_of(prefix: str) -> str:
    """Return a store's prefix with a slash at its end; empty for all of the bucket.

    Raises:
        ValueError: it has an empty segment, or one of dots.
    """
    segments = prefix.strip("/").split("/") if prefix.strip("/") else []
    if any(segment in {"", ".", ".."} for segment in segments):
        raise ValueError("the prefix has an empty, '.' or '..' segment")
    return "".join(f"{segment}/" for segment in segments)
