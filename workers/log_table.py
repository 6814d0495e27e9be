"""The table `[log]`: how processes log."""

from typing import Literal

import msgspec


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How processes log; `REWRAP_LOG_FORMAT` and `REWRAP_LOG_LEVEL` override it.

    Attributes:
        format: `text` for people, `json` for machines; `auto`: text on a terminal, else JSON.
        level: the least level that is logged. There is no `debug`: clients of key services write
            what they send and get there.
    """

    format: Literal["auto", "text", "json"] = "auto"
    level: Literal["info", "warning", "error"] = "info"
