import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.servers",
    "tests.ledgers",
    "tests.nodes",
    "tests.clouds",
    "tests.cloudnodes",
    "tests.buckets",
    "tests.cutting",
    "tests.hsms",
]

# In the background of a script Ctrl-C is ignored, which every process that tests start would keep.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long anything takes says more of the machine than of what is tested.
settings.register_profile("rewrap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rewrap")

MEMORY = Path("/dev/shm")  # noqa: S108 - of which each test's folder is a private one
_ROOM = 4 << 30


def _has_room() -> bool:
    """Whether there is memory enough for the files of tests, and a place where they may run."""
    return (
        os.access(MEMORY, os.W_OK)
        and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
        and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > _ROOM
    )


# A journalled disk takes most of the time in which servers and blobs come and go.
if "TMPDIR" not in os.environ and _has_room():
    os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None  # whoever has asked before had another answer

UNIT = Path(__file__).parent / "unit"

_LONG_BYTES = 16
_RANDOM = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test by what is drawn at run time: the processes that share them must agree."""
    if isinstance(val, bytes) and len(val) > _LONG_BYTES:
        return argname
    if isinstance(val, str) and _RANDOM.search(val):
        return _RANDOM.sub("uuid", val)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests reach no server, not even by a Unix socket."""
    for item in items:
        if item.path.is_relative_to(UNIT):
            item.add_marker(pytest.mark.disable_socket)
