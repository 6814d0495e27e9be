"""`[keys.env.NAME]`: a KEK kept in the environment."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from keywrap.providers.env import Encoding, EnvKeyError, EnvKeyProvider, Scheme, check_aad
from keywrap.providers.env_schemes import FERNET_KEY_BYTES, UNAUTHENTICATED
from keywrap.providers.passphrase import Kdf, KdfError, Pbkdf2Sha256, ScryptKdf
from keywrap.tables.common import (
    ConfigError,
    check_queue,
    read_table,
    secret_file,
    secret_variable,
)

PREFIX = "env:"

_IN_VARIABLE, _IN_FILE = "dpapi", "dpapi-file"

KdfName = Literal["pbkdf2-sha256", "scrypt"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_KEY_BITS = re.compile(r"-?(128|192|256)")
_CHOICES = {
    "encoding": get_args(Encoding),
    "scheme": get_args(Scheme),
    "kdf": get_args(KdfName),
}
_PARAMETERS: Mapping[KdfName, tuple[str, ...]] = {
    "pbkdf2-sha256": ("salt_hex", "iterations", "key_bytes"),
    "scrypt": ("salt_hex", "n", "r", "p", "key_bytes"),
}


class EnvKeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A KEK kept in the environment: `[keys.env.NAME]`.

    Attributes:
        encoding: how the key is written; never guessed. `sha256-of-text`: the key is the SHA-256
            of the text. `passphrase`: it is derived, and `kdf` says how.
        scheme: how it wraps data keys; `direct` where it is the data key.
        variable: the environment variable that holds it; the table's name if neither is set.
        file: the file that holds it, instead. One line end at its end is no part of the key,
            except under `raw`.
        protected: written `from`: DPAPI protects the key, and one of the tables `[keys.dpapi.…]`
            opens it. `dpapi:VARIABLE`, which holds the blob in base64, or `dpapi-file:/path`, a
            file that is the blob. `encoding` is that of what the blob holds.
        queue: with `from`, the queue of the hosts that can open it; empty: every worker can.
        aad: the additional data that the wraps were made with: text, in which `{blob_id}` stands
            for the blob's id; for the AES-GCM schemes only.
        kdf: how the key is derived from a passphrase. Each parameter below belongs to one or
            both, and there all are needed: nothing is assumed.
        salt_hex: the salt, as hexadecimal digits.
        iterations: of PBKDF2.
        n: cost of scrypt, a power of two.
        r: block size of scrypt.
        p: how often scrypt runs, one after the other.
        key_bytes: length of the key.
    """

    encoding: Encoding
    scheme: Scheme
    variable: str = ""
    file: str = ""
    protected: str = msgspec.field(default="", name="from")
    queue: str = ""
    aad: str = ""
    kdf: KdfName | None = None
    salt_hex: str | None = None
    iterations: int | None = None
    n: int | None = None
    r: int | None = None
    p: int | None = None
    key_bytes: int | None = None


def read(name: str, value: object) -> EnvKeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    place = _place(name)
    if not _NAME.fullmatch(name):
        raise ConfigError("[keys.env]", "a key's name has letters, digits and underscores")
    if isinstance(value, Mapping):
        _refuse_unauthenticated(place, str(value.get("scheme")))
    table = read_table(place, value, EnvKeyConfig, _CHOICES)
    if table.variable and table.file:
        raise ConfigError(place, "expected `variable` or `file`, not both")
    _check_protected(place, table)
    try:
        check_aad(table.aad, table.scheme)
    except EnvKeyError as error:
        raise ConfigError(f"{place} aad", str(error)) from error
    _read_kdf(place, table)
    return table


def _check_protected(place: str, table: EnvKeyConfig) -> None:
    check_queue(place, table.queue)
    if not table.protected:
        if table.queue:
            raise ConfigError(f"{place} queue", "belongs to a key with `from`: others are anywhere")
        return
    kind, _, where = table.protected.partition(":")
    if kind not in {_IN_VARIABLE, _IN_FILE} or not where:
        raise ConfigError(
            f"{place} from",
            "expected dpapi:VARIABLE or dpapi-file:/path",
            next_command='from = "dpapi:BLOB_KEY_DPAPI"',
        )
    if table.variable or table.file:
        raise ConfigError(f"{place} from", "expected without `variable` and `file`")


