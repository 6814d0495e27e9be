"""The table `[metrics]`: where processes serve their metrics for Prometheus."""

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535)]


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where processes serve `/metrics`: no secret is in it, and it asks for no sign-in.

    A process whose port is taken, as by a second worker of the machine, takes the next that is
    free of the hundred from there, and logs it.

    Attributes:
        address: where they listen.
        port: the scheduler's TCP port; 0: nothing is served.
        worker_port: a worker's; None: the one after `port`. 0: workers serve nothing.
    """

    address: str = "127.0.0.1"
    port: Port = 9310
    worker_port: Port | None = None

    @property
    def of_workers(self) -> int:
        """The first port that a worker tries; 0: it serves nothing."""
        if self.worker_port is not None:
            return self.worker_port
        return self.port + 1 if self.port else 0
