"""A PostgreSQL cluster that was made once, for servers of which the making is not the point."""

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from embedded import Postgres
from embedded.account import for_postgres
from embedded.places import make_private
from ledger import schema
from ledger.connection import Ledger
from scheduler.desk import DATABASE

_SETTINGS = {"fsync": "off", "full_page_writes": "off"}
"""No test's machine loses its power; a server that is killed loses nothing by these."""


def place(directory: Path) -> None:
    """Put a cluster where a server has its files; its database `rewrap` is an empty ledger.

    Args:
        directory: the directory of a server that never ran.
    """
    home = make_private(directory, for_postgres())
    subprocess.run(["cp", "-a", str(_template()), str(home / "data")], check=True)


@functools.cache
def _template() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="rw-"))
    directory.chmod(0o711)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = Postgres.start(directory / "postgres", supervised=True, settings=_SETTINGS)
    try:
        ledger = Ledger(server.url_of(DATABASE))
        schema.upgrade(ledger)
        ledger.close()
    finally:
        server.stop()
    data = directory / "postgres/data"
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = {value}\n" for name, value in _SETTINGS.items())
    return data
