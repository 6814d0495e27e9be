import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from workers.exposition import PORTS, CannotListenError, next_free, require_free, serve


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_is_said_with_what_to_do(taken: int) -> None:
    with pytest.raises(CannotListenError, match=rf"127\.0\.0\.1:{taken}: .*--metrics-port 0"):
        require_free("127.0.0.1", taken)
    assert next_free("127.0.0.1", taken) in range(taken + 1, taken + PORTS)
    first = next_free("127.0.0.1", taken)
    assert next_free("127.0.0.1", taken, frozenset({first})) > first


def test_metrics_are_served_on_the_next_port_where_one_is_taken(
    taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = serve("127.0.0.1", taken, CollectorRegistry())
    assert server is not None
    try:
        assert taken < server.server_port < taken + PORTS
        assert f"metrics: http://127.0.0.1:{server.server_port}/metrics" in caplog.text
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_of_another_machine_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert serve("192.0.2.1", 9310, CollectorRegistry()) is None
    assert "192.0.2.1" in caplog.text
    assert serve("127.0.0.1", 0, CollectorRegistry()) is None


def test_as_many_workers_as_there_are_ports_find_one_each(taken: int) -> None:
    chosen: set[int] = set()
    for _ in range(PORTS + 5):
        chosen.add(next_free("127.0.0.1", taken, frozenset(chosen)))
    assert len(chosen) == PORTS + 5
    with pytest.raises(CannotListenError, match="no port is left"):
        next_free("127.0.0.1", 65535, frozenset({65535}))
