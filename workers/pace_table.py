"""The table `[pace]`: how much of a key service's quota campaigns may use."""

from typing import Annotated

import msgspec
from msgspec import Meta

from keywrap.config import ConfigError, KeywrapConfig
from keywrap.tables.common import read_table


class KeyPace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one KEK's service allows, and what of it is kept for applications.

    Attributes:
        requests_per_s: the service's quota for this KEK, in requests a second.
        reserve: the share of it that is kept for live traffic, from 0 to 0.99.
    """

    requests_per_s: Annotated[float, Meta(gt=0, le=10_000_000)]
    reserve: Annotated[float, Meta(ge=0, le=0.99)] = 0.3

    @property
    def ceiling(self) -> float:
        """The most requests a second that all workers together send."""
        return self.requests_per_s * (1 - self.reserve)


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast key services are asked. No environment variable changes these.

    Attributes:
        keys: by URI of the KEK, without version. One that is not named has no ceiling.
    """

    keys: dict[str, KeyPace] = {}

    def ceiling(self, key: str) -> float | None:
        """Return the most requests a second to a KEK's service; None: as many as it answers."""
        found = self.keys.get(key)
        return found.ceiling if found else None


def read_pace(value: object, config: KeywrapConfig) -> Pace:
    """Read and check the table.

    Raises:
        ConfigError: something is unknown, of another form, or a KEK is not listed.
    """
    table = read_table("[pace]", value, Pace)
    for key in table.keys:
        if not config.keys.lists(key):
            raise ConfigError(f'[pace.keys."{key}"]', "[keys] lists no such key")
    return table
