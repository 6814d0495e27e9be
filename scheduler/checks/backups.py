"""Checks of backups: who can open one, whether one can be written, whether one was ever opened."""

import secrets
from collections.abc import Iterator

from keywrap.backups.bundle import encrypt
from keywrap.stores import StoreError
from ledger import backups
from scheduler.checks.check import Check, Finding, failed, passed, skipped, warned
from scheduler.checks.ground import Ground
from workers.composition import vault_of

_KEY = "rewrap backup-key --out FILE (then keep FILE offline)"


def checks(ground: Ground) -> Iterator[Check]:
    """Yield the checks of backups."""
    yield Check("backup place", lambda: _place(ground), "check [backup], then run it again")
    yield Check("backup drill", lambda: _drill(ground), "rewrap backup list")


def _place(ground: Ground) -> Finding:
    backup = ground.settings.backup
    if not backup.recipients and backup.required:
        return failed(
            "backup_not_configured",
            "[backup] names no recipients, so no campaign can begin",
            _KEY,
        )
    if not backup.recipients:
        return warned(
            "backup_not_required",
            "[backup] required is false: wraps are replaced without a backup of them",
            _KEY,
        )
    vault = vault_of(ground.settings)
    name = f"preflight-{secrets.token_hex(8)}.age"
    vault.write(name, encrypt(b"preflight", backup.recipients))
    try:
        vault.store.delete(name)
    except StoreError as error:
        return warned(
            "probe_left", f"{name} could not be removed from {vault.place}: {error}", "remove it"
        )
    return passed(
        f"an encrypted object was written to {vault.place} and read back, for "
        f"{len(backup.recipients)} recipients"
    )


def _drill(ground: Ground) -> Finding:
    with ground.ledger.get().begin() as connection:
        known = backups.recent(connection)
    if not known:
        return skipped("no_backup_yet", "there is no backup yet")
    opened = [one for one in known if one.verified_at is not None]
    if not opened:
        return warned(
            "backup_never_opened",
            "no backup was ever opened with the offline identity: nobody knows that one opens",
            f"rewrap backup verify {known[0].campaign_id} --identity FILE",
        )
    return passed(f"that of campaign {opened[0].campaign_id} was opened, and all of it was whole")
