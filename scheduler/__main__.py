"""`python -m scheduler`: the `rewrap` command, and the one place where errors become words."""

import json
import os
import sys

import click

from embedded.errors import EmbeddedError
from keywrap.config import ConfigError
from keywrap.kms import KmsError
from keywrap.stores import StoreError
from ledger.campaigns import RequestRefusedError
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from scheduler.commands import rewrap
from scheduler.desk import REFUSED, UNREACHABLE, USAGE, DeskError

_INTERRUPTED = 130

_WORDS: dict[type[Exception], tuple[int, str]] = {
    ConfigError: (USAGE, "configuration"),
    RequestRefusedError: (REFUSED, "refused"),
    LedgerUnavailableError: (UNREACHABLE, "ledger_unavailable"),
    LedgerNotReadyError: (UNREACHABLE, "ledger_not_migrated"),
    EmbeddedError: (UNREACHABLE, "embedded_service"),
    KmsError: (UNREACHABLE, "kms_unavailable"),
    StoreError: (UNREACHABLE, "store_unavailable"),
}
"""The exit code and reason code of each error that is not the desk's own."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code of the command-line contract.
    """
    try:
        code: object = rewrap.main(arguments, prog_name="rewrap", standalone_mode=False)
    except click.ClickException as error:
        return _say(error.format_message(), USAGE, "usage", _help_of(error))
    except click.Abort:
        return _INTERRUPTED
    except DeskError as error:
        return _say(str(error), error.exit_code, error.reason_code, error.next_command)
    except tuple(_WORDS) as error:
        exit_code, reason_code = next(w for kind, w in _WORDS.items() if isinstance(error, kind))
        reason_code = getattr(error, "reason_code", reason_code)
        return _say(str(error), exit_code, reason_code, getattr(error, "next_command", ""))
    except BrokenPipeError:
        # Whoever read our output has enough; nothing else was cut off by it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _help_of(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "rewrap --help"


def _say(message: str, code: int, reason_code: str, next_command: str = "") -> int:
    if "--json" in sys.argv:
        click.echo(
            json.dumps(
                {"reason_code": reason_code, "reason": message, "next_command": next_command}
            )
        )
    else:
        click.echo(f"rewrap: {message}", err=True)
        if next_command:
            click.echo(f"next: {next_command}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
