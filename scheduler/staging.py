"""What the demo and the benchmark play on: a store, a KEK, and a configuration that names both."""

import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.launching import end_with_parent
from embedded.openbao import OpenBao
from keywrap.backups.bundle import create_identity
from keywrap.config import open_keys, open_reader
from keywrap.keyring import KeyRing
from keywrap.kms import KeyProvider
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from workers.settings import Settings, load

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from keywrap.testing.aws_server import AwsServer

REGION = "eu-west-1"

_LEGACY = """
blob_suffix = ".blob"
sidecar_suffix = ".blob.meta"
legacy_default = "env:BLOB_KEY"
legacy_content = "records-v1"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.env.BLOB_WRAP_KEY]
encoding = "hex"
scheme = "aes-gcm"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A store or a KEK: the lines of the configuration that name it, and the secrets it wants.

    Attributes:
        lines: for a store the first lines of `[store]`; for a KEK its table, and `[keys]`.
        environment: variables that hold what the lines name.
    """

    lines: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class MoreKinds:
    """Further kinds of legacy blobs.

    Attributes:
        lines: the tables of the keys that wrap their data keys.
        providers: of each kind the key, which wraps as its old application did.
    """

    lines: str = ""
    providers: Mapping[str, KeyProvider] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Staged:
    """A configuration that is ready, with what it opens.

    Attributes:
        environment: for our processes; it holds the keys.
        settings: what the configuration says.
        reader: reads the store's sidecars.
        keys: the listed KEKs.
        legacy: makes the blobs, and checks them.
    """

    environment: Mapping[str, str] = field(repr=False)
    settings: Settings
    reader: SidecarReader
    keys: KeyRing
    legacy: LegacyBlobs


def files(folder: Path) -> Place:
    """Place the blobs in a new folder."""
    folder.mkdir()
    return Place(f'url = "{folder.as_uri()}"')


def bucket(name: str, endpoint: str, credentials: Mapping[str, str], prefix: str = "") -> Place:
    """Place the blobs in a bucket of an S3-compatible service."""
    url = f"s3://{name}/{prefix}".rstrip("/")
    return Place(f'url = "{url}"\nregion = "{REGION}"\nendpoint = "{endpoint}"', credentials)


def transit_key(bao: OpenBao, name: str) -> Place:
    """Take a new Transit key as the KEK."""
    bao.create_transit_key(name)
    table = f'[keys.vault."transit/{name}"]\naddress = "{bao.address}"\ntoken_env = "BAO_TOKEN"'
    return Place(_primary(f"hcvault://transit/{name}", table), {"BAO_TOKEN": bao.token})


def aws_key(endpoint: str, credentials: Mapping[str, str], *, threads: int = 8) -> Place:
    """Take a new key of an AWS-shaped KMS as the KEK."""
    arn = kms_client(endpoint, credentials).create_key()["KeyMetadata"]["Arn"]
    table = f'[keys.aws."{arn}"]\nendpoint = "{endpoint}"\nthreads = {threads}'
    return Place(_primary(f"aws-kms://{arn}", table), credentials)


def windows(folder: Path) -> MoreKinds:
    """Make up a Windows account whose applications wrapped by DPAPI, and the ring of its key."""
    from keywrap.testing.dpapi import WrappingDpapiProvider  # noqa: PLC0415 - for the demo only

    provider, ring = WrappingDpapiProvider(), folder / "windows.ring.json"
    provider.account.ring().write(ring)
    return MoreKinds(f'[keys.dpapi.windows]\nmode = "ring"\nring = "{ring}"\n', {"dpapi": provider})


def offline_recipient(identity: Path) -> str:
    """Make the key that opens backups; return the table of the configuration that names it."""
    secret, recipient = create_identity()
    identity.touch(mode=0o600)
    identity.write_text(secret, encoding="ascii")
    return f'[backup]\nrecipients = ["{recipient}"]\n'


def local_key(file: Path, name: str) -> Place:
    """Take a new key file as the KEK."""
    from keywrap.providers.local import create_key_file  # noqa: PLC0415

    create_key_file(file, name)
    return Place(_primary(f"local:{name}", f'[keys.local.{name}]\nfile = "{file}"'))


def _primary(uri: str, table: str) -> str:
    return f'[keys]\nprimary = "{uri}"\n\n{table}\n'


def kms_client(endpoint: str, credentials: Mapping[str, str]) -> "KMSClient":
    """Make a boto3 client for an AWS-shaped KMS."""
    import boto3  # noqa: PLC0415 - for the benchmark only

    session = boto3.Session(
        aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    return session.client("kms", endpoint_url=endpoint)


def made_up_credentials() -> dict[str, str]:
    """Make credentials for a service that asks for none in particular."""
    return {
        "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
    }


@contextmanager
def aws_server(bucket_name: str, **options: float) -> Iterator["AwsServer"]:
    """Keep an in-memory S3 and KMS running for the length of the block; it ends with us."""
    from keywrap.testing.aws_server import AwsServer  # noqa: PLC0415 - no part of the image

    with AwsServer.start(
        bucket=bucket_name, preexec_fn=end_with_parent(signal.SIGTERM), **options
    ) as server:
        yield server


def stage(
    config: Path,
    store: Place,
    kek: Place,
    environment: Mapping[str, str],
    more: str = "",
    kinds: MoreKinds | None = None,
) -> Staged:
    """Write a configuration, make its legacy keys, and open all of it.

    Args:
        config: the file to write.
        store: where the blobs lie.
        kek: what they move to.
        environment: more variables for our processes.
        more: more tables for the configuration.
        kinds: further kinds of blobs.
    """
    kinds = kinds or MoreKinds()
    text = f"[store]\n{store.lines}{_LEGACY}\n{kek.lines}\n{kinds.lines}\n{more}"
    config.write_text(text, encoding="utf-8")
    variables = {
        **os.environ,
        **store.environment,
        **kek.environment,
        **environment,
        "REWRAP_CONFIG": str(config),
        "BLOB_KEY": secrets.token_hex(32),
        "BLOB_WRAP_KEY": secrets.token_hex(32),
    }
    # The AWS chain reads credentials from this process's own environment.
    os.environ.update({**store.environment, **kek.environment})
    settings = load(str(config), variables)
    keys, reader = open_keys(settings.keywrap, variables), open_reader(settings.keywrap)
    direct, wrapping = keys.provider("env:BLOB_KEY"), keys.provider("env:BLOB_WRAP_KEY")
    if not isinstance(direct, EnvKeyProvider) or not isinstance(wrapping, EnvKeyProvider):
        raise TypeError("the legacy keys are kept in the environment")
    seed = secrets.token_hex(8)
    legacy = LegacyBlobs(reader, direct, wrapping, seed=seed, more=kinds.providers)
    return Staged(variables, settings, reader, keys, legacy)
