"""A file that is written whole and on the disk, or not at all, and that replaces none."""

import os
from pathlib import Path

from keywrap.durable import sync_folder


def create(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that is not there yet.

    Args:
        path: the file.
        data: all of its content.
        mode: its permissions, less the umask.

    Raises:
        FileExistsError: something has that name; it is unchanged.
        OSError: it cannot be written; then there is none.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(file, "wb") as output:
            output.write(data)
            output.flush()
            os.fsync(output.fileno())
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)  # half of it must not pass for all
        raise
