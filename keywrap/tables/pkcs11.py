"""`[keys.pkcs11."token=LABEL;object=FAMILY"]`: a KEK in a PKCS#11 token."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from keywrap.kms import KeyProvider
from keywrap.providers.pkcs11_uri import SCHEME, read_path
from keywrap.tables.common import ConfigError, read_table, secret_file, secret_variable

PREFIX = SCHEME

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_CHECK_VALUE = re.compile(r"[0-9a-f]{6}")


class Pkcs11KeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A KEK in a PKCS#11 token: `[keys.pkcs11."token=LABEL;object=FAMILY"]`.

    Attributes:
        module: the PKCS#11 library of the token's maker, an absolute path.
        pin_env: the environment variable that holds the PIN of the normal user.
        pin_file: the file that holds it, instead; a line end behind it does not count.
        mechanism: `aes-gcm`, or `aes-kw`, which moves wraps inside the token.
        check_values: what `CKA_CHECK_VALUE` of a version must be, by version; six hexadecimal
            digits.
    """

    module: str
    pin_env: str = ""
    pin_file: str = ""
    mechanism: Literal["aes-gcm", "aes-kw"] = "aes-gcm"
    check_values: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def login(self) -> tuple[str, str, str]:
        """What two keys of one token share: a process logs in once."""
        return self.module, self.pin_env, self.pin_file


def read(path: str, value: object) -> Pkcs11KeyConfig:
    """Read and check one table.

    Raises:
        ConfigError: something is missing, unknown, of another type or contradicts the rest.
    """
    try:
        read_path(path)
    except ValueError as error:
        raise ConfigError(
            "[keys.pkcs11]",
            str(error),
            next_command='[keys.pkcs11."token=hsm-1;object=blob-kek"]',
        ) from None
    place = _place(path)
    table = read_table(place, value, Pkcs11KeyConfig)
    if not Path(table.module).is_absolute() or "\0" in table.module:
        raise ConfigError(
            f"{place} module",
            "expected the absolute path of the token's PKCS#11 library",
            next_command='module = "/usr/lib/softhsm/libsofthsm2.so"',
        )
    if bool(table.pin_env) == bool(table.pin_file):
        raise ConfigError(
            place, "expected `pin_env` or `pin_file`", next_command='pin_env = "HSM_PIN"'
        )
    for version, check_value in table.check_values.items():
        if not _VERSION.fullmatch(version) or not _CHECK_VALUE.fullmatch(check_value):
            raise ConfigError(
                f"{place} check_values",
                "expected six lower-case hexadecimal digits for each version",
                next_command='check_values = { 1 = "8df8c8" }',
            )
    return table


def open_provider(
    path: str, tables: Mapping[str, Pkcs11KeyConfig], environ: Mapping[str, str]
) -> KeyProvider:
    """Make the provider of a KEK in a token; loads no module and logs in nowhere.

    Args:
        path: the key's name in `tables`.
        tables: every table of this kind.
        environ: the environment variables.

    Raises:
        ConfigError: the extra is not installed, the module or the PIN is missing, or two keys of
            one token are to be reached in two ways.
    """
    table, place = tables[path], _place(path)
    try:
        # Only who lists such a key needs the extra; its locks are of Unix.
        from keywrap.providers import pkcs11, pkcs11_token  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            place, str(error), next_command="pip install 'keywrap[pkcs11]'"
        ) from error
    if not Path(table.module).is_file():
        raise ConfigError(
            f"{place} module",
            f"there is no file {table.module}",
            next_command="install the token's PKCS#11 library, or name where it is",
        )
    token, family = read_path(path)
    for other, its in tables.items():
        if read_path(other)[0] == token and its.login != table.login:
            raise ConfigError(
                place,
                f"{other} is in the same token: both need the same `module` and the same "
                "`pin_env` or `pin_file`",
            )
    pin = _pin_reader(place, table, environ)
    address = pkcs11_token.TokenAddress(Path(table.module), token, pin)
    kind = pkcs11.Pkcs11KeyWrapProvider if table.mechanism == "aes-kw" else pkcs11.Pkcs11Provider
    return kind(address, family, check_values=table.check_values)


def _pin_reader(
    place: str, table: Pkcs11KeyConfig, environ: Mapping[str, str]
) -> Callable[[], str]:
    """Return a reader of the PIN, once it has read it."""
    if table.pin_env:
        pin = secret_variable(f"{place} pin_env", table.pin_env, environ)
        return lambda: pin
    from keywrap.providers.pkcs11_token import PinError  # noqa: PLC0415 - as above

    def read() -> str:
        try:
            return secret_file(f"{place} pin_file", Path(table.pin_file)).decode().rstrip("\r\n")
        except ConfigError as error:
            raise PinError(str(error)) from None
        except UnicodeDecodeError:
            raise PinError(f"{table.pin_file} is not UTF-8") from None

    try:
        read()
    except PinError as error:
        raise ConfigError(f"{place} pin_file", str(error)) from None
    return read


def _place(path: str) -> str:
    return f'[keys.pkcs11."{path}"]'
