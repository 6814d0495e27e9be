"""The table `[cache]`: how long an application may keep opened data keys in memory."""

from typing import Annotated

import msgspec

from keywrap.tables.common import read_table


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds of an application's cache of data keys: `[cache]`. Without it there is none.

    A reader whose right to a KEK was taken away goes on for up to `max_age_s`.

    Attributes:
        max_keys: how many data keys are held.
        max_age_s: how long one is held, in seconds.
        max_uses: how often one is handed out.
    """

    max_keys: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    max_age_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    max_uses: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


def read_cache(value: object) -> CacheConfig:
    """Read and check the table.

    Raises:
        ConfigError: a bound is missing, unknown or out of range.
    """
    return read_table("[cache]", value, CacheConfig)
