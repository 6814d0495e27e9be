"""The lean KMS client against real sockets: it says what boto3's says, and trusts as little."""

import datetime as dt
import ipaddress
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keywrap.datakey import DataKey
from keywrap.kms import DeniedError, KmsError, UnavailableError
from keywrap.providers import aws_exchange, calls
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.providers.aws_exchange import MAX_ANSWER_BYTES
from keywrap.providers.aws_signing import KmsSigning
from keywrap.providers.aws_wire import lean_client
from keywrap.testing.aws_kms import LostReplyError, StrictKms
from keywrap.testing.aws_kms_keys import KeyState
from tests.clouds import CannedServer

REGION = "eu-west-1"
ARN = "arn:aws:kms:eu-west-1:111122223333:key/11111111-2222-3333-4444-555555555555"
CONTEXT = {"blob_id": "tenants/7/Rechnung März.pdf"}
Canned = Callable[[Callable[[bytes], bytes | None]], CannedServer]

pytestmark = pytest.mark.usefixtures("aws_credentials")


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, kms: StrictKms, seen: list[dict[str, str]], *args: Any) -> None:
        self._kms = kms
        self._seen = seen
        super().__init__(*args)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._seen.append({"port": str(self.client_address[1]), **dict(self.headers.items())})
        try:
            status, headers, answer = self._kms.answer(self.headers["x-amz-target"], body)
        except LostReplyError:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (*headers.items(), ("content-length", str(len(answer)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


class KmsServer:
    """The strict KMS behind a plain HTTP server, or one with TLS."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.kms = StrictKms()
        self.seen: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(_Answering, self.kms, self.seen)
        )
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls else "http"
        self.address = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def client(self, make: Callable[..., Any] = lean_client, **access: Any) -> Any:
        return make(REGION, AwsAccess(endpoint=self.address, **access))

    def provider(self, **access: Any) -> AwsKeyProvider:
        return AwsKeyProvider(self.kms.create_key(), lambda: self.client(**access))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[KmsServer]:
    server = KmsServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "RETRY_FOR_S", 0.2)
    monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.1)


def wrong_requests(kms: StrictKms) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that KMS refuses, each for another reason."""
    arn, other, off = kms.create_key(), kms.create_key(), kms.create_key()
    kms.set_state(off, KeyState.DISABLED)
    kms.deny("Decrypt", other)
    key = {"KeyId": arn, "EncryptionContext": CONTEXT}
    yield "encrypt", {**key, "KeyId": ARN, "Plaintext": b"x" * 32}
    yield "encrypt", {**key, "KeyId": off, "Plaintext": b"x" * 32}
    yield "encrypt", {**key, "Plaintext": b"x" * 5000}
    yield "encrypt", {**key, "Plaintext": b"x", "DryRun": True}
    yield "decrypt", {**key, "CiphertextBlob": b"no wrap"}
    yield "decrypt", {**key, "KeyId": other, "CiphertextBlob": b"no wrap"}
    source = {"SourceKeyId": arn, "SourceEncryptionContext": CONTEXT}
    to = {"DestinationKeyId": other, "DestinationEncryptionContext": CONTEXT}
    yield "re_encrypt", {**source, **to, "CiphertextBlob": b"no wrap"}


def test_every_error_is_the_one_that_boto3s_client_raises(server: KmsServer) -> None:
    lean, plain = server.client(), server.client(kms_client)
    for method, parameters in wrong_requests(server.kms):
        raised = []
        for client in (lean, plain):
            with pytest.raises(plain.exceptions.ClientError) as error:
                getattr(client, method)(**parameters)
            raised.append((error.value.operation_name, error.value.response["Error"]))
        assert raised[0] == raised[1]


def test_every_answer_is_the_one_that_boto3s_client_gives(server: KmsServer) -> None:
    lean, plain = server.client(), server.client(kms_client)
    arn, other = server.kms.create_key(), server.kms.create_key()
    key = {"KeyId": arn, "EncryptionContext": CONTEXT}
    wrap = lean.encrypt(**key, Plaintext=b"k" * 32)["CiphertextBlob"]
    for method, parameters in (
        ("decrypt", {**key, "CiphertextBlob": wrap}),
        ("encrypt", {**key, "Plaintext": b"k" * 32}),
        (
            "re_encrypt",
            {
                "CiphertextBlob": wrap,
                "SourceKeyId": arn,
                "SourceEncryptionContext": CONTEXT,
                "DestinationKeyId": other,
                "DestinationEncryptionContext": CONTEXT,
            },
        ),
    ):
        ours, theirs = (getattr(client, method)(**parameters) for client in (lean, plain))
        assert ours.keys() == theirs.keys()
        new = {"CiphertextBlob", "ResponseMetadata"}
        assert {k: v for k, v in ours.items() if k not in new} == {
            k: v for k, v in theirs.items() if k not in new
        }
        assert ours["ResponseMetadata"]["HTTPStatusCode"] == 200
        assert isinstance(ours.get("CiphertextBlob", b""), bytes)


def test_what_is_signed_is_what_boto3s_client_signs(
    server: KmsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of a role")
    signed = []
    for make in (lean_client, kms_client):
        server.client(make).encrypt(
            KeyId=server.kms.create_key(), Plaintext=b"k" * 32, EncryptionContext=CONTEXT
        )
        said = server.seen[-1]
        head, _, names = said["Authorization"].partition("SignedHeaders=")
        signed.append((head, set(names.split(",")[0].split(";")), said["X-Amz-Security-Token"]))
    assert signed[0] == signed[1]


def test_the_signature_is_the_one_that_botocores_signer_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_yesterday, of_today = (ReadOnlyCredentials("AKIA", key, "token") for key in ("old", "new"))
    headers = {"X-Amz-Target": "TrentService.Encrypt", "Content-Type": "application/x-amz-json-1.1"}
    for url in (
        "https://kms.eu-west-1.amazonaws.com/",
        "http://[::1]:8200/",
        "https://kms:443/a b/",
    ):
        signing = KmsSigning(url, REGION)
        for credentials in (of_yesterday, of_today, of_today, of_yesterday):
            for day in (27, 28):  # the key that signs is another one each day
                at = dt.datetime(2026, 11, day, 23, 59, 59, tzinfo=dt.UTC)
                monkeypatch.setattr(auth, "get_current_datetime", lambda at=at: at)
                request = AWSRequest("POST", url, headers, b"{}")
                auth.SigV4Auth(credentials, "kms", REGION).add_auth(request)
                ours = signing.signed(credentials, headers, b"{}")
                assert ours["Authorization"] == request.headers["Authorization"]
                assert ours["X-Amz-Date"] == request.headers["X-Amz-Date"]


def test_a_session_token_with_a_line_break_sends_nothing(
    server: KmsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of a role\r\nX-Forged: 1")
    with pytest.raises(UnavailableError):
        server.provider().wrap(DataKey.generate(), CONTEXT)
    assert server.seen == []


def test_an_answer_that_is_not_one_answer_is_none(canned: Canned) -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    for reply in (
        whole + whole,
        whole + b"more",
        b"HTTP/1.1 100 Continue\r\n\r\n" + whole,
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        whole.replace(b": 2", b": 2\r\ncontent-length: 3"),
        whole.replace(b"content-length: 2", b"connection: close"),
    ):
        server = canned(lambda _head, reply=reply: reply)  # type: ignore[misc]
        client = lean_client(REGION, AwsAccess(endpoint=server.address, timeout_s=0.5))
        with pytest.raises((HTTPException, OSError)):
            client.encrypt(KeyId=ARN, Plaintext=b"k" * 32)


def test_a_connection_that_kms_closes_is_not_used_again(canned: Canned) -> None:
    for kept, connections in (("keep-alive", 1), ("close", 3)):
        reply = f"HTTP/1.1 200 OK\r\nconnection: {kept}\r\ncontent-length: 2\r\n\r\n{{}}"
        server = canned(lambda _head, reply=reply: reply.encode())  # type: ignore[misc]
        client = lean_client(REGION, AwsAccess(endpoint=server.address))
        for _ in range(3):
            client.encrypt(KeyId=ARN, Plaintext=b"k" * 32)
        assert len(server.connections) == connections


def test_an_answer_that_nobody_asked_for_is_none_to_the_next_request(canned: Canned) -> None:
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s"
    bodies = [b'{"KeyId":"first"}', b'{"KeyId":"second"}']
    server = canned(lambda _head: whole % (len(bodies[0]), bodies.pop(0)))
    client = lean_client(REGION, AwsAccess(endpoint=server.address))
    assert client.encrypt(KeyId=ARN, Plaintext=b"k" * 32)["KeyId"] == "first"
    stray = b'{"KeyId":"stray"}'
    server.connections[0].sendall(whole % (len(stray), stray))
    time.sleep(0.1)
    assert client.encrypt(KeyId=ARN, Plaintext=b"k" * 32)["KeyId"] == "second"
    assert len(server.connections) == 2


def test_a_thread_keeps_its_connection_until_it_was_idle_for_long(
    server: KmsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = server.provider()
    for _ in range(5):
        provider.wrap(DataKey.generate(), CONTEXT)
    ports = {said["port"] for said in server.seen if "Encrypt" in said["X-Amz-Target"]}
    assert len(ports) == 1
    monkeypatch.setattr(aws_exchange, "_IDLE_S", 0.0)
    provider.wrap(DataKey.generate(), CONTEXT)
    assert server.seen[-1]["port"] not in ports


def test_a_reply_that_is_lost_is_asked_for_again_on_a_new_connection(server: KmsServer) -> None:
    provider = server.provider()
    provider.wrap(DataKey.generate(), CONTEXT)
    server.kms.faults.lose_next_reply(times=1)
    data_key = DataKey.generate()
    wrapped = provider.wrap(data_key, CONTEXT)
    assert provider.unwrap(wrapped, CONTEXT) == data_key


def test_nobody_there_no_answer_and_half_an_answer_are_an_outage(canned: Canned) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"
    for reply in (None, half, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 503 Busy\r\n\r\n<html>"):
        server = canned(lambda _head, reply=reply: reply)  # type: ignore[misc]
        access = AwsAccess(endpoint=server.address, timeout_s=0.5)
        provider = AwsKeyProvider(ARN, partial(lean_client, REGION, access))
        for _ in range(2):
            with pytest.raises(UnavailableError):
                provider.wrap(DataKey.generate(), CONTEXT)
            server.stop()  # and then nobody


def test_an_answer_without_end_is_not_read_to_its_end(canned: Canned) -> None:
    long = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (10 * MAX_ANSWER_BYTES)
    server = canned(lambda _head: long + b" " * 10 * MAX_ANSWER_BYTES)
    client = lean_client(REGION, AwsAccess(endpoint=server.address))
    with pytest.raises(HTTPException, match="longer"):
        client.encrypt(KeyId=ARN, Plaintext=b"k" * 32)


def test_a_redirection_is_not_followed(canned: Canned, server: KmsServer) -> None:
    moved = f"HTTP/1.1 307 Moved\r\nlocation: {server.address}/\r\ncontent-length: 0\r\n\r\n"
    elsewhere = canned(lambda _head: moved.encode())
    access = AwsAccess(endpoint=elsewhere.address)
    provider = AwsKeyProvider(ARN, partial(lean_client, REGION, access))
    with pytest.raises(KmsError):
        provider.wrap(DataKey.generate(), CONTEXT)
    assert server.seen == []


def test_without_credentials_nothing_is_sent(
    server: KmsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(DeniedError) as denied:
        server.provider().wrap(DataKey.generate(), CONTEXT)
    assert denied.value.reason_code == "credentials_missing"
    assert server.seen == []


def test_no_log_shows_a_data_key(server: KmsServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    data_key = DataKey.generate()
    provider = server.provider()
    assert provider.unwrap(provider.wrap(data_key, CONTEXT), CONTEXT) == data_key
    assert "CanonicalRequest" not in caplog.text
    assert "Response body" not in caplog.text


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS, and the file with the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kms of a test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    trusted, private = tmp_path / "ca.pem", tmp_path / "key.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(trusted, private)
    return tls, trusted


@pytest.fixture
def tls_server(authority: tuple[ssl.SSLContext, Path]) -> Iterator[KmsServer]:
    server = KmsServer(authority[0])
    yield server
    server.stop()


def test_tls_is_to_a_certificate_that_is_trusted_only(
    authority: tuple[ssl.SSLContext, Path], tls_server: KmsServer
) -> None:
    trusted = authority[1]
    data_key, provider = DataKey.generate(), tls_server.provider(ca_file=trusted)
    assert provider.unwrap(provider.wrap(data_key, CONTEXT), CONTEXT) == data_key
    asked = len(tls_server.seen)
    with pytest.raises(UnavailableError, match="SSLCertVerificationError"):
        tls_server.provider().wrap(DataKey.generate(), CONTEXT)
    wrong_name = tls_server.address.replace("127.0.0.1", "localhost")
    client = lean_client(REGION, AwsAccess(endpoint=wrong_name, ca_file=trusted))
    for _ in range(2):  # the second time the connection must not be there, in clear
        with pytest.raises(ssl.SSLCertVerificationError):
            client.encrypt(KeyId=tls_server.kms.create_key(), Plaintext=b"k" * 32)
    assert len(tls_server.seen) == asked


def test_the_environment_has_no_keys_of_connections_written_down(
    authority: tuple[ssl.SSLContext, Path],
    tls_server: KmsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    client = tls_server.client(ca_file=authority[1])
    client.encrypt(KeyId=tls_server.kms.create_key(), Plaintext=b"k" * 32)
    assert len(tls_server.seen) == 1
    log = tmp_path / "keys.log"  # boto3's client, which asks for nothing here, begins one
    assert not log.exists() or "SECRET" not in log.read_text(), "whoever reads it has the data keys"
