"""What requests cost, from one dated file."""

import functools
import tomllib
from pathlib import Path

import msgspec

_FILE = Path(__file__).with_name("prices.toml")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of requests of one kind.

    Attributes:
        usd: US dollars for `per` requests.
        per: how many requests that is for.
        source: the page that says so.
    """

    usd: float
    per: int
    source: str

    def of(self, requests: int) -> float:
        """Return what some requests cost, in US dollars."""
        return requests * self.usd / self.per


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The prices of one day.

    Attributes:
        as_of: the day, as `YYYY-MM-DD`.
        currency: the currency, by its ISO 4217 code.
        region: the AWS Region that they are for.
        kms: requests to key services, by provider.
        s3_write: writing and listing requests to S3.
        s3_read: reading requests to S3.
    """

    as_of: str
    currency: str
    region: str
    kms: dict[str, Price]
    s3_write: Price
    s3_read: Price


@functools.cache
def prices() -> Prices:
    """Return the prices of `prices.toml`."""
    return msgspec.convert(tomllib.loads(_FILE.read_text(encoding="utf-8")), Prices)
