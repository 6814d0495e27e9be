import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import S3Store

from keywrap.testing.aws_kms import StrictKms
from keywrap.testing.aws_server import AwsServer, AwsService
from keywrap.testing.http_wire import Request
from keywrap.testing.s3 import MemoryS3

SIGNED = b"authorization: AWS4-HMAC-SHA256 Credential=somebody\r\n"


@pytest.fixture
def wire(aws_server: AwsServer) -> Iterator[socket.socket]:
    host, port = aws_server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def request(method: str, path: str, headers: bytes = b"", body: bytes = b"") -> bytes:
    length = b"content-length: %d\r\n" % len(body) if body else b""
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode()
    return head + SIGNED + length + headers + b"\r\n" + body


def answers(wire: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Read so many answers, each status and body."""
    found = []
    with wire.makefile("rb") as stream:
        for _ in range(count):
            status = int(stream.readline().split()[1])
            length = 0
            while (line := stream.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            found.append((status, stream.read(length)))
    return found


def test_requests_sent_in_one_go_are_answered_in_their_order(
    aws_server: AwsServer, s3_bucket: str, wire: socket.socket
) -> None:
    aws_server.control(latency_ms={"put": 30})  # a slow one first, a quick one behind it
    wire.sendall(
        b"".join(
            request("PUT", f"/{s3_bucket}/a", body=b"%d" % number)
            + request("GET", f"/{s3_bucket}/a")
            for number in range(5)
        )
    )
    found = answers(wire, 10)
    assert [status for status, _ in found] == [200] * 10
    assert [body for _, body in found[1::2]] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_body_may_come_in_chunks_and_bytes_may_come_one_by_one(
    s3_bucket: str, wire: socket.socket
) -> None:
    head = request("PUT", f"/{s3_bucket}/a", b"transfer-encoding: chunked\r\n")
    for byte in head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n":
        wire.sendall(bytes([byte]))
    wire.sendall(request("GET", f"/{s3_bucket}/a"))
    assert [body for _, body in answers(wire, 2)] == [b"", b"abcde"]


def test_a_client_that_expects_to_go_on_is_told_to(s3_bucket: str, wire: socket.socket) -> None:
    headers = b"expect: 100-continue\r\ncontent-length: 3\r\n"
    wire.sendall(request("PUT", f"/{s3_bucket}/a", headers))
    assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.sendall(b"abc")
    assert answers(wire, 1) == [(200, b"")]


def test_a_connection_is_closed_when_asked_or_when_nonsense_comes(
    s3_bucket: str, wire: socket.socket, aws_server: AwsServer
) -> None:
    wire.sendall(request("GET", f"/{s3_bucket}/a", b"connection: close\r\n"))
    assert answers(wire, 1)[0][0] == 404
    assert wire.recv(1) == b""
    host, port = aws_server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as other:
        other.sendall(b"nonsense\r\n\r\n")
        assert other.recv(100).startswith(b"HTTP/1.1 400 ")


def test_the_head_of_an_object_has_its_length_and_no_body(
    s3_bucket: str, wire: socket.socket
) -> None:
    wire.sendall(request("PUT", f"/{s3_bucket}/a", body=b"12345"))
    answers(wire, 1)
    wire.sendall(
        request("HEAD", f"/{s3_bucket}/a") + request("DELETE", f"/{s3_bucket}/a", b"x-y: z\r\n")
    )
    wire.settimeout(0.3)
    said = b""
    while b"204" not in said:
        said += wire.recv(1000)
    assert b"content-length: 5\r\n" in said
    assert b"12345" not in said


def test_a_lost_reply_closes_the_connection_and_leaves_the_write(
    aws_server: AwsServer, s3_bucket: str, wire: socket.socket
) -> None:
    aws_server.control(lose_replies=1)
    wire.sendall(request("PUT", f"/{s3_bucket}/a", b"if-none-match: *\r\n", b"1"))
    assert wire.recv(1) == b""
    with socket.create_connection(wire.getpeername(), timeout=10) as other:
        other.sendall(request("GET", f"/{s3_bucket}/a"))
        assert answers(other, 1) == [(200, b"1")]


def test_latency_holds_up_only_its_own_kind_of_request(
    aws_server: AwsServer, s3_bucket: str
) -> None:
    store = client(aws_server, s3_bucket)
    store.put("a", b"1")
    aws_server.control(latency_ms={"put": 150})

    def timed(call: object) -> float:
        begun = time.monotonic()
        call()  # type: ignore[operator]
        return time.monotonic() - begun

    with ThreadPoolExecutor(20) as pool:
        puts = [pool.submit(timed, lambda n=n: store.put(f"{n}", b"")) for n in range(10)]
        gets = [pool.submit(timed, lambda: store.get("a").bytes()) for _ in range(10)]
    assert min(put.result() for put in puts) >= 0.15
    assert sum(put.result() for put in puts) < 10 * 1.5  # side by side, not one after another
    assert min(get.result() for get in gets) < 0.15


def test_control_refuses_what_it_does_not_know(aws_server: AwsServer) -> None:
    for wish in ({"earthquake": 1}, {"latency_ms": {"post": 1}}, {"kms_quota": "much"}):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            aws_server.control(**wish)
    assert aws_server.control()["operations"] is not None


def test_control_counts(aws_server: AwsServer, s3_bucket: str) -> None:
    before = aws_server.control()
    client(aws_server, s3_bucket).put("a", b"1")
    after = aws_server.control()
    assert after["writes"] == before["writes"] + 1
    with urllib.request.urlopen(f"{aws_server.address}/_control") as answer:  # noqa: S310
        assert json.load(answer)["writes"] == after["writes"]


def ask_kms(service: AwsService, target: str, **body: object) -> tuple[int, dict[str, object]]:
    request = Request(b"/", {"x-amz-target": target}, json.dumps(body).encode(), "POST")
    answer = service.answer(request)
    assert isinstance(answer, tuple)
    return answer[0], json.loads(answer[2] or b"{}")


def test_kms_requests_go_to_the_key_service_within_its_quota() -> None:
    service = AwsService(MemoryS3(), StrictKms())
    status, made = ask_kms(service, "TrentService.CreateKey")
    assert status == 200
    asked = {"KeyId": made["KeyMetadata"]["Arn"], "Plaintext": "AAAA"}  # type: ignore[index]
    assert ask_kms(service, "TrentService.Encrypt", **asked)[0] == 200
    service.kms.faults.limit_rate(50)
    said = [ask_kms(service, "TrentService.Encrypt", **asked) for _ in range(40)]
    assert 5 <= [status for status, _ in said].count(200) < 20
    assert "ThrottlingException" in str(said[-1][1]["__type"])


def test_a_lost_reply_of_the_key_service_closes_the_connection() -> None:
    service = AwsService(MemoryS3(), StrictKms())
    service.kms.faults.lose_next_reply()
    assert ask_kms(service, "TrentService.CreateKey")[0] == 0
    assert ask_kms(service, "TrentService.CreateKey")[0] == 200


def test_kms_latency_is_waited_for() -> None:
    service = AwsService(MemoryS3(), StrictKms())
    service.latency_ms["kms"] = 50.0

    async def ask() -> float:
        begun = time.monotonic()
        request = Request(b"/", {"x-amz-target": "TrentService.CreateKey"}, b"{}", "POST")
        answer = service.answer(request)
        assert not isinstance(answer, tuple)
        assert (await answer)[0] == 200
        return time.monotonic() - begun

    assert asyncio.run(ask()) >= 0.05


@pytest.mark.usefixtures("aws_credentials")
def test_it_listens_on_the_loopback_and_ends_when_told() -> None:
    with AwsServer.start("blobs", latency_get_ms=1) as server:
        assert server.address.startswith("http://127.0.0.1:")
        process = server._process
        assert client(server, "blobs").put("a", b"1")
        server.stop()
        assert process.returncode == 0
    assert process.returncode == 0


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="exit 2"):
        AwsServer.start("blobs", no_such_option=1)


STARTER = """
import signal, sys
from embedded.launching import end_with_parent
from keywrap.testing.aws_server import AwsServer
server = AwsServer.start("blobs", preexec_fn=end_with_parent(signal.SIGKILL))
print(server.address, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a child is told of its parent's end on Linux")
def test_it_ends_with_the_process_that_started_it() -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(root)},
    ) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline().decode().strip().rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port)).close()
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def client(server: AwsServer, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        config={"endpoint": server.address, "region": "eu-central-1"},
        client_options={"allow_http": True},
    )
