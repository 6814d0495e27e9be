"""The requests of a rewrap's every blob, sent to KMS without the layers of boto3's client.

Serializing, signing, credentials and reading answers are botocore's own. What is left out is what
its client does around them for each request: resolving the endpoint, some thirty hooks, urllib3's
pool. That is two thirds of a request's CPU (docs/decisions/lean-kms-client.md has the figures).
"""

import ssl
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from keywrap import awssession
from keywrap.providers.aws_answers import Answer
from keywrap.providers.aws_client import CONNECT_TIMEOUT_S, AwsAccess, kms_client

if TYPE_CHECKING:
    from botocore.model import Shape
    from botocore.session import Session
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time

MAX_ANSWER_BYTES = 64 * 1024
"""Far above any answer of the three operations: a plaintext has 4,096 bytes, a wrap 6,144."""

_IDLE_S = 4.0
"""A connection that was idle for longer is not used again: KMS may have closed it by now."""

_PROTOCOL = "json"  # AWS JSON 1.1, which KMS speaks (botocore's model of it: metadata.protocol)


class LeanKmsClient:
    """A boto3 client of KMS whose `encrypt`, `decrypt` and `re_encrypt` take the short way.

    May be shared by threads, not by forks: each thread has a connection of its own. All other
    methods are the boto3 client's.

    Args:
        client: reaches the Region and endpoint to ask.
        session: that the client was made of; its credentials, renewed by botocore, sign for both.
        access: time limits, and the certificates to trust.
    """

    def __init__(self, client: "KMSClient", session: "Session", access: AwsAccess) -> None:
        self._client = client
        self._session = session
        self._access = access
        self._model = session.get_service_model("kms")
        self._serializer = create_serializer(_PROTOCOL, include_validation=False)
        self._parser = create_parser(_PROTOCOL)
        self._url = client.meta.endpoint_url.rstrip("/") + "/"
        self._path = urlsplit(self._url).path
        self._region = client.meta.region_name
        self._tls = _tls(access) if self._url.startswith("https:") else None
        self._mine = threading.local()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as boto3 makes its methods
        return getattr(self._client, name)

    def encrypt(self, **parameters: object) -> Answer:
        """Ask for `Encrypt`; parameters and answer are boto3's."""
        return self._ask("Encrypt", parameters)

    def decrypt(self, **parameters: object) -> Answer:
        """Ask for `Decrypt`; parameters and answer are boto3's."""
        return self._ask("Decrypt", parameters)

    def re_encrypt(self, **parameters: object) -> Answer:
        """Ask for `ReEncrypt`; parameters and answer are boto3's."""
        return self._ask("ReEncrypt", parameters)

    def _ask(self, operation: str, parameters: Mapping[str, object]) -> Answer:
        """Send a request, once.

        Raises:
            botocore.exceptions.ClientError: KMS answers with an error.
            botocore.exceptions.NoCredentialsError: there are none.
            OSError, http.client.HTTPException: there is no answer.
        """
        model = self._model.operation_model(operation)
        request = self._serializer.serialize_to_request(parameters, model)
        signed = self._signed(request["headers"], request["body"])
        status, headers, body = self._exchange(request["body"], signed)
        answer = self._parser.parse(
            {"status_code": status, "headers": headers, "body": body},
            cast("Shape", model.output_shape),  # each of the three has one
        )
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise ClientError(answer, operation)
        return cast("Answer", answer)

    def _signed(self, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        request = AWSRequest(method="POST", url=self._url, data=body, headers=headers)
        frozen = credentials.get_frozen_credentials()
        SigV4Auth(frozen, "kms", self._region).add_auth(request)
        return {**dict(request.headers), "User-Agent": "keywrap"}

    def _exchange(
        self, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self._connection()
        try:
            answer = connection.post(self._path, body, headers)
            data = _read(answer)
        except BaseException:
            # What is left on the way would be taken for the answer to the next request.
            connection.close()
            raise
        self._mine.used_at = time.monotonic()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, data

    def _connection(self) -> "_Connection":
        """Return this thread's connection, open."""
        connection: _Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._new_connection()
        elif connection.sock is not None and time.monotonic() - self._mine.used_at > _IDLE_S:
            connection.close()
        if connection.sock is None:
            connection.open(self._access.timeout_s)
        return connection

    def _new_connection(self) -> "_Connection":
        host = urlsplit(self._url).netloc
        timeout_s = min(CONNECT_TIMEOUT_S, self._access.timeout_s)
        if self._tls is None:
            return _Connection(host, timeout=timeout_s)
        return _TlsConnection(host, timeout=timeout_s, context=self._tls)


class _Connection(HTTPConnection):
    """Sends head and body of a request as one: apart they are two packets, and wake KMS twice."""

    _pieces: list[bytes]

    def __del__(self) -> None:
        self.close()  # the thread that had it is over

    def open(self, timeout_s: float) -> None:
        """Connect, and wait no longer than this for each answer."""
        self._pieces = []
        try:
            self.connect()
            self.sock.settimeout(timeout_s)
        except BaseException:
            # After a handshake that failed there is a socket yet: in clear, and to somebody else.
            self.close()
            raise

    def send(self, data: bytes) -> None:  # type: ignore[override] # requests of ours are bytes
        """Keep a piece of a request until `post` has them all."""
        self._pieces.append(data)

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> HTTPResponse:
        """Send a request, and return the answer's head."""
        self.request("POST", path, body, headers)
        whole = b"".join(self._pieces)
        self._pieces.clear()
        super().send(whole)
        return self.getresponse()


class _TlsConnection(HTTPSConnection, _Connection):
    """The same over TLS."""


def lean_client(region: str, access: AwsAccess) -> "KMSClient":
    """Make a KMS client; connects to nothing.

    Raises:
        botocore.exceptions.BotoCoreError: the profile or the AWS configuration cannot be used.
    """
    session = awssession.session(access.profile)
    client = kms_client(region, access, session)
    return cast("KMSClient", LeanKmsClient(client, session, access))


def _tls(access: AwsAccess) -> ssl.SSLContext:
    # Not `create_default_context`: SSLKEYLOGFILE in the environment would make that one write
    # down the keys of the connection, and so the data keys.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    ca_file = str(access.ca_file) if access.ca_file else get_cert_path(verify=True)
    context.load_verify_locations(ca_file)
    return context


def _read(answer: HTTPResponse) -> bytes:
    data = answer.read(MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise HTTPException("the answer is longer than any of KMS")
    return data
