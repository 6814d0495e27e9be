"""A report of Amazon S3 Inventory that was copied to this machine."""

from pathlib import Path
from typing import BinaryIO

from scheduler.sources.files import open_file, read_errors
from scheduler.sources.manifest import MAX_MANIFEST_BYTES, DataFile, damaged
from scheduler.sources.source import SourceError


class FolderReport:
    """The files of a report, found from its manifest.

    Args:
        manifest: the path of `manifest.json`. Data files lie beside it, under their key or its
            last part; or in `../data`, as S3 places them.
    """

    def __init__(self, manifest: Path) -> None:
        self._manifest = manifest

    def manifest(self) -> bytes:
        """Return `manifest.json`.

        Raises:
            SourceError: it is not there, cannot be read, or is too large to be one.
        """
        return self._small(self._manifest)

    def checksum(self) -> bytes | None:
        """Return `manifest.checksum`; None where there is none."""
        path = self._manifest.with_suffix(".checksum")
        with read_errors(str(path)):
            there = path.exists()
        return self._small(path) if there else None

    def open(self, file: DataFile) -> BinaryIO:
        """Open a data file; see `scheduler.sources.report.ReportFiles`."""
        beside, segments = self._manifest.parent, file.key.split("/")
        if "\0" in file.key or not {"", ".", ".."}.isdisjoint(segments):
            raise damaged(f"the manifest names a data file by the key {file.key!r}")
        places = (
            beside / file.key,
            beside / segments[-1],
            beside.resolve().parent / "data" / segments[-1],
        )
        with read_errors(file.key):  # a key may be longer than any path
            found = next((place for place in places if place.is_file()), None)
        if found is not None:
            return open_file(found)
        raise SourceError(
            f"the data file {file.key} is not beside {self._manifest}",
            reason_code="source_missing",
            next_command=f"copy {segments[-1]} beside the manifest, or name the report by s3://",
        )

    def _small(self, path: Path) -> bytes:
        with open_file(path) as stream, read_errors(str(path)):
            data = stream.read(MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise damaged(f"{path} has more than {MAX_MANIFEST_BYTES:,} bytes")
        return data
