"""`python -m scheduler`: the `rewrap` command, and the one place where errors become words."""

import json
import logging
import os
import sys

import click

from scheduler.commands import rewrap

logger = logging.getLogger(__name__)

_INTERRUPTED = 130
_PIPE_CLOSED = 141


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
    except (BrokenPipeError, SystemExit) as left:  # click exits by itself where a pipe is closed
        if isinstance(left, SystemExit) and not left.code:  # and after it has completed a word
            return 0
        # Whoever read our output has enough; nothing else was cut off by it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Exception as error:
        from scheduler import words  # noqa: PLC0415 - it knows every room, for what rarely happens

        if not isinstance(error, words.KNOWN):
            raise
        return _say(str(error), *words.of(error))
    return done if isinstance(done, int) else 0


def _usage(error: click.ClickException) -> int:
    from scheduler.desk import USAGE  # noqa: PLC0415 - --help and --version do without a desk

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