def _refuse_unauthenticated(place: str, scheme: str) -> None:
    if _KEY_BITS.sub("", scheme.lower()) in UNAUTHENTICATED:
        raise ConfigError(
            f"{place} scheme",
            f"{scheme} has no authentication: a wrong key passes its padding once in some 250 "
            "tries, and what comes out is a wrong data key that nobody notices",
            next_command="let the application that made these wraps open them and wrap each data "
            'key anew, such as with scheme = "aes-gcm"',
        )


def _read_kdf(place: str, table: EnvKeyConfig) -> Kdf | None:
    """Read how the key is derived from a passphrase; None where it is none."""
    if (table.encoding == "passphrase") != (table.kdf is not None):
        raise ConfigError(
            f"{place} kdf",
            'expected with encoding = "passphrase", and only there',
            next_command='kdf = "pbkdf2-sha256" or kdf = "scrypt", as the application derives it',
        )
    needed = _PARAMETERS[table.kdf] if table.kdf else ()
    for parameter in sorted({name for names in _PARAMETERS.values() for name in names}):
        is_set = getattr(table, parameter) is not None
        if is_set and parameter not in needed:
            raise ConfigError(f"{place} {parameter}", "belongs to no `kdf` of this table")
        if not is_set and parameter in needed:
            raise ConfigError(
                f"{place} {parameter}", f'expected with kdf = "{table.kdf}": nothing is assumed'
            )
    try:
        return _kdf(table)
    except KdfError as error:
        raise ConfigError(f"{place} {error.parameter}", str(error)) from error


def _kdf(table: EnvKeyConfig) -> Kdf | None:
    parameters = {
        name: getattr(table, name) for name in (_PARAMETERS[table.kdf] if table.kdf else ())
    }
    if not parameters:
        return None
    if table.scheme == "fernet" and table.key_bytes != FERNET_KEY_BYTES:
        raise KdfError(f"a Fernet key has {FERNET_KEY_BYTES} bytes", "key_bytes")
    try:
        salt = binascii.unhexlify(parameters.pop("salt_hex"))
    except ValueError:
        raise KdfError("expected hexadecimal digits, two for each byte", "salt_hex") from None
    kind = Pbkdf2Sha256 if table.kdf == "pbkdf2-sha256" else ScryptKdf
    return kind(salt=salt, **parameters)


def open_provider(
    name: str,
    tables: Mapping[str, EnvKeyConfig],
    environ: Mapping[str, str],
    unprotect: Callable[[bytes], bytes] | None = None,
) -> EnvKeyProvider:
    """Make the provider of a KEK kept in the environment.

    Args:
        name: the key's name in `tables`.
        tables: every table of this kind.
        environ: the environment variables.
        unprotect: opens the blob that protects the key; needed where the table has `from`.

    Raises:
        ConfigError: its variable or file is missing, or does not hold such a key.
    """
    table, place = tables[name], _place(name)
    if table.protected:
        if unprotect is None:
            raise ConfigError(f"{place} from", "nothing is there that opens a DPAPI blob")
        text = unprotect(_protected(place, table.protected, environ))
    elif table.file:
        text = secret_file(f"{place} file", Path(table.file))
        if table.encoding != "raw":
            text = text.removesuffix(b"\n").removesuffix(b"\r")  # as editors end a file
    else:
        variable = table.variable or name
        text = secret_variable(f"{place} variable", variable, environ).encode(
            "utf-8", "surrogateescape"
        )
    kdf = _read_kdf(place, table)
    try:
        return EnvKeyProvider.from_text(
            name, text, table.encoding, table.scheme, kdf=kdf, aad=table.aad
        )
    except EnvKeyError as error:
        raise ConfigError(
            place,
            f"the key cannot be read: {error}",
            next_command=f"check `encoding` in {place} and the key that is set",
        ) from error


def _protected(place: str, source: str, environ: Mapping[str, str]) -> bytes:
    """Return the blob that protects a key."""
    kind, _, where = source.partition(":")
    if kind == _IN_FILE:
        return secret_file(f"{place} from", Path(where))
    text = secret_variable(f"{place} from", where, environ)
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError:
        blob = b""
    if base64.b64encode(blob).decode() != text:
        raise ConfigError(f"{place} from", f"the variable {where} does not hold canonical base64")
    return blob


def _place(name: str) -> str:
    return f"[keys.env.{name}]"
