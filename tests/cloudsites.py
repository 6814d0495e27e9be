"""Sites in the clouds: blobs in S3, KEKs in AWS KMS, and both within a test's reach."""

import asyncio
import json
import os
import random
import secrets
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from embedded import OpenBao
from keywrap.blobs import BusyBlobError, EncryptedBlobs
from keywrap.config import open_keys, open_reader
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider, KmsError
from keywrap.layout import Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.stores import StoreUnavailableError
from keywrap.testing.aws_kms import Event, StrictKms
from keywrap.testing.aws_server import AwsService
from keywrap.testing.http_wire import CLOSED, HttpConnection, Request, Response
from keywrap.testing.legacy import LegacyBlobs, keys_of_every_scheme
from keywrap.testing.s3 import MemoryS3
from tests.cloudreaders import CloudReader, foreign_client
from tests.sites import Premises
from workers.settings import load

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_s3 import S3Client

REGION = "eu-west-1"
PREFIX = "tenant 7/"
"""The store is a folder of the bucket; its name is to be escaped in a URL and in a request."""

SIDECAR = ".blob.meta"

_PUTS = 4
_WRITERS = 4
_PAUSE_S = 0.05
_CONDITIONS = ("if-match", "if-none-match")

_CONFIG = """\
[store]
url = "s3://{bucket}/tenant%207"
region = "{region}"
endpoint = "{s3}"
blob_suffix = ".blob"
sidecar_suffix = ".blob.meta"
legacy_default = "env:BLOB_KEY"
legacy_content = "records-v1"

[keys]
primary = "aws-kms://{arns[0]}"

[keys.aws."{arns[0]}"]
endpoint = "{kms}"

[keys.aws."{arns[1]}"]
endpoint = "{kms}"

[keys.vault."transit/{kek}"]
address = "{bao}"
token_env = "BAO_TOKEN"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.env.BLOB_WRAP_KEY]
encoding = "hex"
scheme = "aes-gcm"

{every_scheme}

[workers]
lease_s = 3
batch = {batch}
threads = 8

[gates]
canary = {canary}

[scheduler]
tick_s = 0.2
claim_s = 2
scan_parts = 4

[flower]
port = 0
"""


