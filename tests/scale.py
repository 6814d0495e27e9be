"""How much the long scenes take on: `make test` walks every step, `make soak` with many blobs."""

import os

IS_LONG = os.environ.get("REWRAP_STORM") == "soak"


def many(in_suite: int, in_soak: int) -> int:
    """Choose how many blobs a scene makes."""
    return in_soak if IS_LONG else in_suite
