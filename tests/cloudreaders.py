"""An independent reader of blobs in S3 under AWS KMS or OpenBao: boto3, requests and plain AES-GCM.

It shares no code with keywrap: what it opens, another application opens.
"""

import base64
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import requests
from botocore.config import Config

from tests.plaincontents import open_content

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_s3 import S3Client

_AWS = "aws-kms://"
_VAULT = "hcvault://transit/"
_THREADS = 4


def foreign_client(service: str, address: str, environment: dict[str, str]) -> Any:
    """Make a client as somebody else's application would."""
    session = boto3.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="eu-west-1",
    )
    config = Config(s3={"addressing_style": "path"}, proxies={}, max_pool_connections=_THREADS)
    return session.client(service, endpoint_url=address, config=config)


class CloudReader:
    """Opens blobs by what their sidecars say.

    Args:
        s3: reads the bucket.
        kms: opens wraps of AWS.
        bucket: where the blobs lie.
        prefix: the folder of the bucket, with a slash at its end.
        bao: OpenBao's address and a token that may decrypt.
    """

    def __init__(
        self, s3: "S3Client", kms: "KMSClient", bucket: str, prefix: str, bao: tuple[str, str]
    ) -> None:
        self.kms = kms
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._address, token = bao
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["X-Vault-Token"] = token

    def close(self) -> None:
        self._session.close()
        self._s3.close()
        self.kms.close()

    def record(self, blob_id: str) -> dict[str, Any]:
        """Return a blob's sidecar."""
        record: dict[str, Any] = json.loads(self._object(f"{blob_id}.blob.meta"))
        return record

    def records(self, blob_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(blob_ids, pool.map(self.record, blob_ids), strict=True))

    def open(self, blob_id: str) -> bytes:
        """Return a blob's plaintext."""
        record = self.record(blob_id)
        return self._content(blob_id, record, self.data_key(record, {"blob_id": blob_id}))

    def wrong(self, blob_ids: Sequence[str], expected: Callable[[str], bytes]) -> list[str]:
        """Open many blobs; return the ids of those that are not what they should be."""
        with ThreadPoolExecutor(_THREADS) as pool:
            opened = list(pool.map(self.open, blob_ids))
        return [b for b, plain in zip(blob_ids, opened, strict=True) if plain != expected(b)]

    def data_key(self, record: dict[str, Any], context: dict[str, str]) -> bytes:
        """Open the wrap that a sidecar holds."""
        key, _, version = record["key_id"].partition("?version=")
        wrap = base64.b64decode(record["wrapped_dek"], validate=True)
        if key.startswith(_VAULT):
            return self._by_openbao(key.removeprefix(_VAULT), version, wrap, context)
        arn = key.removeprefix(_AWS)
        answer = self.kms.decrypt(CiphertextBlob=wrap, KeyId=arn, EncryptionContext=context)
        assert (answer["KeyId"], answer["KeyMaterialId"]) == (arn, version)
        return answer["Plaintext"]

    def wrap(self, blob_id: str, arn: str) -> None:
        """Wrap a blob's data key under another KMS key, and write that into its sidecar."""
        record, context = self.record(blob_id), {"blob_id": blob_id}
        key = self.data_key(record, context)
        made = self.kms.encrypt(KeyId=arn, Plaintext=key, EncryptionContext=context)
        wrapped = base64.b64encode(made["CiphertextBlob"]).decode()
        key_id = f"{_AWS}{arn}?version={self.material(arn)}"
        self.write(blob_id, record | {"key_id": key_id, "wrapped_dek": wrapped})

    def write(self, blob_id: str, record: dict[str, Any]) -> None:
        """Write a blob's sidecar, whatever lies there."""
        name = f"{self._prefix}{blob_id}.blob.meta"
        self._s3.put_object(Bucket=self._bucket, Key=name, Body=json.dumps(record).encode())

    def material(self, arn: str) -> str:
        """Return the id of a KMS key's current key material."""
        return self.kms.describe_key(KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"]

    def _by_openbao(self, name: str, version: str, wrap: bytes, context: dict[str, str]) -> bytes:
        bound = json.dumps(context, separators=(",", ":"), ensure_ascii=False).encode()
        answer = self._session.post(
            f"{self._address}/v1/transit/decrypt/{name}",
            json={
                "ciphertext": f"vault:v{version}:{base64.b64encode(wrap).decode()}",
                "context": base64.b64encode(bound).decode(),
            },
            timeout=10,
        )
        assert answer.ok, answer.text
        return base64.b64decode(answer.json()["data"]["plaintext"])

    def _object(self, name: str) -> bytes:
        answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + name)
        with answer["Body"] as body:
            return body.read()

    def _content(self, blob_id: str, record: dict[str, Any], key: bytes) -> bytes:
        generation = f".~{record['object']}" if "object" in record else ""
        sealed = self._object(f"{blob_id}.blob{generation}")
        return open_content(record.get("content", "records-v1"), key, sealed)
