"""Connections to the ledger."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import InterfaceError as SqlInterfaceError
from sqlalchemy.exc import ProgrammingError as SqlProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

__all__ = [
    "Connection",
    "Ledger",
    "LedgerBusyError",
    "LedgerNotReadyError",
    "LedgerSlowError",
    "LedgerUnavailableError",
    "waiting_briefly",
]

_UNDEFINED_TABLE = "42P01"
_LOCK_NOT_AVAILABLE = "55P03"
_QUERY_CANCELED = "57014"


class LedgerUnavailableError(Exception):
    """PostgreSQL does not answer. Whatever was not committed has not happened."""


class LedgerBusyError(LedgerUnavailableError):
    """Others hold tables that were to be changed. Nothing of the transaction has happened."""

    reason_code = "ledger_busy"
    next_command = "run it again"


class LedgerSlowError(LedgerUnavailableError):
    """A statement took longer than it may. Nothing of the transaction has happened."""


class LedgerNotReadyError(Exception):
    """The database has no ledger in it, or one of another version."""


class Ledger:
    """The ledger's database. One object a process, made after a fork.

    Args:
        url: `postgresql://…`, as libpq takes it.
        connections: the most connections to hold.
        statement_s: the longest that a statement may take, in seconds; 0: no limit of ours.

    Raises:
        LedgerUnavailableError: that is no such URL.
    """

    def __init__(self, url: str, connections: int = 4, statement_s: float = 0.0) -> None:
        try:
            self._engine = self._make_engine(url, connections, statement_s)
        except (ArgumentError, ValueError, ImportError):
            # Its text is not repeated: a URL that cannot be read may show its password anywhere.
            raise LedgerUnavailableError("its URL is none: expected postgresql://…") from None

    @staticmethod
    def _make_engine(url: str, connections: int, statement_s: float) -> Engine:
        # A frozen worker must not hold its locks for ever.
        options = "-c timezone=UTC -c idle_in_transaction_session_timeout=60s"
        if statement_s:  # else as the server or the role has it
            options += f" -c statement_timeout={statement_s * 1000:.0f}"
        return create_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=connections,
            pool_pre_ping=True,  # a restarted PostgreSQL is noticed before a transaction, not in it
            connect_args={
                "connect_timeout": 5,
                # A partition must not hold a heartbeat or a tick for the kernel's quarter hour.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20_000,
                "application_name": "rewrap",
                "options": options,
            },
        )

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Run one transaction: committed at the end of the block, rolled back by an exception.

        Raises:
            LedgerUnavailableError: PostgreSQL does not answer, or went away in the middle.
            LedgerSlowError: a statement took longer than it may.
            LedgerNotReadyError: the schema is not there.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, SqlInterfaceError) as error:
            is_slow = getattr(error.orig, "sqlstate", "") == _QUERY_CANCELED
            kind = LedgerSlowError if is_slow else LedgerUnavailableError
            raise kind(_first_line(error)) from error
        except PoolTimeoutError as error:
            raise LedgerUnavailableError("all connections of this process are in use") from error
        except SqlProgrammingError as error:
            if getattr(error.orig, "sqlstate", "") != _UNDEFINED_TABLE:
                raise
            raise LedgerNotReadyError("the database holds no ledger") from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise LedgerUnavailableError(_first_line(error)) from error

    @contextmanager
    def reading(self, statement_s: float) -> Iterator[Connection]:
        """Run one transaction that changes nothing and sees one moment.

        Args:
            statement_s: the longest that a statement may take, in seconds.

        Raises:
            LedgerUnavailableError: PostgreSQL does not answer.
            LedgerSlowError: a statement took longer.
            LedgerNotReadyError: the schema is not there.
        """
        with self.begin() as connection:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {statement_s * 1000:.0f}")
            yield connection

    @contextmanager
    def exclusively(self, lock: int) -> Iterator[bool]:
        """Hold an advisory lock for the length of the block, if nobody else does.

        The lock belongs to a connection of its own: it goes when the process dies, whatever the
        process was doing.

        Args:
            lock: which lock, by number.

        Yields:
            Whether this process has the lock.
        """
        with self.begin() as connection:
            yield bool(
                connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": lock})
            )

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


@contextmanager
def waiting_briefly(connection: Connection, timeout: str, untouched: str) -> Iterator[None]:
    """Wait for tables no longer than a moment: all who ask for them later wait behind us.

    Args:
        connection: the transaction; the limit holds until its end.
        timeout: the longest wait, as PostgreSQL's `lock_timeout` takes it, such as `3s`.
        untouched: what to say was not done.

    Raises:
        LedgerBusyError: others hold them yet, as `pg_dump` does; the transaction is at its end.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{timeout}'")
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
            raise
        raise LedgerBusyError(f"the ledger's tables are in use; {untouched}") from error


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
