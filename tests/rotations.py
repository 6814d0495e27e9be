"""Operators who rotate a KEK in memory, on a real ledger."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from keywrap.testing.kms import SimpleMemoryKeyProvider
from ledger.connection import Ledger
from ledger.states import Kind
from scheduler.commands.rotation import rotate
from scheduler.desk import Desk as OperatorsDesk
from scheduler.desk import DeskError
from scheduler.proofs import default_proof
from tests.desks import Desk

STORE = """\
[backup]
required = false

[store]
url = "{store}"
"""


def desk_at(folder: Path, ledger: Ledger, config: str) -> OperatorsDesk:
    """Return a desk with a ledger and a configuration, which is written into a folder."""
    path = folder / "rewrap.toml"
    path.write_text(config)
    desk = OperatorsDesk(str(path))
    desk.__dict__["ledger"] = ledger
    return desk


@dataclass
class Rotating:
    """What a test types, again and again."""

    desk: OperatorsDesk
    ledger: Desk
    provider: SimpleMemoryKeyProvider

    def rotate(self) -> int:
        current = self.provider.current_version()
        return rotate(self.desk, self.provider, current, default_proof(Kind.ROTATE, self.provider))

    def refused(self) -> DeskError:
        with pytest.raises(DeskError) as refused:
            self.rotate()
        return refused.value
