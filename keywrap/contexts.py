"""The bytes that stand for a context where a wrap is bound to it."""

import json

from keywrap.kms import Context

# Made once: `json.dumps` with these options would make one for each context.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_context(context: Context) -> bytes:
    """Encode a context as it is bound: JSON, names sorted, compact, UTF-8.

    Every wrap depends on these bytes: they never change.
    """
    return _ENCODER.encode(dict(context)).encode()
