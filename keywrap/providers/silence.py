"""Keeps the clients of key services from logging what they send and get: plaintext data keys.

At DEBUG some write requests and answers whole. A level on a parent logger does not hold (an
application, or the client's own set-up, sets it anew), so each logger gets a filter of its own.
"""

import logging
from collections.abc import Collection


class _NoDetail(logging.Filter):
    """Drops what is below INFO."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.INFO


_NO_DETAIL = _NoDetail()


def silence(packages: Collection[str]) -> None:
    """Keep every logger that there is of some packages from writing below INFO.

    Args:
        packages: names of top-level packages, such as `botocore`. Call it once their modules are
            imported, since a logger that does not exist yet gets no filter.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in packages:
            logging.getLogger(name).addFilter(_NO_DETAIL)
