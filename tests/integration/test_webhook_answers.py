"""What strange receivers answer, and what a webhook's sender makes of it."""

import logging
import threading
import time
from collections.abc import Callable

import pytest

from scheduler import webhooks
from tests.clouds import CannedServer

Canned = Callable[[Callable[[bytes], bytes | None]], CannedServer]
SECRET = "/services/T0/B0/a-secret-path"


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_TIMEOUT_S", (1.0, 0.3))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
    ids=["of no length, kept open", "cut", "in broken chunks"],
)
def test_a_message_whose_answer_cannot_be_read_is_delivered_where_its_status_says_so(
    canned: Canned, answer: bytes
) -> None:
    told = webhooks.post(canned(lambda _head: answer).address, {"a": 1}, "1-raised")
    assert told.is_delivered


def test_a_receiver_that_repeats_its_address_tells_nobody_of_it(canned: Canned) -> None:
    said = f"Cannot POST {SECRET}: no a-secret-path here".encode()
    head = b"HTTP/1.1 404 No\r\nContent-Length: %d\r\n\r\n" % len(said)
    told = webhooks.post(canned(lambda _head: head + said).address + SECRET, {}, "1-raised")
    assert told.says.startswith("404: Cannot POST")
    assert "secret" not in told.says


def test_a_malformed_answer_logs_no_address(
    canned: Canned, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "urllib3.connection")  # as `workers.logs` has it
    answer = b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 0\r\n\r\n"
    webhooks.post(canned(lambda _head: answer).address + SECRET, {}, "1-raised")
    assert "secret" not in caplog.text


def test_no_proxy_sees_what_is_for_this_machine(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = canned(lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.address)
    hook = canned(lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert webhooks.post(hook.address, {}, "1-raised").is_delivered
    assert len(hook.heads) == 1
    assert proxy.heads == []


def test_a_receiver_that_sends_a_byte_now_and_then_holds_its_sender_for_no_longer_than_allowed(
    canned: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_WITHIN_S", 0.2)
    ended = threading.Event()

    def drip(_head: bytes) -> None:
        connection = server.connections[-1]
        while not ended.wait(0.05):
            connection.sendall(b"H")

    server = canned(drip)
    poster = webhooks.Poster()
    began = time.monotonic()
    says = [poster.post(server.address, {}, "1-raised").says for _ in range(4)]
    assert time.monotonic() - began < 5
    assert says == ["no whole answer within 0.2 s"] * 3 + ["3 earlier attempts still hang"]
    ended.set()
    for thread in poster._late:
        thread.join(10)
    monkeypatch.setattr(webhooks, "_WITHIN_S", 5.0)
    taken = canned(lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert poster.post(taken.address, {}, "1-raised").is_delivered
