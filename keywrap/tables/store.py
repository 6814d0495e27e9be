"""The table `[store]`: where the blobs lie, how they are named and what is said of legacy ones."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import msgspec

from keywrap.stores import Store
from keywrap.tables.common import ConfigError, check_address

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""Amazon S3 user guide, "General purpose bucket naming rules"."""

_REGION = re.compile(r"[a-z0-9-]{2,32}")


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the blobs lie and how they are named.

    Attributes:
        url: the store: `file:///srv/blobs`, or `s3://bucket/prefix`.
        blob_suffix: what follows the blob id in the name of the content.
        sidecar_suffix: what follows the blob id in the name of the sidecar.
        legacy_default: the key of a blob whose sidecar names none or is missing; empty: such a
            blob is quarantined.
        legacy_content: how a blob is encrypted whose sidecar does not say.
        keep_previous: whether the old wrap stays beside the new one until it is sealed.
        region: the bucket's Region.
        endpoint: URL of an S3-compatible service; empty: AWS.
        profile: the profile of the AWS configuration that holds the credentials; empty: the
            default chain (environment, web identity, container, instance).
        allow_http: whether an `http://` endpoint may be another host than this one. Blobs and
            sidecars are ciphertext, but whoever alters them on the way can block a campaign.
        timeout_s: how long one answer of the service may take.
    """

    url: str
    blob_suffix: str = ""
    sidecar_suffix: str = ".sidecar.json"
    legacy_default: str = ""
    legacy_content: str = "gcm-v1"
    keep_previous: bool = True
    region: str = ""
    endpoint: str = ""
    profile: str = ""
    allow_http: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 30.0

    @property
    def place(self) -> str:
        """The store and its naming rule in one line: two that differ name other blobs."""
        where = f"{self.url} at {self.endpoint}" if self.endpoint else self.url
        return f"{where} ({self.blob_suffix or 'no suffix'}, {self.sidecar_suffix})"


def check_store(store: StoreConfig) -> None:
    """See that the URL names a store and that the other fields fit it; connects to nothing.

    Raises:
        ConfigError: it does not, or they do not.
    """
    scheme = urlsplit(store.url).scheme
    if scheme == "file":
        _folder(store.url)
        for name in ("region", "endpoint", "profile"):
            if getattr(store, name):
                raise ConfigError(f"[store] {name}", "is for s3:// only")
    elif scheme == "s3":
        _bucket(store.url)
        if not _REGION.fullmatch(store.region):
            raise ConfigError(
                "[store] region",
                "expected the bucket's Region",
                next_command='region = "eu-west-1"',
            )
        if store.endpoint:
            check_address(
                "[store] endpoint",
                store.endpoint,
                allow_http=store.allow_http,
                example="https://s3.internal:9000",
            )
    else:
        raise ConfigError(
            "[store] url",
            "expected a file:// or s3:// URL",
            next_command='url = "file:///srv/blobs" or url = "s3://bucket/prefix"',
        )


def open_store(store: StoreConfig, *, threads: int = 8) -> Store:
    """Open a store that `check_store` has passed.

    Args:
        store: the table.
        threads: how many threads will use it at once.

    Raises:
        ConfigError: the extra for it is not installed.
        StoreUnavailableError: it is a folder that is not there.
    """
    if urlsplit(store.url).scheme == "file":
        from keywrap.filestore import FileStore  # noqa: PLC0415 - loaded when it is used

        return FileStore(_folder(store.url))
    try:
        from keywrap.s3store import open_s3  # noqa: PLC0415 - who uses it needs the extra
    except ImportError as error:
        raise ConfigError(
            "[store] url", str(error), next_command="pip install 'keywrap[s3]'"
        ) from error
    bucket, prefix = _bucket(store.url)
    try:
        return open_s3(
            bucket,
            prefix,
            region=store.region,
            endpoint=store.endpoint,
            allow_http=store.endpoint.startswith("http://"),  # checked by `check_store`
            profile=store.profile,
            timeout_s=store.timeout_s,
            connections=threads,
        )
    except ValueError as error:
        raise ConfigError("[store]", str(error)) from error


def _bucket(url: str) -> tuple[str, str]:
    """Read the bucket and prefix that an `s3://` URL names."""
    place = "[store] url"
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if parts.query or parts.fragment:
        raise ConfigError(place, "expected bucket and prefix only", next_command="write # as %23")
    if not _BUCKET.fullmatch(parts.netloc):
        raise ConfigError(
            place, "expected the name of a bucket", next_command='url = "s3://bucket/prefix"'
        )
    if any(segment in {"", ".", ".."} for segment in prefix.split("/")) and prefix:
        raise ConfigError(place, "the prefix has an empty segment, or one of dots only")
    return parts.netloc, prefix


def _folder(url: str) -> Path:
    """Read the folder that a `file://` URL names (RFC 8089)."""
    place = "[store] url"
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute():
        raise ConfigError(
            place,
            "a relative file:// URL would mean another folder in every process; expected three "
            "slashes",
            next_command=f'url = "file:///{(parts.netloc + parts.path).strip("/")}"',
        )
    if parts.query or parts.fragment or "\0" in str(path) or path == Path("/"):
        raise ConfigError(place, "expected the URL of a folder", next_command="write # as %23")
    return path
