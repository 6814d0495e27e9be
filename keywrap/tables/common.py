"""What every table of the configuration needs: its one error, strict reading, secrets, addresses.

Secrets are never in the tables: they name an environment variable or a file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

MAX_SECRET_BYTES = 16 * 1024
"""More than any key or token has; a wrong path is not read into memory whole."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

_Table = TypeVar("_Table", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used.

    Args:
        place: where it stands, such as `[store] url`.
        message: what is wrong and what is expected; never a secret.
        next_command: what to do next: a command or a line to write.
    """

    def __init__(self, place: str, message: str, *, next_command: str = "") -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.next_command = next_command


def read_table(
    place: str,
    value: object,
    type_: type[_Table],
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> _Table:
    """Convert one table; the error names the field, and repeats no value.

    Args:
        place: where the table stands.
        value: what stands there.
        type_: what it is to be.
        choices: the values that a field may have, by its name.

    Raises:
        ConfigError: something is missing, unknown or of another type.
    """
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        field = path.strip("`").removeprefix("$").removeprefix(".")
        message = re.sub(r" '.*'", "", message, flags=re.DOTALL)
        if known := (choices or {}).get(field):
            message += f"; expected one of {', '.join(known)}"
        raise ConfigError(f"{place} {field}".rstrip(), message) from None


def as_mapping(place: str, value: object) -> dict[str, object]:
    """Return a copy of a table.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(place, "expected a table")
    return {str(name): item for name, item in value.items()}


def check_address(place: str, address: str, *, allow_http: bool, example: str) -> None:
    """See that an address is a server's URL, and that nothing crosses a network in clear.

    Args:
        place: where it stands.
        address: the URL.
        allow_http: whether `http://` may reach another host than this one.
        example: an address as it might be.

    Raises:
        ConfigError: it is not, or it would.
    """
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ConfigError(place, "it is not a URL") from None
    if url.scheme not in {"http", "https"} or not host:
        field = place.rpartition(" ")[2]
        raise ConfigError(place, "expected the server's URL", next_command=f'{field} = "{example}"')
    if "@" in url.netloc or url.path.strip("/") or url.query or url.fragment:
        raise ConfigError(place, "expected scheme, host and port only")
    if url.scheme == "http" and host not in _LOOPBACK and not allow_http:
        raise ConfigError(
            place,
            "over http:// the token and data keys cross the network in clear; expected https://",
            next_command="allow_http = true where the network itself is trusted",
        )


def certificates(place: str, ca_file: str) -> Path | None:
    """Return the file of certificates to trust that a table names; None where it names none.

    Raises:
        ConfigError: there is no such file.
    """
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(f"{place} ca_file", f"there is no file {ca_file}")
    return Path(ca_file) if ca_file else None


def check_queue(place: str, queue: str) -> None:
    """See that a queue's name is one; empty is none.

    Raises:
        ConfigError: it is not.
    """
    if queue and not _QUEUE.fullmatch(queue):
        raise ConfigError(
            f"{place} queue", "a queue's name has letters, digits, dots, dashes and underscores"
        )


def secret_variable(place: str, variable: str, environ: Mapping[str, str]) -> str:
    """Return a secret that an environment variable holds.

    Raises:
        ConfigError: it is not set.
    """
    value = environ.get(variable, "")
    if not value:
        raise ConfigError(
            place,
            f"the environment variable {variable} is not set",
            next_command=f"set {variable} in the environment of this process",
        )
    return value


def secret_file(place: str, path: Path) -> bytes:
    """Return a secret that a file holds.

    Raises:
        ConfigError: it cannot be read, is empty or is too large to be one.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            place,
            f"{path} cannot be read: {error.strerror}",
            next_command=f"put the key into {path}, readable by this process",
        ) from error
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(place, f"{path} is empty or too large to be a key")
    return secret
