"""Verifying: opening blobs, content and all. Changes nothing."""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from keywrap.contents import ContentError
from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, Journal
from keywrap.keyring import KeyRing
from keywrap.kms import KmsError
from keywrap.layout import UnsafeBlobIdError
from keywrap.matching import find_content
from keywrap.opening import open_many
from keywrap.reading import GoneError, QuarantineError, Seen, SidecarReader
from keywrap.rewrapping import READS, Outcome, Report, Result
from keywrap.stores import NotAnObjectError, NotFoundError, StoreError, StoreUnavailableError


@dataclass(frozen=True, slots=True)
class Verifier:
    """Opens blobs as a reader would.

    Attributes:
        reader: reads sidecars, and names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        pool: threads for store requests.
        journal: where each use of a key is noted.
    """

    reader: SidecarReader
    keys: KeyRing
    legacy_content: str
    pool: Executor
    journal: Journal = NO_JOURNAL

    def verify(self, blob_ids: Iterable[str]) -> Report:
        """Open each blob, whole.

        A blob that does not open is read again before it is called unreadable, since a writer
        may have replaced it between its sidecar and its content.

        Returns:
            `current` for a blob that opens, otherwise why it does not; without a result where
            the batch was interrupted.
        """
        results: dict[str, Result] = {}
        pending = list(blob_ids)
        try:
            for _ in range(READS):
                results.update(self._pass(pending))
                pending = [b for b in pending if results[b].outcome is not Outcome.CURRENT]
                if not pending:
                    break
            if any(r.reason_code == "store_unavailable" for r in results.values()):
                self.reader.store.check()
        except (KmsError, StoreUnavailableError) as interruption:
            opened = [r for r in results.values() if r.outcome is Outcome.CURRENT]
            return Report(opened, interruption)
        return Report(list(results.values()))

    def keeps_data_key(self, blob_id: str) -> bool | None:
        """Whether a blob's wrap and its `previous` wrap open to the same data key.

        Then a rewrap has lost nothing, whatever is wrong with the blob's content.

        Returns:
            Whether they do; None where there is no `previous` to compare with.

        Raises:
            QuarantineError, GoneError, StoreUnavailableError: the sidecar cannot be read.
            KmsError: a KEK as a whole cannot be used.
        """
        seen = self.reader.read(blob_id)
        previous = seen.sidecar.previous
        if previous is None:
            return None
        context = {"blob_id": blob_id}
        both = [(seen.wrapped, context), (previous, context)]
        now, before = open_many(self.keys, both, self.journal)
        return isinstance(now, DataKey) and now == before

    def _pass(self, blob_ids: list[str]) -> dict[str, Result]:
        read = dict(zip(blob_ids, self.pool.map(self._read, blob_ids), strict=True))
        results = {b: r for b, r in read.items() if isinstance(r, Result)}
        seen = [(b, s) for b, s in read.items() if isinstance(s, Seen)]
        wraps = [(s.wrapped, {"blob_id": b}) for b, s in seen]
        opened = open_many(self.keys, wraps, self.journal)
        readable: list[tuple[str, Seen, DataKey]] = []
        for (blob_id, s), key in zip(seen, opened, strict=True):
            if isinstance(key, DataKey):
                readable.append((blob_id, s, key))
            else:
                results[blob_id] = _bad(blob_id, key.reason_code, str(key))
        checked = self.pool.map(lambda item: self._content(*item), readable)
        return results | {result.blob_id: result for result in checked}

    def _read(self, blob_id: str) -> Seen | Result:
        try:
            return self.reader.read(blob_id)
        except QuarantineError as error:
            return _bad(blob_id, error.reason_code, str(error))
        except GoneError:
            return Result(blob_id, Outcome.GONE)
        except StoreUnavailableError as error:
            return Result(blob_id, Outcome.FAILED, error.reason_code, str(error))

    def _content(self, blob_id: str, seen: Seen, data_key: DataKey) -> Result:
        try:
            form, read = find_content(self.reader, self.legacy_content, blob_id, seen.sidecar)
            for _ in form.chunks(data_key, read):
                pass  # piece by piece: a blob may be larger than memory
        except (ContentError, UnsafeBlobIdError) as error:
            return _bad(blob_id, error.reason_code, str(error))
        except NotFoundError:
            return _bad(blob_id, "content_missing", "the sidecar's blob is not there")
        except NotAnObjectError as error:
            return _bad(blob_id, "content_not_an_object", str(error))
        except StoreError as error:
            return Result(blob_id, Outcome.FAILED, error.reason_code, str(error))
        return Result(blob_id, Outcome.CURRENT)


def _bad(blob_id: str, reason_code: str, detail: str) -> Result:
    return Result(blob_id, Outcome.QUARANTINED, reason_code, detail)
