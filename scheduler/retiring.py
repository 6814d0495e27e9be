"""Taking a KEK version out of use, in steps that lose nothing wherever they are cut off.

The order is that of the traces in which a retired key destroyed data (docs/decisions/retire.md):
close campaigns towards it, stop wrapping under it, scan the *store*, disable (reversible), wait
until whatever was on its way has come to rest, scan again, let it soak. A compare-and-set does not
protect a blob whose old wrap is in a worker's hand; the second scan does. Whatever is found, the
version is enabled again. Nothing here can delete a key.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keywrap.keys import KeyVersion
from keywrap.kms import (
    CLOSED,
    DeniedError,
    KeyProvider,
    KeySwitch,
    VersionFloor,
    VersionSwitch,
)
from keywrap.stores import StoreUnavailableError
from ledger import campaigns, findings, rebuilding, retirements
from ledger.findings import CensusLine
from ledger.retirements import Retirement, Step
from scheduler import retirehints, store_scan
from scheduler.approving import NO_PERMIT, Permit
from scheduler.desk import REFUSED, Desk, DeskError, operator
from scheduler.oldversions import OldWraps, look_back
from scheduler.publishing import press_of
from scheduler.store_scan import UntilOver
from workers.settings import Retire

_POLL_S = 1.0
_NAMED = 5


class NeededError(Exception):
    """Something needs the version still.

    Args:
        reason_code: a short stable code.
        reason: a sentence that names what.
        next_command: what brings the gate nearer.
    """

    def __init__(self, reason_code: str, reason: str, next_command: str) -> None:
        super().__init__(reason)
        self.reason_code = reason_code
        self.next_command = next_command


@dataclass(frozen=True, slots=True)
class Retiring:
    """One run of a retirement.

    Attributes:
        desk: the operator's desk.
        provider: the KEK.
        version: its version that is retired; without a version, the whole of it.
        waits: how long each wait is.
        accepted: whether wraps in backups may be left without a key.
        until_over: waits for a scan's end.
        say: prints a line.
        permit: what lets it begin.
        look_back: looks into old object versions.
    """

    desk: Desk
    provider: KeyProvider
    version: KeyVersion
    waits: Retire
    accepted: bool
    until_over: UntilOver
    say: Callable[[str], None]
    permit: Permit = NO_PERMIT
    look_back: Callable[[Desk, Callable[[KeyVersion], bool]], OldWraps] = look_back

    @property
    def _again(self) -> str:
        return f"rewrap retire '{self.version}'"

    @property
    def is_whole(self) -> bool:
        """Whether the KEK is taken out of use with every version of it."""
        return not self.version.version

    def closes(self) -> list[KeyVersion]:
        """Return the versions that the service closes with this one."""
        if isinstance(self.provider, VersionFloor):
            return self.provider.closes_with(self.version)
        return []

    def run(self) -> Retirement:
        """Take a retirement to its end, from wherever an earlier run of it stopped.

        Raises:
            DeskError: something needs the version; it is enabled, and the retirement is over.
            KmsError: the KEK does not answer or refuses; run it again.
        """
        retirement = self._begin()
        try:
            while retirement.step is not Step.RETIRED:
                self._take(retirement)
                retirement = self._now()
        except NeededError as needed:
            self._give_up(retirement, needed)
        return retirement

    def _take(self, retirement: Retirement) -> None:
        step, reached = {
            Step.CLOSED: (self._stop_wrapping, Step.STOPPED),
            Step.STOPPED: (self._scan, Step.SCANNED),
            Step.SCANNED: (self._disable, Step.DISABLED),
            Step.DISABLED: (self._drain, Step.RESCANNED),
            Step.RESCANNED: (self._soak, Step.RETIRED),
        }[retirement.step]
        step(retirement)
        with self.desk.ledger.begin() as connection:
            retirements.reach(connection, retirement, reached)
        self.say(f"{reached}: {_DONE[reached]}")

    def _now(self) -> Retirement:
        with self.desk.ledger.begin() as connection:
            found = retirements.newest(connection, self.version)
        assert found is not None  # noqa: S101 - it was begun
        if found.step is Step.REFUSED:
            raise DeskError(
                f"another run of it ended: {found.reason}",
                exit_code=REFUSED,
                reason_code=found.reason_code or "refused",
                next_command=self._again,
            )
        return found

    def _begin(self) -> Retirement:
        with self.desk.ledger.begin() as connection:
            known = retirements.newest(connection, self.version)
        if known is not None and known.step not in retirements.ENDED:
            self.say(f"goes on after: {known.step}")
            return known
        closes = [str(version) for version in self.closes()]
        with self.desk.ledger.begin() as connection:
            # Under the lock of campaign requests: none is opened in between.
            campaigns.lock_requests(connection)
            if open_ones := retirements.in_the_way(connection, self.version):
                ids = ", ".join(str(n) for n in open_ones)
                raise DeskError(
                    f"campaign {ids} is open and may put wraps under {self.version}; nothing was "
                    "changed",
                    exit_code=REFUSED,
                    reason_code="campaign_open",
                    next_command=f"rewrap status {open_ones[0]}",
                )
            self.permit.use(connection)
            return retirements.begin(connection, self.version, closes, operator())

    def _give_up(self, retirement: Retirement, needed: NeededError) -> None:
        was_disabled = retirement.step in {Step.DISABLED, Step.RESCANNED}
        if was_disabled or retirement.step is Step.SCANNED:
            self._enable(retirement)
        with self.desk.ledger.begin() as connection:
            retirements.refuse(connection, retirement, needed.reason_code, str(needed))
        state = "it is enabled again" if was_disabled else "it was not disabled"
        raise DeskError(
            f"{self.version} is not retired: {needed}; {state}",
            exit_code=REFUSED,
            reason_code=needed.reason_code,
            next_command=needed.next_command,
        ) from needed

    def _enable(self, retirement: Retirement) -> None:
        if self.is_whole:
            assert isinstance(self.provider, KeySwitch)  # noqa: S101 - or it was never disabled
            self.provider.enable_key()
            return
        assert isinstance(self.provider, VersionSwitch)  # noqa: S101 - likewise
        for key_id in (str(self.version), *reversed(retirement.closes)):
            self.provider.enable_version(KeyVersion.parse(key_id))

    def _stop_wrapping(self, _retirement: Retirement) -> None:
        if self._is_current():
            raise NeededError("version_is_current", "new wraps are made under it", self._elsewhere)
        if self.desk.settings.keywrap.control is not None:
            publication = press_of(self.desk).newest()
            primary = publication.control.primary
            if primary and self.version in {primary, KeyVersion(primary.key)}:
                raise NeededError(
                    "version_is_published",
                    "the control file tells applications to wrap under it",
                    self._elsewhere,
                )
            self._wait(publication.obeyed_in_s, "every application obeys the control file")
        if isinstance(self.provider, VersionFloor):
            self.provider.stop_wrapping(self.version)

    def _is_current(self) -> bool:
        if self.is_whole:
            return self.desk.settings.keywrap.keys.primary == self.version.key
        return self.provider.current_version() == self.version

    @property
    def _elsewhere(self) -> str:
        """What brings new wraps under something else."""
        if self.is_whole:
            return "list a new key as the primary, then: rewrap start rotate --to NEW_KEY --wait"
        return f"rewrap rotate-kek {self.version.key} --wait"

    def _scan(self, retirement: Retirement) -> None:
        self._require_unneeded()
        self._require_acceptance(retirement)

    def _require_unneeded(self) -> None:
        """Scan the store, and see that no wrap in it needs what is to be closed.

        Raises:
            NeededError: some do, or cannot be told.
        """
        campaign_id = store_scan.scan(self.desk, self.until_over, self._again)
        closed = self._closed()
        with self.desk.ledger.begin() as connection:
            lines = findings.census(connection, campaign_id)
            if self.is_whole:
                of_it = (KeyVersion(x.key, x.version) for x in lines if x.key == self.version.key)
                closed |= set(of_it)
            named = retirements.needing(connection, campaign_id, sorted(closed, key=str), _NAMED)
        self._judge(lines, closed, named)

    def _closed(self) -> set[KeyVersion]:
        """Return it with what closes with it, now and as it was when the retirement began."""
        with self.desk.ledger.begin() as connection:
            known = retirements.newest(connection, self.version)
        began = {KeyVersion.parse(key_id) for key_id in known.closes} if known else set()
        return {self.version, *self.closes(), *began}

    def _judge(
        self, lines: Sequence[CensusLine], closed: set[KeyVersion], named: Sequence[str]
    ) -> None:
        live, previous, unread = needs(lines, closed)
        if not (live or previous or unread):
            return
        found = (
            (live, "blobs are wrapped under it or under what closes with it"),
            (previous, "blobs keep a wrap that needs it (`previous`)"),
            (unread, "sidecars cannot be read, so that one may hide there"),
        )
        which = ", ".join(f"{count:,} {what}" for count, what in found if count)
        shown = ", ".join(repr(blob_id) for blob_id in named)
        to = "NEW_KEY" if self.is_whole else self.version.key
        move = f"rewrap start rotate --to {to} --wait"
        strip = retirehints.strip(self.desk, closed)
        look = "rewrap inventory --export blobs.csv (its column `problem` names them)"
        raise NeededError(
            "version_needed", f"{which}: {shown}", move if live else strip if previous else look
        )

    def _needs(self) -> Callable[[KeyVersion], bool]:
        """Return what tells whether a wrap under a KEK version opens with nothing afterwards."""
        if self.is_whole:
            return lambda version: version.key == self.version.key
        return self._closed().__contains__  # asked once: there may be millions of wraps

    def _require_acceptance(self, retirement: Retirement) -> None:
        """See that whoever retires it accepts what is left without a key, and has a new backup.

        Raises:
            NeededError: it was not accepted, or there is no such backup.
        """
        with self.desk.ledger.begin() as connection:
            kept = retirements.backed_up(connection, self.version)
            is_rebuilt = rebuilding.is_rebuilt(connection)
        old = self._look_back()
        with self.desk.ledger.begin() as connection:
            retirements.note_left(
                connection,
                retirement,
                backup_wraps=sum(kept.values()),
                object_versions=None if old.unseen else old.needing + old.unreadable,
            )
        if old.unseen:
            self.say(f"old object versions were not looked into: {old.unseen}")
        if left := _left(kept, old, is_rebuilt=is_rebuilt):
            in_backups = kept or is_rebuilt
            reason_code = "backups_need_it" if in_backups else "object_versions_need_it"
            self._require_accepted(reason_code, left)

    def _look_back(self) -> OldWraps:
        try:
            return self.look_back(self.desk, self._needs())
        except StoreUnavailableError as error:
            if not self.accepted:
                raise NeededError(
                    "object_versions_unseen",
                    f"old object versions, which may need it, cannot be looked into: {error}",
                    f"rewrap policy aws --role retirer, or: {self._again} --accept-unopenable",
                ) from error
            return OldWraps(unseen=str(error))

    def _require_accepted(self, reason_code: str, left: str) -> None:
        what = f"{left}: these open with nothing afterwards"
        with self.desk.ledger.begin() as connection:
            backup, is_verified = retirements.fresh_backup(
                connection,
                self.version,
                self.desk.settings.keywrap.store.place,
                self.waits.backup_days,
            )
        again = f"{self._again} --accept-unopenable"
        first = "" if is_verified else f"{retirehints.back_up(backup)}, then: "
        if not self.accepted:
            raise NeededError(reason_code, what, first + again)
        if not is_verified:
            raise NeededError(
                "no_fresh_backup",
                f"{what}, and no backup of the whole store without it was made and verified within "
                f"{self.waits.backup_days} days",
                first + again,
            )

    def _disable(self, _retirement: Retirement) -> None:
        try:
            if self.is_whole:
                assert isinstance(self.provider, KeySwitch)  # noqa: S101 - the command has looked
                self.provider.disable_key()
            else:
                assert isinstance(self.provider, VersionSwitch)  # noqa: S101 - likewise
                self.provider.disable_version(self.version)
        except DeniedError as error:
            service = "aws" if self.is_whole else self.version.provider
            raise NeededError(
                error.reason_code, str(error), f"rewrap policy {service} --role retirer"
            ) from error

    def _drain(self, retirement: Retirement) -> None:
        self._wait(self.waits.drain_s - retirement.waited_s, "whatever is on its way comes to rest")
        self._require_unneeded()

    def _soak(self, retirement: Retirement) -> None:
        self._wait(self.waits.soak_s - retirement.waited_s, "an alarm on any use")
        self._require_unneeded()

    def _wait(self, seconds: float, what: str) -> None:
        """Wait, and see all along that no campaign is held up by the closed version."""
        if seconds > 0:
            self.say(f"waiting {seconds:.0f} s: {what}")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_S))
            self._alarm()

    def _alarm(self) -> None:
        with self.desk.ledger.begin() as connection:
            held = [c for c in campaigns.open_campaigns(connection) if c.reason_code in CLOSED]
        if held:
            raise NeededError(
                "version_used",
                f"campaign {held[0].id} waits for a closed version: {held[0].reason}",
                f"rewrap status {held[0].id}",
            )


_DONE = {
    Step.STOPPED: "nothing wraps under it any more",
    Step.SCANNED: "no wrap in the store needs it",
    Step.DISABLED: "the key service opens nothing under it; reversible",
    Step.RESCANNED: "the store is still clean after the drain",
    Step.RETIRED: "nothing used it while it soaked; deleting it is a person's own decision",
}


def needs(lines: Sequence[CensusLine], closed: set[KeyVersion]) -> tuple[int, int, int]:
    """Count what a census has that needs one of these KEK versions, or may.

    Returns:
        Live wraps, `previous` wraps, and blobs of which it cannot be told.
    """
    of_it = [line for line in lines if line.key and KeyVersion(line.key, line.version) in closed]
    return (
        sum(line.blobs for line in of_it),
        sum(line.previous for line in of_it),
        sum(line.blobs for line in lines if line.problem),
    )


def _left(kept: Mapping[int, int], old: OldWraps, *, is_rebuilt: bool) -> str:
    """Say what opens with nothing afterwards; empty for nothing."""
    left = ["any wraps under it in backups that a lost ledger knew"] if is_rebuilt else []
    if kept:
        ids = ", ".join(str(n) for n in kept)
        left.append(f"{sum(kept.values()):,} wraps in backups (of campaigns {ids})")
    shown = ", ".join(repr(blob_id) for blob_id in old.named)
    if old.needing:
        left.append(f"{old.needing:,} old versions of sidecars in the bucket ({shown})")
    if old.unreadable:
        left.append(f"{old.unreadable:,} old versions that cannot be read ({shown})")
    return ", ".join(left)
