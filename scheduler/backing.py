"""Whether a campaign begins with a backup of the wraps that it is about to replace."""

from scheduler.desk import USAGE, Desk, DeskError

NOT_CONFIGURED = "backup_not_configured"


def backs_up(desk: Desk, *, escrow: bool = False) -> bool:
    """Say whether wraps are backed up before they are replaced.

    Args:
        desk: the operator's desk.
        escrow: whether the data keys themselves are wanted in the backup.

    Raises:
        DeskError: the configuration wants it and names nobody who could open a backup.
    """
    backup = desk.settings.backup
    if backup.recipients:
        return True
    if not backup.required and not escrow:
        return False
    why = "no wrap is replaced before an encrypted backup is written"
    if escrow:
        why = "an escrow goes to offline recipients only"
    raise DeskError(
        f"[backup] names no recipients, and {why}; nothing was changed",
        exit_code=USAGE,
        reason_code=NOT_CONFIGURED,
        next_command="rewrap backup-key --out FILE (then keep FILE offline)",
    )
