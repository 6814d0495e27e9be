"""Providers that send their requests over a connection of their own."""

from typing import Protocol

from keywrap.metering import Meter
from keywrap.pacing import Pacer


class Connection(Protocol):
    """Sends a provider's requests."""

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent."""

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request."""


class Sending:
    """A provider whose requests can be paced and timed, since all go over its connection."""

    _connection: Connection

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent; see `keywrap.pacing.Paced`."""
        self._connection.pace_by(pacer)

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request; see `keywrap.metering.Metered`."""
        self._connection.meter_by(meter)
