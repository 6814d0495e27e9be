"""Looking through the audit chain in the ledger, again and again, beside other work."""

from keywrap.auditchain import ChainCheck
from ledger import audit
from ledger.connection import Ledger


class ChainWatch:
    """Goes through the chain a page at a time, round and round.

    So what is changed later, anywhere, is seen as well.

    Args:
        ledger: has the chain.

    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._check = ChainCheck(None)
        self._found: list[str] = []
        self._last: list[str] = []
        self._rounds = 0

    def look(self) -> int | None:
        """Look at the next page.

        Returns:
            How many faults there are, in the last round or so far in this one; None: none was
            found, and the chain was not gone through once yet.

        Raises:
            LedgerUnavailableError: PostgreSQL does not answer.
        """
        with self._ledger.begin() as connection:
            page = audit.page(connection, self._check.head.entries)
        for entry in page:
            self._found += [f"{fault.kind}: {fault.detail}" for fault in self._check.take(entry)]
        if len(page) < audit.PAGE:
            self._last, self._found, self._check = self._found, [], ChainCheck(None)
            self._rounds += 1
        faults = max(len(self._last), len(self._found))
        return faults if faults or self._rounds else None

    @property
    def first(self) -> str:
        """What the first of these faults is; empty where there is none."""
        return next(iter(self._found or self._last), "")
