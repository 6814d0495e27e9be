"""The table `[control]`: whose control file applications obey, and how soon."""

import re
from pathlib import Path
from typing import Annotated

import msgspec

from keywrap.signing import PublicKey
from keywrap.tables.common import ConfigError, read_table

_STORE_ID = re.compile(r"[0-9a-f]{32}")


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose control file is obeyed. `rewrap control-key` prints this table.

    Attributes:
        public_key: whose signature counts: the 32 bytes of an Ed25519 key in base64.
        store_id: the store's own name, 32 hexadecimal digits; a control file signed for another
            store is refused.
        max_age_s: the longest that a control file is obeyed after it was read. Whoever publishes
            one waits this long before anything relies on it; the same in every process.
        min_serial: the lowest serial that is accepted, also by a process that has just started
            and has seen none yet; 0: there may be no control file yet.
        private_key_file: the file that signs, an absolute path; only where `rewrap` publishes.
    """

    public_key: str
    store_id: str
    max_age_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60
    min_serial: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] = 0
    private_key_file: str = ""


def read_control(value: object) -> ControlConfig:
    """Read and check the table; reads no file.

    Raises:
        ConfigError: something is missing, unknown or of another form.
    """
    table = read_table("[control]", value, ControlConfig)
    try:
        PublicKey.parse(table.public_key)
    except ValueError as error:
        raise ConfigError(
            "[control] public_key", str(error), next_command="rewrap control-key --out FILE"
        ) from None
    if not _STORE_ID.fullmatch(table.store_id):
        raise ConfigError(
            "[control] store_id",
            "expected 32 hexadecimal digits",
            next_command="rewrap control-key --out FILE",
        )
    file = table.private_key_file
    if file and (not Path(file).is_absolute() or "\0" in file):
        raise ConfigError(
            "[control] private_key_file",
            "a relative path would mean another file in every process",
            next_command='private_key_file = "/etc/rewrap/control.key"',
        )
    return table
