"""The audit trail: whether it can be written here, and whether its head is signed."""

import os
from collections.abc import Iterator
from pathlib import Path

from keywrap.audithead import HeadFile
from keywrap.signing import PublicKey, SigningKey
from scheduler.checks.check import Check, Finding, failed, passed, warned
from scheduler.checks.ground import Ground

_NEW_KEY = "rewrap audit key --out FILE"


def checks(ground: Ground) -> Iterator[Check]:
    """Yield the checks of the audit trail."""
    yield Check("audit trail", lambda: _written(ground), "check [audit] directory")
    yield Check("audit head", lambda: _signed(ground), "rewrap audit verify")


def _written(ground: Ground) -> Finding:
    folder = Path(ground.settings.audit.directory)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return passed(f"segments can be written to {folder}")
    return failed(
        "audit_not_writable",
        f"no segment can be written to {folder}, so no key would be used: {there} is not writable",
        "check [audit] directory or REWRAP_AUDIT_DIRECTORY",
    )


def _signed(ground: Ground) -> Finding:
    table = ground.settings.audit
    if not table.public_key:
        said = "no head is signed: a chain that was changed and computed anew is not found"
        return warned("audit_not_signed", said, _NEW_KEY)
    public = PublicKey.parse(table.public_key)
    if table.private_key_file and SigningKey.load(Path(table.private_key_file)).public != public:
        said = "[audit] private_key_file does not belong to [audit] public_key"
        return failed("audit_key_of_another", said, _NEW_KEY)
    signed = HeadFile(ground.store.get(), public).read()
    return passed(f"signed at {signed.head.entries} segments" if signed else "nothing to sign yet")
