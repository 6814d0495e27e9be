"""The table `[store]`: where the blobs lie, how they are named and what is said of legacy ones."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import msgspec

from keywrap.endpoints import ACCOUNT, BUCKETS
from keywrap.stores import Store, StoreUnavailableError
from keywrap.tables.common import ConfigError, check_address, secret_file, secret_variable

if TYPE_CHECKING:
    from keywrap.azurecredentials import Credentials

_SECRETS = ("account_key_env", "account_key_file", "sas_env", "sas_file")
_FIELDS = {
    "file": frozenset[str](),
    "s3": frozenset({"region", "endpoint", "profile"}),
    "az": frozenset({"account", "endpoint", *_SECRETS}),
    "gs": frozenset({"endpoint", "anonymous"}),
}
"""The fields that are for some kinds of store only."""

_REGION = re.compile(r"[a-z0-9-]{2,32}")


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the blobs lie and how they are named.

    Attributes:
        url: the store: `file:///srv/blobs`, `s3://bucket/prefix`, `az://container/prefix` or
            `gs://bucket/prefix`.
        blob_suffix: what follows the blob id in the name of the content.
        sidecar_suffix: what follows the blob id in the name of the sidecar.
        legacy_default: the key of a blob whose sidecar names none or is missing; empty: such a
            blob is quarantined.
        legacy_content: how a blob is encrypted whose sidecar does not say.
        keep_previous: whether the old wrap stays beside the new one until it is sealed.
        region: the bucket's Region (S3).
        account: the storage account (Azure).
        endpoint: URL of another service than AWS's, Azure's public cloud's or Google's own. Azure's
            may end with `/account`, where the path names the account.
        profile: the profile of the AWS configuration that holds the credentials; empty: the
            default chain (environment, web identity, container, instance).
        account_key_env: the environment variable that holds the account's key; without any of
            these four, Microsoft Entra is asked (azure-identity's default chain).
        account_key_file: the file that holds it, instead.
        sas_env: the environment variable that holds a shared access signature for the container.
        sas_file: the file that holds it, instead.
        anonymous: whether nobody signs, as emulators of Google Cloud Storage want it; only with
            an `endpoint`.
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
    account: str = ""
    account_key_env: str = ""
    account_key_file: str = ""
    sas_env: str = ""
    sas_file: str = ""
    anonymous: bool = False
    allow_http: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 30.0

    @property
    def place(self) -> str:
        """The store and its naming rule in one line: two that differ name other blobs."""
        where = f"{self.url} of {self.account}" if self.account else self.url
        where = f"{where} at {self.endpoint}" if self.endpoint else where
        return f"{where} ({self.blob_suffix or 'no suffix'}, {self.sidecar_suffix})"


def check_store(store: StoreConfig) -> None:
    """See that the URL names a store and that the other fields fit it; connects to nothing.

    Raises:
        ConfigError: it does not, or they do not.
    """
    scheme = urlsplit(store.url).scheme
    if scheme not in _FIELDS:
        raise ConfigError(
            "[store] url",
            "expected an az://, gs://, file:// or s3:// URL",
            next_command='url = "file:///srv/blobs" or url = "s3://bucket/prefix"',
        )
    _check_fields(store, scheme)
    if scheme == "file":
        _folder(store.url)
        return
    _bucket(store.url)
    endpoint = store.endpoint
    if scheme == "s3":
        _check_region(store)
    elif scheme == "az":
        _check_azure(store)
        endpoint = endpoint.rstrip("/").removesuffix(f"/{store.account}")
    elif store.anonymous and not endpoint:
        raise ConfigError("[store] anonymous", "is for an emulator; expected its `endpoint`")
    if endpoint:
        check_address(
            "[store] endpoint",
            endpoint,
            allow_http=store.allow_http,
            example="https://s3.internal:9000",
        )


def _check_fields(store: StoreConfig, scheme: str) -> None:
    for name in sorted(frozenset[str]().union(*_FIELDS.values()) - _FIELDS[scheme]):
        if getattr(store, name):
            fitting = [f"{one}://" for one, fields in _FIELDS.items() if name in fields]
            raise ConfigError(f"[store] {name}", f"is for {' and '.join(fitting)} only")


def _check_region(store: StoreConfig) -> None:
    if not _REGION.fullmatch(store.region):
        raise ConfigError(
            "[store] region",
            "expected the bucket's Region",
            next_command='region = "eu-west-1"',
        )


def _check_azure(store: StoreConfig) -> None:
    if not ACCOUNT.fullmatch(store.account):
        raise ConfigError(
            "[store] account",
            "expected the name of the storage account",
            next_command='account = "blobs7"',
        )
    named = [name for name in _SECRETS if getattr(store, name)]
    if len(named) > 1:
        raise ConfigError("[store]", f"expected one of {' and '.join(named)}")


def open_store(store: StoreConfig, *, threads: int = 8) -> Store:
    """Open a store that `check_store` has passed.

    Args:
        store: the table.
        threads: how many threads will use it at once.

    Raises:
        ConfigError: the extra for it is not installed.
        StoreUnavailableError: it is a folder that is not there.
    """
    scheme = urlsplit(store.url).scheme
    if scheme == "file":
        from keywrap.filestore import FileStore  # noqa: PLC0415 - loaded when it is used

        return FileStore(_folder(store.url))
    openers = {"s3": _open_s3, "az": _open_azure, "gs": _open_gcs}
    try:
        return openers[scheme](store, threads)
    except ImportError as error:
        raise ConfigError(
            "[store] url",
            f"a store in {scheme}:// needs an extra: {error}",
            next_command=f"pip install 'keywrap[{scheme}]'",
        ) from error
    except ValueError as error:
        raise ConfigError("[store]", str(error)) from error


def _open_s3(store: StoreConfig, threads: int) -> Store:
    from keywrap.s3store import open_s3  # noqa: PLC0415 - who uses it needs the extra

    bucket, prefix = _bucket(store.url)
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


def _open_azure(store: StoreConfig, threads: int) -> Store:
    from keywrap.azurestore import open_azure  # noqa: PLC0415 - who uses it needs the extra

    container, prefix = _bucket(store.url)
    return open_azure(
        container,
        prefix,
        account=store.account,
        endpoint=store.endpoint,
        allow_http=store.endpoint.startswith("http://"),  # checked by `check_store`
        credentials=_azure_credentials(store),
        timeout_s=store.timeout_s,
        connections=threads,
    )


def _open_gcs(store: StoreConfig, threads: int) -> Store:
    from keywrap.gcsstore import Anonymous, open_gcs  # noqa: PLC0415 - who uses it needs the extra

    bucket, prefix = _bucket(store.url)
    return open_gcs(
        bucket,
        prefix,
        endpoint=store.endpoint,
        allow_http=store.endpoint.startswith("http://"),  # checked by `check_store`
        tokens=Anonymous() if store.anonymous else None,
        timeout_s=store.timeout_s,
        connections=threads,
    )


def _azure_credentials(store: StoreConfig) -> "Credentials | None":
    from keywrap.azurecredentials import (  # noqa: PLC0415 - who uses it needs the extra
        AccountKey,
        SharedAccessSignature,
    )

    secret = _secret(store)
    if secret is None:
        return None
    if store.account_key_env or store.account_key_file:
        return AccountKey(store.account, secret)
    return SharedAccessSignature(secret)


def _secret(store: StoreConfig) -> Callable[[], str] | None:
    """Return what reads the secret again; it is read once here, so that its absence shows."""
    variable = store.account_key_env or store.sas_env
    if variable:
        place = f"[store] {'account_key_env' if store.account_key_env else 'sas_env'}"
        value = secret_variable(place, variable, os.environ)
        return lambda: value
    named = store.account_key_file or store.sas_file
    if not named:
        return None
    place = f"[store] {'account_key_file' if store.account_key_file else 'sas_file'}"
    path = Path(named)
    secret_file(place, path)

    def again() -> str:
        try:
            return secret_file(place, path).decode("ascii")
        except (ConfigError, UnicodeDecodeError) as error:
            raise StoreUnavailableError(str(error)) from None

    return again


def _bucket(url: str) -> tuple[str, str]:
    """Read the bucket and prefix that a URL names."""
    place = "[store] url"
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if parts.query or parts.fragment:
        raise ConfigError(place, "expected bucket and prefix only", next_command="write # as %23")
    if not BUCKETS[parts.scheme].fullmatch(parts.netloc):
        raise ConfigError(
            place,
            f"expected the name of a {'container' if parts.scheme == 'az' else 'bucket'}",
            next_command=f'url = "{parts.scheme}://bucket/prefix"',
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
