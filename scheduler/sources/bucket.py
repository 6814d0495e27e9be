"""A report of Amazon S3 Inventory in its bucket."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING, TypeVar

import boto3
import tenacity
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from keywrap import awssession
from keywrap.config import StoreConfig
from keywrap.endpoints import CONNECT_TIMEOUT_S
from scheduler.sources.files import read_errors
from scheduler.sources.manifest import MAX_MANIFEST_BYTES, DataFile, damaged
from scheduler.sources.source import SourceError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client  # stubs: not there at run time
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_ATTEMPTS = 4
_CHUNK_BYTES = 1024 * 1024
_MISSING = "source_missing"

_Result = TypeVar("_Result")


class BucketReport:
    """The files of a report, fetched by the settings and credentials of the store.

    All lie in the bucket of the manifest: the inventory's destination, which S3 wants in the
    Region of the bucket that is listed.

    Args:
        bucket: the destination bucket.
        key: of `manifest.json`.
        store: the store, for Region, endpoint, profile and time limit.
    """

    def __init__(self, bucket: str, key: str, store: StoreConfig) -> None:
        self._bucket = bucket
        self._key = key
        self._client = _client(store)

    def manifest(self) -> bytes:
        """Return `manifest.json`.

        Raises:
            SourceError: it is not there, cannot be read, or is too large to be one.
        """
        return self._small(self._key)

    def checksum(self) -> bytes | None:
        """Return `manifest.checksum`; None where there is none."""
        try:
            return self._small(self._key.removesuffix(".json") + ".checksum")
        except SourceError as error:
            if error.reason_code == _MISSING:
                return None
            raise

    @contextmanager
    def open(self, file: DataFile) -> Iterator[IO[bytes]]:
        """Fetch a data file whole; see `scheduler.sources.report.ReportFiles`.

        It goes to the disk, without a name, and is gone when it is closed.
        """
        with tempfile.TemporaryFile() as output:

            def fetch(found: "GetObjectOutputTypeDef") -> None:
                if found["ContentLength"] != file.size:
                    raise damaged(
                        f"the data file {file.key} has {found['ContentLength']:,} bytes, and the "
                        f"manifest says {file.size:,}"
                    )
                output.seek(0)  # over what an attempt that broke off has left
                for chunk in found["Body"].iter_chunks(_CHUNK_BYTES):
                    output.write(chunk)

            with read_errors(f"a copy of {file.key}"):
                self._get(file.key, fetch)
                output.seek(0)
            yield output

    def _small(self, key: str) -> bytes:
        data = self._get(key, lambda found: found["Body"].read(MAX_MANIFEST_BYTES + 1))
        if len(data) > MAX_MANIFEST_BYTES:
            raise damaged(f"{key} has more than {MAX_MANIFEST_BYTES:,} bytes")
        return data

    def _get(self, key: str, use: "Callable[[GetObjectOutputTypeDef], _Result]") -> _Result:
        """Get an object and use it, again where it breaks off."""
        # Making the request is tried again by botocore; that its body breaks off is not.
        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            retry=tenacity.retry_if_exception_type((HTTPClientError, IncompleteReadError)),
            reraise=True,
        )

        def get() -> _Result:
            found = self._client.get_object(Bucket=self._bucket, Key=key)
            with closing(found["Body"]):  # what is not read to its end holds its connection
                return use(found)

        try:
            return again(get)
        except ClientError as error:
            raise self._refused(key, error.response["Error"]["Code"]) from error
        except BotoCoreError as error:
            raise SourceError(
                f"s3://{self._bucket}/{key} cannot be read: {error}",
                reason_code="source_unreadable",
                next_command="check [store] region and endpoint, the credentials and the network",
            ) from error

    def _refused(self, key: str, code: str) -> SourceError:
        place = f"s3://{self._bucket}/{key}"
        if code in {"NoSuchKey", "NoSuchBucket"}:
            return SourceError(
                f"{place} is not there ({code})",
                reason_code=_MISSING,
                next_command="check the bucket and the key of the manifest",
            )
        return SourceError(
            f"{place} is refused ({code})",
            reason_code="source_refused",
            next_command="allow s3:GetObject there, and s3:ListBucket on its bucket; where the "
            "report is encrypted by SSE-KMS also kms:Decrypt",
        )


def _client(store: StoreConfig) -> "S3Client":
    try:
        road = boto3.session.Session(
            region_name=store.region, botocore_session=awssession.session(store.profile)
        )
        return road.client(
            "s3",
            endpoint_url=store.endpoint or None,
            config=awssession.client_config(
                store.timeout_s,
                CONNECT_TIMEOUT_S,
                _ATTEMPTS,
                Config(
                    signature_version="s3v4",
                    s3={
                        "addressing_style": "path" if store.endpoint else "auto",
                        "use_accelerate_endpoint": False,
                    },
                ),
            ),
        )
    except BotoCoreError as error:
        raise SourceError(
            f"the settings of AWS cannot be used: {error}",
            reason_code="source_unreadable",
            next_command="check [store] profile and region",
        ) from error
