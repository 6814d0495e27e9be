"""Providers that send their requests over a connection of their own."""

from typing import Protocol

from keywrap.metering import Meter
from keywrap.pacing import Pacer
from keywrap.providers.telling import Telling


class Connection(Protocol):
    """Sends a provider's requests."""

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent."""

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request."""


class Sending(Telling):
    """A provider whose requests can be paced, timed and counted: all go over its connection.

    Attributes:
        requests: how many it has sent.
    """

    _connection: Connection
    requests: int = 0

    def _count_request(self) -> None:
        self.requests += 1

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent; see `keywrap.pacing.Paced`."""
        self._connection.pace_by(pacer)

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request; see `keywrap.metering.Metered`."""
        self._connection.meter_by(meter)
