"""The table `[audit]`: where the trail is written, and who signs where its chain ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from keywrap.config import ConfigError
from keywrap.signing import PublicKey
from keywrap.tables.common import read_table

_FOLDER = "audit"
_NEW_KEY = "rewrap audit key --out FILE"


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the trail is written, and who signs where its chain ends.

    Attributes:
        directory: where workers write segments; relative to the TOML's folder. Each machine has
            its own. Empty: `audit` in the state directory.
        public_key: whose signature of the head counts; empty: heads are not signed, so a ledger
            that was changed and chained anew is not told from one that was not.
        private_key_file: the file that signs; only where `rewrap scheduler` or `up` runs.
        head_every_s: how often a new head is signed at most, in seconds.
    """

    directory: str = ""
    public_key: str = ""
    private_key_file: str = ""
    head_every_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0


def read_audit(value: object, environ: Mapping[str, str], folder: Path, state_dir: str) -> Audit:
    """Read and check the table; reads no file.

    Args:
        value: the table.
        environ: the environment. `REWRAP_AUDIT_DIRECTORY` and `REWRAP_AUDIT_PRIVATE_KEY_FILE`
            override the table; whose signature counts, no variable says.
        folder: the folder of the TOML.
        state_dir: the state directory.

    Raises:
        ConfigError: something is unknown, of another form, or contradicts the rest.
    """
    table = read_table("[audit]", value, Audit)
    directory = environ.get("REWRAP_AUDIT_DIRECTORY") or table.directory
    key_file = environ.get("REWRAP_AUDIT_PRIVATE_KEY_FILE") or table.private_key_file
    if "\0" in directory:
        raise ConfigError("[audit] directory", "no path has a zero byte in it")
    _check_keys(table.public_key, key_file)
    return msgspec.structs.replace(
        table,
        directory=str(folder / directory if directory else Path(state_dir) / _FOLDER),
        private_key_file=str(folder / key_file) if key_file else "",
    )


def _check_keys(public_key: str, key_file: str) -> None:
    if public_key:
        try:
            PublicKey.parse(public_key)
        except ValueError as error:
            raise ConfigError("[audit] public_key", str(error), next_command=_NEW_KEY) from None
    elif key_file:
        # Whoever could change the file would say whose signature counts.
        raise ConfigError(
            "[audit] private_key_file",
            "it signs nothing that counts without [audit] public_key",
            next_command=_NEW_KEY,
        )
