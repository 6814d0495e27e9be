"""`python -m scheduler`: the `rewrap` command, and the one place where errors become words."""

import json
import logging
import os
import sys

import click

from embedded.errors import EmbeddedError
from keywrap.audithead import AuditHeadError
from keywrap.backups.bundle import BackupError
from keywrap.config import ConfigError
from keywrap.control import ControlError
from keywrap.kms import DeniedError, KmsError
from keywrap.signing import SigningKeyError
from keywrap.stores import StoreError
from ledger.campaigns import RequestRefusedError
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from scheduler.commands import rewrap
from scheduler.desk import EXCEPTIONS, REFUSED, UNREACHABLE, USAGE, DeskError
from scheduler.sources import SourceError

logger = logging.getLogger(__name__)

_INTERRUPTED = 130
_PIPE_CLOSED = 141

_WORDS: dict[type[Exception], tuple[int, str, str]] = {
    BackupError: (EXCEPTIONS, "backup", "rewrap backup list"),
    ConfigError: (USAGE, "configuration", "mend the configuration, then run it again"),
    SigningKeyError: (USAGE, "signing_key", "check private_key_file in the configuration"),
    AuditHeadError: (REFUSED, "audit_head", "rewrap audit verify"),
    ControlError: (REFUSED, "control", "rewrap cutover status"),
    RequestRefusedError: (REFUSED, "refused", "rewrap status"),
    LedgerUnavailableError: (
        UNREACHABLE,
        "ledger_unavailable",
        "check [ledger] url or REWRAP_LEDGER_URL, then run it again",
    ),
    LedgerNotReadyError: (UNREACHABLE, "ledger_not_migrated", "rewrap scheduler"),
    EmbeddedError: (UNREACHABLE, "embedded_service", "mend that, then run it again"),
    DeniedError: (
        UNREACHABLE,
        "key_denied",
        "check the key's table in [keys], its credentials and what they may do, then run it again",
    ),
    KmsError: (
        UNREACHABLE,
        "kms_unavailable",
        "see that the key service is up at the address in [keys], then run it again",
    ),
    SourceError: (USAGE, "source", "mend the list, then run it again"),
    StoreError: (UNREACHABLE, "store_unavailable", "check [store] url, then run it again"),
}
"""The exit code, reason code and next step of each error that is not the desk's own."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code of the command-line contract.
    """
    try:
        done: object = rewrap.main(arguments, prog_name="rewrap", standalone_mode=False)
    except click.ClickException as error:
        return _usage(error)
    except click.Abort:
        return _INTERRUPTED
    except DeskError as error:
        return _say(str(error), error.exit_code, error.reason_code, error.next_command)
    except tuple(_WORDS) as error:
        code, reason_code, step = next(w for kind, w in _WORDS.items() if isinstance(error, kind))
        reason_code = getattr(error, "reason_code", reason_code)
        return _say(str(error), code, reason_code, getattr(error, "next_command", "") or step)
    except (BrokenPipeError, SystemExit):  # click exits by itself where a pipe is closed
        # Whoever read our output has enough; nothing else was cut off by it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    return done if isinstance(done, int) else 0


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    context = getattr(error, "ctx", None)
    next_command = f"{context.command_path} --help" if context else "rewrap --help"
    return _say(error.format_message(), USAGE, "usage", next_command)


def _say(message: str, code: int, reason_code: str, next_command: str = "") -> int:
    from workers import logs  # noqa: PLC0415 - most commands end well, and need none

    if logs.logs_json():
        step = f"; next: {next_command}" if next_command else ""
        logger.critical("%s%s", message, step, extra={"event": reason_code})
    elif "--json" in sys.argv:
        click.echo(
            json.dumps(
                {"reason_code": reason_code, "reason": message, "next_command": next_command}
            )
        )
    else:
        click.echo(f"rewrap: {message} [{reason_code}]", err=True)
        if next_command:
            click.echo(f"next: {next_command}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
