"""Opening a store in Amazon S3, or in what speaks its protocol.

Where it goes and how it signs is decided by the arguments alone. obstore 0.12 reads every `AWS_…`
variable of the environment before it looks at its own arguments (`AWS_ENDPOINT_URL_S3` even goes
before `endpoint`), so each of its settings that matters is given, and the one that cannot be taken
back, that of server-side encryption, is refused. What the environment still chooses are the
credentials, as everywhere with AWS, a proxy (`HTTPS_PROXY`), and which certificate authorities
are trusted (`SSL_CERT_FILE`, `AWS_CA_BUNDLE`).
"""

import os
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from keywrap.awssession import session
from keywrap.endpoints import (
    BUCKETS,
    DEFAULT_CONNECTIONS,
    check_endpoint,
    client_options,
    folder_of,
    refuse_setting,
)
from keywrap.objectstore import ObjectStore, once_only, require_first_process
from keywrap.s3versions import VersionedS3Bucket
from keywrap.stores import StoreUnavailableError

try:
    import botocore.credentials
    from botocore.exceptions import BotoCoreError, ClientError, UnknownRegionError
    from obstore.store import S3Store
except ImportError as error:
    raise ImportError("a store in S3 needs: pip install 'keywrap[s3]'") from error

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_CREDENTIALS_LAST = timedelta(minutes=10)
"""botocore renews credentials 10 to 15 minutes before they end, so that any that it gives are good
for as long; obstore asks again 5 minutes before this time is over."""

_NOT_OURS = re.compile("AWS_(SERVER_SIDE_ENCRYPTION|SSE_.*)", re.IGNORECASE)
"""As obstore reads names: in capitals or not."""


class AwsCredentials:
    """Credentials by the AWS chain: environment, profile, web identity, container, instance.

    They are looked for when they are first needed: the chain may ask the network.

    Args:
        profile: of the AWS configuration file; empty for the chain's own choice.
    """

    def __init__(self, profile: str = "") -> None:
        self._profile = profile
        self._found: botocore.credentials.Credentials | None = None
        self._lock = threading.Lock()

    def frozen(self) -> botocore.credentials.ReadOnlyCredentials:
        """Return the credentials of this moment.

        Raises:
            StoreUnavailableError: there are none, or they cannot be renewed.
        """
        try:
            with self._lock:
                if self._found is None:
                    self._found = session(self._profile).get_credentials()
            if self._found is None:
                raise StoreUnavailableError("there are no AWS credentials")
            frozen: botocore.credentials.ReadOnlyCredentials = self._found.get_frozen_credentials()
        # A refusal by STS is a ClientError, credentials that are old when they come a RuntimeError,
        # a token file that cannot be read an OSError.
        except (BotoCoreError, ClientError, RuntimeError, OSError) as error:
            raise StoreUnavailableError(f"the AWS credentials: {error}") from error
        return frozen

    def __call__(self) -> "S3Credential":
        """Return them in obstore's manner."""
        found = self.frozen()
        return {
            "access_key_id": found.access_key or "",
            "secret_access_key": found.secret_key or "",
            "token": found.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }


class S3ObjectStore(ObjectStore):
    """A store in a bucket of S3, whose listing says each object's ETag."""

    def __init__(self, client: "S3Store", bucket: VersionedS3Bucket, prefix: str = "") -> None:
        super().__init__(client, bucket, prefix)
        self._s3_bucket = bucket

    def tagged(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield names and ETags; see `keywrap.stores.TaggedStore`."""
        require_first_process()
        for key, tag in self._s3_bucket.tagged(self._prefix + prefix):
            if (name := self._listed(key, prefix)) is not None:
                yield name, tag


def open_s3(  # noqa: PLR0913 - keyword-only
    bucket: str,
    prefix: str = "",
    *,
    region: str,
    endpoint: str = "",
    allow_http: bool = False,
    profile: str = "",
    timeout_s: float = 30.0,
    connections: int = DEFAULT_CONNECTIONS,
) -> S3ObjectStore:
    """Open a store in a bucket; connects to nothing, and looks for no credentials yet.

    Args:
        bucket: its name.
        prefix: the folder of the bucket in which the store lies; empty for all of it.
        region: the bucket's region, such as `eu-central-1`.
        endpoint: `https://host[:port]` of another server than AWS's own, asked path-style.
        allow_http: whether the endpoint may be `http://`: without it, anybody on the way could
            read and change what is stored.
        profile: of the AWS configuration file; empty for the credential chain's own choice.
        timeout_s: of one request, in seconds.
        connections: how many idle ones are kept.

    Raises:
        ValueError: an argument is not of its form, or the environment wants what cannot be
            overruled.
    """
    _check(bucket, region, endpoint, allow_http=allow_http)
    folder = folder_of(prefix)
    refuse_setting(
        _NOT_OURS,
        "would choose the key that objects are encrypted with; set default encryption on the "
        "bucket instead",
    )
    url, hosted = _url(bucket, region, endpoint)
    credentials = AwsCredentials(profile)
    config: S3Config = {
        "bucket": bucket,
        "region": region,
        "endpoint": url if hosted else url.removesuffix(f"/{bucket}"),
        "aws_endpoint_url_s3": url if hosted else url.removesuffix(f"/{bucket}"),
        "virtual_hosted_style_request": hosted,
        "skip_signature": False,
        "unsigned_payload": False,
        "s3_express": False,
        "request_payer": False,
        "conditional_put": "etag",
        "disable_bulk_delete": True,
    }
    options = client_options(allow_http=allow_http, timeout_s=timeout_s, connections=connections)
    client = once_only(S3Store, config, options, credentials)
    described = VersionedS3Bucket(
        bucket,
        region=region,
        url=url,
        credentials=credentials,
        timeout_s=timeout_s,
        ca_bundle=os.environ.get("AWS_CA_BUNDLE", ""),
    )
    return S3ObjectStore(client, described, folder)


def _check(bucket: str, region: str, endpoint: str, *, allow_http: bool) -> None:
    if not BUCKETS["s3"].fullmatch(bucket):
        raise ValueError(f"{bucket!r} is not the name of an S3 bucket")
    if not _REGION.fullmatch(region):
        raise ValueError(f"{region!r} is not a region")
    if endpoint and check_endpoint(endpoint, allow_http=allow_http).path.strip("/"):
        raise ValueError("the endpoint has more than https://host[:port]")


def _url(bucket: str, region: str, endpoint: str) -> tuple[str, bool]:
    """Return the bucket's URL, and whether the host names the bucket."""
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}", False
    known = session("")
    try:
        partition = known.get_partition_for_region(region)
    except UnknownRegionError as error:
        raise ValueError(str(error)) from error
    suffixes = {p["partition"]: p["dnsSuffix"] for p in known.get_data("endpoints")["partitions"]}
    host = f"s3.{region}.{suffixes[partition]}"
    if "." in bucket:  # a certificate for *.s3… is not one for a.b.s3…
        return f"https://{host}/{bucket}", False
    return f"https://{bucket}.{host}", True
