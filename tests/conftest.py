from pathlib import Path

import pytest

pytest_plugins = [
    "tests.servers",
    "tests.ledgers",
    "tests.nodes",
    "tests.clouds",
    "tests.buckets",
    "tests.cutting",
    "tests.hsms",
]

UNIT = Path(__file__).parent / "unit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests reach no server, not even by a Unix socket."""
    for item in items:
        if item.path.is_relative_to(UNIT):
            item.add_marker(pytest.mark.disable_socket)
