"""Names of a store's objects, read from a file instead of by a listing of the store.

A plain list of blob ids, or a report of Amazon S3 Inventory. What a file leaves out is not seen:
only a listing of the store itself can show that nothing is missing.
"""

from scheduler.sources.opening import open_source
from scheduler.sources.source import Source, SourceError, SourceKind

__all__ = ["Source", "SourceError", "SourceKind", "open_source"]
