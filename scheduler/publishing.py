"""Publishing in the control file, noting it in the ledger, and waiting until all obey it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from rich.console import Console

from keywrap.config import open_store
from keywrap.control import Control, ControlError, open_control_file
from keywrap.controlfile import FIRST, NAME, ControlFile
from keywrap.signing import SigningKey
from keywrap.tables.control import ControlConfig
from ledger import publications
from ledger.connection import Ledger
from ledger.publications import Publication
from scheduler.desk import USAGE, Desk, DeskError, operator

_SAY_EVERY_S = 10.0

MISSING, ROLLED_BACK = "control_missing", "control_rolled_back"
"""Why a control file does not count; the next publication puts it right from the ledger."""

NOTHING = Publication(FIRST, 0.0)
"""Where nothing was published yet."""


@dataclass(frozen=True, slots=True)
class Press:
    """Where the control file of this store is read and published.

    Attributes:
        table: the table `[control]`.
        file: the control file.
        ledger: where each publication is noted.
    """

    table: ControlConfig
    file: ControlFile
    ledger: Ledger

    def newest(self) -> Publication:
        """Return what is published now.

        Raises:
            ControlError: the control file is missing, older than what was published, or not to be
                trusted.
            StoreError: the store did not answer.
        """
        found, known = self.file.read() or FIRST, self._known()
        if found.serial < known.serial:
            raise ControlError(
                ROLLED_BACK if found.serial else MISSING,
                f"{NAME} {'is not there' if not found.serial else f'has serial {found.serial}'}, "
                f"and serial {known.serial} was published already: applications that read that "
                "one write nothing until it is there again",
                f"rewrap cutover {known.cutover} (publishes it anew)",
            )
        return self._noted(found) if found.serial else NOTHING

    def standing(self) -> Publication:
        """Return what is published; what the ledger knows where the file was lost or put back.

        Raises:
            ControlError: there is a control file that is not to be trusted.
            StoreError: the store did not answer.
        """
        try:
            return self.newest()
        except ControlError as error:
            if error.reason_code not in {MISSING, ROLLED_BACK}:
                raise
            return self.last_noted()

    def last_noted(self) -> Publication:
        """Return what the ledger knows to have been published last."""
        return next(iter(self.recent()), NOTHING)

    def recent(self) -> list[Publication]:
        """Return what was published last, the newest first."""
        with self.ledger.begin() as connection:
            return publications.recent(connection, self.file.store_id)

    def publish(self, edit: Callable[[Control], Control]) -> Publication:
        """Publish an edit of what is published now; nothing where it changes nothing.

        Raises:
            DeskError: the configuration names no key that signs.
            SigningKeyError: that key cannot be used.
            ControlError: see `keywrap.controlfile.ControlFile.publish`.
            StoreError: the store did not answer.
        """
        control = self.file.publish(
            self.signing_key(),
            lambda base: replace(edit(base), max_age_s=self.table.max_age_s),
            by=operator().encode("ascii", "backslashreplace").decode(),
            known=self._known(),
        )
        # Cut off here, the next look at the file notes it: who and when stand in it.
        return self._noted(control)

    def signing_key(self) -> SigningKey:
        """Return the key that signs; see `publish` for what it raises."""
        if not self.table.private_key_file:
            raise DeskError(
                "[control] names no private_key_file, so nothing can be published from here; "
                "nothing was changed",
                exit_code=USAGE,
                reason_code="control_key_missing",
                next_command='private_key_file = "FILE" in [control]',
            )
        return SigningKey.load(Path(self.table.private_key_file))

    def _known(self) -> Control:
        with self.ledger.begin() as connection:
            known = publications.newest(connection, self.file.store_id)
        least = replace(FIRST, serial=self.table.min_serial)
        return known.control if known and known.control.serial >= least.serial else least

    def _noted(self, control: Control) -> Publication:
        with self.ledger.begin() as connection:
            publications.note(connection, self.file.store_id, control)
            noted = publications.newest(connection, self.file.store_id)
        # Another one may be newer by now; then all obey that one no earlier than this one.
        return Publication(control, noted.obeyed_in_s if noted else 0.0)


def press_of(desk: Desk) -> Press:
    """Return where the control file of the configured store is published.

    Raises:
        ConfigError: `[control]` is not configured.
        StoreError: the store is not there.
        DeskError: there is no ledger.
    """
    config = desk.settings.keywrap
    # The table first: without it neither the store nor the ledger is any concern.
    if config.control is None:
        raise DeskError(
            "[control] is not configured: applications obey no control file here; nothing was "
            "changed",
            exit_code=USAGE,
            reason_code="control_not_configured",
            next_command="rewrap control-key --out FILE",
        )
    return Press(config.control, open_control_file(config, open_store(config)), desk.ledger)


def wait_until_obeyed(publication: Publication, *, silently: bool = False) -> None:
    """Wait until nobody obeys an older control file, and say how long that takes.

    Args:
        publication: what was published.
        silently: say nothing.
    """
    left = publication.obeyed_in_s
    if left <= 0:
        return
    serial = publication.control.serial
    console = Console(quiet=silently)
    end = time.monotonic() + left
    if not console.is_terminal:
        _wait_in_lines(console, serial, end)
    else:
        with console.status(_sentence(serial, left)) as status:
            while (left := end - time.monotonic()) > 0:
                status.update(_sentence(serial, left))
                time.sleep(min(left, 0.2))
    console.print(f"every application obeys control serial {serial}")


def _wait_in_lines(console: Console, serial: int, end: float) -> None:
    while (left := end - time.monotonic()) > 0:
        console.print(_sentence(serial, left))
        time.sleep(min(left, _SAY_EVERY_S))


def _sentence(serial: int, left_s: float) -> str:
    return f"waiting {left_s:.0f} s more, until every application obeys control serial {serial}"


def obeyed_at(publication: Publication) -> str:
    """Return when nobody obeys an older control file any more, by this machine's clock."""
    at = datetime.now(UTC) + timedelta(seconds=publication.obeyed_in_s)
    return at.isoformat(timespec="seconds")


def say(publication: Publication) -> None:
    """Print what is published."""
    control = publication.control
    primary = control.primary or "that of [keys], in its current version"
    click.echo(f"control serial {control.serial}: cutover {control.cutover}, primary {primary}")
