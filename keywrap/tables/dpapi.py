"""`[keys.dpapi.NAME]`: the DPAPI master keys of one Windows account or machine.

A KEK is one master key, `dpapi:<guid>`. A table stands for all master keys of its account: those
that it lists, or, in the one table that lists none, whatever no other table claims.
"""

import binascii
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import msgspec

from keywrap.dpapi.blob import BadBlobError, Blob, NotOpenedError
from keywrap.dpapi.native import NativeDpapi, windows
from keywrap.dpapi.ring import MasterKeyRing, RingError, is_guid
from keywrap.providers.dpapi import PREFIX, DpapiFamily, Inner, Opener
from keywrap.tables.common import (
    ConfigError,
    check_queue,
    read_table,
    secret_file,
    secret_variable,
)

Mode = Literal["auto", "native", "ring"]
EntropyEncoding = Literal["text", "hex"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_CHOICES = {
    "mode": get_args(Mode),
    "inner": get_args(Inner),
    "entropy_encoding": get_args(EntropyEncoding),
}


class DpapiKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The DPAPI master keys of one account or machine: `[keys.dpapi.NAME]`.

    Attributes:
        mode: `native`: Windows opens blobs, for the account of this process. `ring`: a file of
            exported master keys does. `auto`: native on Windows, elsewhere the ring.
        ring: the file of the ring, an absolute path; one that `rewrap dpapi-ring` makes.
        entropy_env: the environment variable that holds the additional entropy.
        entropy_file: the file that holds it, instead.
        entropy_encoding: how it is written there; never guessed. `text`: the very bytes of the
            text, of a file without one line end. `hex`: hexadecimal digits.
        inner: how the data key is written inside the blobs.
        master_keys: GUIDs of these master keys, in lower case. One table may leave it out.
        queue: the queue of the hosts that can open them; empty: every worker can.
    """

    mode: Mode = "auto"
    ring: str = ""
    entropy_env: str = ""
    entropy_file: str = ""
    entropy_encoding: EntropyEncoding | None = None
    inner: Inner = "raw"
    master_keys: tuple[str, ...] | None = None
    queue: str = ""


Tables = Mapping[str, DpapiKeyConfig]


def read(name: str, value: object) -> DpapiKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    place = _place(name)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "[keys.dpapi]", "a table's name has letters, digits, dots, dashes and underscores"
        )
    table = read_table(place, value, DpapiKeyConfig, _CHOICES)
    _check_ring(name, table)
    _check_entropy(place, table)
    if table.master_keys is not None:
        if not table.master_keys:
            raise ConfigError(
                f"{place} master_keys", "expected one or more; left out, it means all others"
            )
        for number, guid in enumerate(table.master_keys, 1):
            if not is_guid(guid):
                raise ConfigError(
                    f"{place} master_keys", f"number {number} is no GUID in lower case with dashes"
                )
    check_queue(place, table.queue)
    return table


def _check_ring(name: str, table: DpapiKeyConfig) -> None:
    place = f"{_place(name)} ring"
    if table.mode == "native" and table.ring:
        raise ConfigError(place, 'belongs to no mode = "native": Windows itself opens blobs')
    if table.mode == "ring" and not table.ring:
        raise ConfigError(
            place,
            'expected with mode = "ring"',
            next_command=f'ring = "/etc/rewrap/{name}.ring.json"',
        )
    if table.ring and (not Path(table.ring).is_absolute() or "\0" in table.ring):
        raise ConfigError(
            place,
            "a relative path would mean another file in every process",
            next_command=f'ring = "/etc/rewrap/{name}.ring.json"',
        )


def _check_entropy(place: str, table: DpapiKeyConfig) -> None:
    if table.entropy_env and table.entropy_file:
        raise ConfigError(place, "expected `entropy_env` or `entropy_file`, not both")
    if bool(table.entropy_env or table.entropy_file) != (table.entropy_encoding is not None):
        raise ConfigError(
            f"{place} entropy_encoding",
            "expected with `entropy_env` or `entropy_file`, and only there: it is never guessed",
            next_command='entropy_encoding = "text" or entropy_encoding = "hex"',
        )


def check_together(tables: Tables) -> None:
    """See that no master key is claimed by two tables.

    Raises:
        ConfigError: one is, or two tables claim all others.
    """
    claimed: dict[str, str] = {}
    rest: str | None = None
    for name, table in tables.items():
        if table.master_keys is None:
            if rest is not None:
                raise ConfigError(
                    f"{_place(name)} master_keys",
                    f"only one table may leave it out, and {_place(rest)} does",
                )
            rest = name
        for guid in table.master_keys or ():
            other = claimed.setdefault(guid, name)
            if other != name or (table.master_keys or ()).count(guid) > 1:
                raise ConfigError(
                    f"{_place(name)} master_keys", f"{guid} is listed in {_place(other)} already"
                )


def uris(tables: Tables) -> Iterator[str]:
    """Yield the URI of each master key that is listed by its GUID."""
    for table in tables.values():
        for guid in table.master_keys or ():
            yield PREFIX + guid


def claimant(key: str, tables: Tables) -> str | None:
    """Return the name of the one table that claims a key; None where none does.

    Args:
        key: URI of any KEK, without version.
        tables: every table of this kind.
    """
    guid = key.removeprefix(PREFIX)
    if not key.startswith(PREFIX) or not is_guid(guid):
        return None
    rest: str | None = None
    for name, table in tables.items():
        if table.master_keys is None:
            rest = name
        elif guid in table.master_keys:
            return name
    return rest


def claims(name: str, tables: Tables) -> Callable[[str], bool]:
    """Return what tells whether a table claims a key, by its URI."""
    return partial(_claims, name, tables)


def _claims(name: str, tables: Tables, key: str) -> bool:
    return claimant(key, tables) == name


def open_family(name: str, tables: Tables, environ: Mapping[str, str]) -> DpapiFamily:
    """Make the family of a table's master keys: a ring is read and checked.

    Args:
        name: the table's name.
        tables: every table of this kind.
        environ: the environment variables.

    Raises:
        ConfigError: neither a ring nor Windows is there, or the entropy is missing or malformed.
    """
    table, place = tables[name], _place(name)
    opener = _opener(name, table)
    return DpapiFamily(claims(name, tables), opener, _entropy(place, table, environ), table.inner)


def _opener(name: str, table: DpapiKeyConfig) -> Opener:
    is_native = table.mode == "native" or (table.mode == "auto" and sys.platform == "win32")
    if is_native:
        try:
            return NativeDpapi(windows())
        except OSError as error:
            raise ConfigError(
                f"{_place(name)} mode",
                str(error),
                next_command=f'mode = "ring", or queue = "{name}" and a worker of it on Windows',
            ) from error
    if not table.ring:
        raise ConfigError(
            f"{_place(name)} ring",
            "this is not Windows, so master keys come from a ring, and none is named",
            next_command=f'ring = "/etc/rewrap/{name}.ring.json"',
        )
    try:
        return MasterKeyRing.read(Path(table.ring))
    except RingError as error:
        raise ConfigError(
            f"{_place(name)} ring",
            str(error),
            next_command=f"rewrap dpapi-ring --out {table.ring} MASTERKEYFILE…",
        ) from error


def _entropy(place: str, table: DpapiKeyConfig, environ: Mapping[str, str]) -> bytes:
    if table.entropy_file:
        text = secret_file(f"{place} entropy_file", Path(table.entropy_file))
        text = text.removesuffix(b"\n").removesuffix(b"\r")  # as editors end a file
    elif table.entropy_env:
        variable = secret_variable(f"{place} entropy_env", table.entropy_env, environ)
        text = variable.encode("utf-8", "surrogateescape")
    else:
        return b""
    if table.entropy_encoding == "text":
        return text
    try:
        return binascii.unhexlify(text)
    except ValueError:
        # From None: the error may show a part of it.
        raise ConfigError(
            f"{place} entropy_encoding", "the entropy is not hexadecimal digits"
        ) from None


def unprotect(
    data: bytes,
    tables: Tables,
    environ: Mapping[str, str],
    place: str,
    *,
    served: Callable[[str], bool],
) -> bytes:
    """Open the blob that holds a key of another kind, by the table that claims its master key.

    Args:
        data: the blob.
        tables: every table of this kind.
        environ: the environment variables.
        place: where the blob is configured, for errors.
        served: whether keys of a queue can be used here.

    Raises:
        ConfigError: it is no blob, no table claims its master key, that key is elsewhere, or it
            does not open.
    """
    try:
        blob = Blob.parse(data)
    except BadBlobError as error:
        raise ConfigError(place, str(error)) from None
    name = claimant(PREFIX + blob.master_key, tables)
    if name is None:
        raise ConfigError(
            place,
            f"it is under the master key {blob.master_key}, which no table [keys.dpapi.…] claims",
            next_command=f'[keys.dpapi.NAME] with master_keys = ["{blob.master_key}"]',
        )
    if not served(tables[name].queue):
        raise ConfigError(
            place,
            f"it is under the master key {blob.master_key} of {_place(name)}, which only hosts of "
            f"the queue {tables[name].queue!r} can open",
            next_command=f'queue = "{tables[name].queue}"',
        )
    try:
        return open_family(name, tables, environ).unprotect(blob)
    except NotOpenedError as error:
        raise ConfigError(place, f"it does not open: {error}") from None


def _place(name: str) -> str:
    return f"[keys.dpapi.{name}]"