class Cloud:
    """S3 and AWS KMS from memory behind one address, on a thread of this process.

    Attributes:
        s3: the one.
        kms: the other, with its trail and its faults.
        address: the URL of both; `/_control` sets faults.
        is_away: whether S3 closes every connection without an answer.
        careless: buckets in which conditions on writes are not heard.
        lost_races: whose writes of a sidecar came after another's, by what signed them.
        on_read: told of each sidecar that is read, by blob id, and whose credentials signed it.
    """

    def __init__(self) -> None:
        self.s3, self.kms = MemoryS3(), StrictKms(REGION)
        self.address = ""
        self.is_away = False
        self.careless: set[str] = set()
        self.lost_races: list[str] = []
        self.on_read: Callable[[str, str], None] = lambda _blob_id, _signer: None
        self._service = AwsService(self.s3, self.kms)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._ready = threading.Event()
        self._connections: list[HttpConnection] = []

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(self._connect, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for connection in self._connections:
            if connection._transport is not None:
                connection._transport.abort()
        await asyncio.sleep(0)

    def _connect(self) -> HttpConnection:
        self._connections.append(HttpConnection(self._answer))
        return self._connections[-1]

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        if "x-amz-target" not in request.headers and request.target != b"/_control":
            if self.is_away:
                return CLOSED
            if request.target.split(b"/")[1].decode() in self.careless:
                for condition in _CONDITIONS:
                    request.headers.pop(condition, None)
        answer = self._service.answer(request)
        self._see(request, answer)
        return answer

    def _see(self, request: Request, answer: Response | Awaitable[Response]) -> None:
        key = unquote(request.target.decode()).partition(PREFIX)[2]
        signer = request.headers.get("authorization", "")
        if key.endswith(SIDECAR) and request.method == "GET":
            self.on_read(key.removesuffix(SIDECAR), signer)
        if key.endswith(SIDECAR) and isinstance(answer, tuple):
            self.lost_races += [signer] * (answer[0] == HTTPStatus.PRECONDITION_FAILED)

    def control(self, **wishes: object) -> dict[str, Any]:
        """Set faults, latency or quota; return what was counted."""
        body = json.dumps(wishes).encode()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{self.address}/_control", body, timeout=10) as answer:
            counted: dict[str, Any] = json.load(answer)
            return counted

    def asked(self, name: str) -> list[Event]:
        """Return what KMS was asked for under this name, the oldest first."""
        return [event for event in tuple(self.kms.trail) if event.name == name]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


@dataclass(frozen=True)
class MoreKeys:
    """Keys that a site lists beside its own.

    Attributes:
        toml: their tables.
        environment: the variables that these name.
        kinds: the provider of each further kind of blob, which wraps as its old application did.
    """

    toml: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    kinds: Mapping[str, KeyProvider] = field(default_factory=dict)


class PlainBucket:
    """A bucket that an application writes to by itself, without conditions and marks."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def create(self, name: str, data: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=PREFIX + name, Body=data)


class CloudSite(Premises):
    """Legacy blobs of every scheme in S3, with two keys of AWS KMS and one of OpenBao to move to.

    Args:
        directory: everything else of the site lies below it.
        bao: the server of the Transit key.
        kms: the address of KMS.
        s3: that of S3; empty for the same.
        batch: blobs that a worker takes through the steps at once.
        canary: blobs that are tried before the first write.
        more: further keys.

    Attributes:
        arns: the ARNs of the two keys, the primary one first.
        kek: the name of the Transit key.
        kinds: the URI of the legacy or local key of each kind of blob beside the usual ones.
    """

    def __init__(
        self,
        directory: Path,
        bao: OpenBao,
        kms: str,
        *,
        s3: str = "",
        batch: int = 50,
        canary: int = 500,
        more: MoreKeys | None = None,
    ) -> None:
        more = more or MoreKeys()
        directory.mkdir()
        self.bao, self.bucket, self.kek = bao, directory.name, f"{directory.name}-kek"
        bao.create_transit_key(self.kek)
        schemes = keys_of_every_scheme(directory)
        self.kinds = schemes.kinds
        secret = {
            "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
            "BAO_TOKEN": bao.token,
            "BLOB_KEY": secrets.token_hex(32),
            "BLOB_WRAP_KEY": secrets.token_hex(32),
            **schemes.environment,
            **more.environment,
        }
        self.s3: S3Client = foreign_client("s3", s3 or kms, secret)
        self.kms: KMSClient = foreign_client("kms", kms, secret)
        self.arns = [self.kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
        config = _CONFIG.format(
            bucket=self.bucket,
            region=REGION,
            s3=s3 or kms,
            kms=kms,
            arns=self.arns,
            kek=self.kek,
            bao=bao.address,
            every_scheme=schemes.configuration + more.toml,
            batch=batch,
            canary=canary,
        )
        super().__init__(directory, config, secret)
        self._keys = open_keys(load(str(self.config), self.environment).keywrap, self.environment)
        self._legacy = self._maker({**schemes.providers(self._keys), **more.kinds})
        self.reader = CloudReader(self.s3, self.kms, self.bucket, PREFIX, (bao.address, bao.token))

    def _maker(self, more: dict[str, Any]) -> LegacyBlobs:
        bucket: Any = PlainBucket(self.s3, self.bucket)
        direct, wrapping = (
            self._keys.provider(f"env:{name}") for name in ("BLOB_KEY", "BLOB_WRAP_KEY")
        )
        assert isinstance(direct, EnvKeyProvider)
        assert isinstance(wrapping, EnvKeyProvider)
        reader = SidecarReader(bucket, Layout(".blob", SIDECAR), KeyVersion("env:BLOB_KEY"))
        return LegacyBlobs(reader, direct, wrapping, seed=self.bucket, more=more)

    def make(self, count: int, folder: str) -> list[str]:
        """Make blobs of all kinds in turn; return their ids."""
        with ThreadPoolExecutor(_PUTS) as pool:
            return list(self._legacy.make(self._legacy.ids(count, folder), pool))

    def original(self, blob_id: str) -> bytes:
        return self._legacy.original(blob_id)

    def wrong(self, blob_ids: Sequence[str]) -> list[str]:
        """Return the ids of the blobs that do not open to their originals."""
        return self.reader.wrong(blob_ids, self.original)

    def current(self, number: int = 0) -> str:
        """Return the key id that new wraps under one of the AWS keys bear."""
        return f"aws-kms://{self.arns[number]}?version={self.reader.material(self.arns[number])}"

    def close(self) -> None:
        self.reader.close()


def edition(blob_id: str, number: int) -> bytes:
    """Return the content of a blob's n-th replacement: it says what it is."""
    return f"{number} edition of {blob_id} ".encode() * 100


class LiveWriter:
    """An application that replaces blobs and reads them back, on threads, in a `with` block.

    It likes best to write a blob whose sidecar a campaign has just read: there they meet. What it
    is told of (a store or a KMS that does not answer) it takes as applications do, and goes on
    with another blob; anything else is kept in `failures`.

    Args:
        site: where it writes; this process's environment has the writer's own credentials.
        cloud: where that lies.
        blob_ids: the blobs that it replaces; nobody else writes them.

    Attributes:
        done: the edition of each blob that was written last, as far as the writer was told.
        tried: the edition that it began to write last.
        failures: what an application need not put up with.
    """

    def __init__(self, site: CloudSite, cloud: Cloud, blob_ids: Sequence[str]) -> None:
        settings = load(str(site.config), site.environment)
        self._blobs = EncryptedBlobs(
            open_reader(settings.keywrap),
            open_keys(settings.keywrap, site.environment),
            settings.keywrap.store.legacy_content,
        )
        self._site = site
        self._cloud = cloud
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._read: dict[str, LifoQueue[str]] = {}
        for n in range(_WRITERS):
            share, read = blob_ids[n::_WRITERS], LifoQueue[str]()
            self._read |= dict.fromkeys(share, read)
            self._threads.append(threading.Thread(target=self._run, args=(share, read)))
        self.done = dict.fromkeys(blob_ids, 0)
        self.tried = dict.fromkeys(blob_ids, 0)
        self.failures: list[str] = []

    def _was_read(self, blob_id: str, signer: str) -> None:
        if blob_id in self._read and os.environ["AWS_ACCESS_KEY_ID"] not in signer:
            self._read[blob_id].put(blob_id)

    def _run(self, share: Sequence[str], read: "LifoQueue[str]") -> None:
        while not self._ended.is_set():
            try:
                blob_id = read.get(timeout=_PAUSE_S)
            except Empty:
                blob_id = random.choice(share)
            try:
                # Before as well as after: what was lost is found before it is written over.
                self._look(blob_id)
                self.tried[blob_id] += 1
                self._blobs.put(blob_id, edition(blob_id, self.tried[blob_id]))
                self.done[blob_id] = self.tried[blob_id]
                self._look(blob_id)
            except (KmsError, StoreUnavailableError, BusyBlobError):
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, it was not expected
                self.failures.append(f"{blob_id}: {error!r}")

    def _look(self, blob_id: str) -> None:
        if not self.is_there(blob_id, self._blobs.get(blob_id)):
            self.failures.append(f"{blob_id}: not what was written")

    def is_there(self, blob_id: str, plain: bytes) -> bool:
        """Whether a blob may be this: the last that was written, or tried without an answer."""
        done, tried = self.done[blob_id], self.tried[blob_id]
        editions = [edition(blob_id, number) for number in range(max(done, 1), tried + 1)]
        return plain in editions or (done == 0 and plain == self._site.original(blob_id))

    def __enter__(self) -> Self:
        self._cloud.on_read = self._was_read
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
