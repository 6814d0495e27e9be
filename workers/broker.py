"""The broker: whether it answers, and whether it is one to be trusted with a deployment."""

from kombu.connection import Connection
from kombu.exceptions import OperationalError

_OLDEST = (7, 2)
"""Older ones get no fixes any more (CVE-2025-49844 and others)."""

_CONNECT_S = 3
_OPTIONS = {"socket_connect_timeout": _CONNECT_S}


class BrokerUnavailableError(Exception):
    """The broker does not take messages. Offers lapse and are made again."""


def greet(url: str) -> str | None:
    """See that the broker answers.

    Args:
        url: where it is, as kombu takes it.

    Returns:
        A warning where it is too old to be deployed, otherwise None.

    Raises:
        BrokerUnavailableError: it does not answer.
    """
    try:
        with Connection(url, transport_options=_OPTIONS) as broker:  # type: ignore[no-untyped-call]
            broker.ensure_connection(max_retries=1, timeout=_CONNECT_S)
            server = broker.default_channel.client.info("server")
    except (KeyError, ValueError):
        # Its text is not repeated: a URL that cannot be read may show its password anywhere.
        raise BrokerUnavailableError("its URL cannot be read") from None
    except (OperationalError, OSError) as error:
        raise BrokerUnavailableError(str(error)) from error
    version = str(server.get("valkey_version") or server.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"the broker is version {version}: for trials only; deploy a current Redis or Valkey"
    return None
