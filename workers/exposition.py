"""Serving metrics over HTTP, for Prometheus."""

import logging
import socket
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

logger = logging.getLogger(__name__)

PORTS = 100
"""Ports that are tried, from the first on."""

_LAST = 65535


class CannotListenError(OSError):
    """Metrics cannot be served there.

    Args:
        address: the address.
        port: the TCP port.
        cause: what the system says.
    """

    def __init__(self, address: str, port: int, cause: OSError) -> None:
        super().__init__(
            f"metrics cannot be served on {address}:{port}: {cause.strerror or cause}; name "
            "another port with --metrics-port, or none with --metrics-port 0"
        )


def require_free(address: str, port: int) -> None:
    """See that a port can be listened on.

    Raises:
        CannotListenError: it cannot.
    """
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(found[0][0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except OSError as error:
        raise CannotListenError(address, port, error) from None


def next_free(address: str, first: int, taken: frozenset[int] = frozenset()) -> int:
    """Return the first port from some port on that can be listened on.

    Args:
        address: the address.
        first: the port to begin with.
        taken: ports that are not to be had, whatever the system says.

    Raises:
        CannotListenError: none of `PORTS` can.
    """
    failure = CannotListenError(address, first, OSError("no port is left"))
    for port in _ports(first, PORTS + len(taken)):
        if port in taken:
            continue
        try:
            require_free(address, port)
        except CannotListenError as error:
            failure = error
        else:
            return port
    raise failure


def serve(address: str, first: int, registry: CollectorRegistry) -> WSGIServer | None:
    """Serve what a registry has, in threads of their own, on the first port that is free.

    What is in the way is logged and nothing is served: work goes on without metrics.

    Args:
        address: the address.
        first: the port to begin with; 0: nothing is served.
        registry: has the metrics.

    Returns:
        The server, if there is one.
    """
    if not first:
        return None
    for port in _ports(first):
        try:
            server, _ = start_http_server(port, address, registry)
        except OSError as error:
            failure = CannotListenError(address, port, error)
        else:
            logger.info(
                "metrics: http://%s:%d/metrics", address, port, extra={"event": "metrics_served"}
            )
            return server
    logger.error("%s", failure, extra={"event": "metrics_off"})
    return None


def _ports(first: int, count: int = PORTS) -> range:
    return range(first, min(first + count, _LAST + 1))
