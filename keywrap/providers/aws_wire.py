"""The requests of a rewrap's every blob, sent to KMS without the layers of boto3's client.

Serializing, signing, credentials and reading answers are botocore's own. What is left out is what
its client does around them for each request: resolving the endpoint, some thirty hooks, urllib3's
pool (docs/decisions/lean-kms-client.md has the figures).
"""

import ssl
import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from keywrap import awssession
from keywrap.providers.aws_answers import Answer
from keywrap.providers.aws_client import CONNECT_TIMEOUT_S, AwsAccess, kms_client
from keywrap.providers.aws_exchange import Connection, Reply
from keywrap.providers.aws_signing import KmsSigning

if TYPE_CHECKING:
    from botocore.model import Shape
    from botocore.session import Session
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time

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
        self._signing = KmsSigning(self._url, client.meta.region_name)
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
        reply = self._exchange(request["headers"], request["body"])
        answer = self._parser.parse(
            {"status_code": reply.status, "headers": reply.headers, "body": reply.body},
            cast("Shape", model.output_shape),  # each of the three has one
        )
        if reply.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise ClientError(answer, operation)
        return cast("Answer", answer)

    def _exchange(self, headers: Mapping[str, str], body: bytes) -> Reply:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        frozen = credentials.get_frozen_credentials()
        signed = self._signing.signed(frozen, headers, body)
        return self._connection().post(self._path, {**signed, "User-Agent": "keywrap"}, body)

    def _connection(self) -> Connection:
        """Return this thread's connection."""
        connection: Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            answer_s = self._access.timeout_s
            connection = self._mine.connection = Connection(
                urlsplit(self._url).netloc, min(CONNECT_TIMEOUT_S, answer_s), answer_s, self._tls
            )
        return connection


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
