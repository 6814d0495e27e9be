"""The broker: whether it answers, and whether it is one to be trusted with a deployment."""

import re
from collections.abc import Mapping

_MENDED = {
    "redis_version": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey_version": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
"""The first release of each series without CVE-2025-49844 (code execution by whoever may send a
script); later series have none."""

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
    # Here, since many need but the error: kombu takes a while to load.
    from kombu.connection import Connection  # noqa: PLC0415
    from kombu.exceptions import OperationalError  # noqa: PLC0415

    try:
        with Connection(url, transport_options=_OPTIONS) as broker:  # type: ignore[no-untyped-call]
            broker.ensure_connection(max_retries=1, timeout=_CONNECT_S)
            server = broker.default_channel.client.info("server")
    except (KeyError, ValueError):
        # Its text is not repeated: a URL that cannot be read may show its password anywhere.
        raise BrokerUnavailableError("its URL cannot be read") from None
    except (OperationalError, OSError) as error:
        raise BrokerUnavailableError(str(error)) from error
    if is_old(server):
        version = server.get("valkey_version") or server.get("redis_version", "of unknown number")
        return f"the broker is version {version}: for trials only; deploy a current Redis or Valkey"
    return None


def is_old(server: Mapping[str, object]) -> bool:
    """Whether a release is older than the first of its series that is mended.

    Args:
        server: what the broker answers to `INFO server`.
    """
    kind = "valkey_version" if "valkey_version" in server else "redis_version"
    numbers = [int(part) for part in re.findall(r"\d+", str(server.get(kind, "")))]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    series, mended = (major, minor), _MENDED[kind]
    return patch < mended[series] if series in mended else series < max(mended)
