"""`rewrap preflight`: the checklist before a deployment."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import click

from scheduler import showing
from scheduler.checks import all_checks
from scheduler.checks.check import Check, Finding, Line, Status, make, passed
from scheduler.checks.ground import SAMPLE, Ground
from scheduler.commands.reading import as_json
from scheduler.desk import DONE, EXCEPTIONS, UNREACHABLE, USAGE, Desk

_MARKS = {Status.PASS: "✓", Status.WARN: "!", Status.FAIL: "✗", Status.SKIP: "-"}
_COLORS = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "red", Status.SKIP: None}
_CONFIGURATION = "configuration"


@click.command()
@click.option(
    "--sample",
    type=click.IntRange(0, 10_000),
    default=SAMPLE,
    show_default=True,
    metavar="N",
    help="Open N blobs of the store.",
)
@as_json
@click.pass_obj
def preflight(desk: Desk, sample: int, *, as_json: bool) -> int:
    """Check everything that a deployment needs, each for real, and say what mends it.

    Changes nothing but an object of its own under .rewrap/, which shows that the store keeps its
    conditions and is removed again. Exit code 1: a check failed; 2: the configuration cannot be
    read; 3: something that it needs does not answer.

    Example: rewrap preflight --sample 50
    """
    lines = checked(desk, all_checks, sample=sample, as_json=as_json)
    code = _code(lines)
    if as_json:
        document(lines)
    else:
        conclude(lines)
    return code


def checked(
    desk: Desk,
    room: Callable[[Ground], Iterable[Check]],
    *,
    sample: int = SAMPLE,
    as_json: bool = False,
) -> list[Line]:
    """Check that the configuration can be read and, if so, what a room checks.

    Args:
        desk: the configuration.
        room: yields the checks.
        sample: how many blobs to open.
        as_json: say nothing meanwhile.
    """
    lines: list[Line] = []
    for line in _lines(desk, room, sample):
        if not as_json:
            _say(line)
        lines.append(line)
    return lines


def _lines(desk: Desk, room: Callable[[Ground], Iterable[Check]], sample: int) -> Iterator[Line]:
    found: list[Ground] = []

    def configuration() -> Finding:
        found.append(Ground(desk, sample))
        return passed("it can be read, and its tables agree")

    yield from make([Check(_CONFIGURATION, configuration, "mend it, then run it again")])
    for ground in found:
        yield from make(room(ground))


def failures(lines: Iterable[Line]) -> list[Line]:
    """Return the lines that failed."""
    return [line for line in lines if line.finding.status is Status.FAIL]


def document(lines: Sequence[Line]) -> None:
    """Print the checklist as one JSON document."""
    checks = [line.document() for line in lines]
    showing.document({"passed": not failures(lines), "checks": checks})


def _code(lines: Sequence[Line]) -> int:
    failed = failures(lines)
    if any(line.name == _CONFIGURATION for line in failed):
        return USAGE
    if any(line.finding.is_unreachable for line in failed):
        return UNREACHABLE
    return EXCEPTIONS if failed else DONE


def _say(line: Line) -> None:
    mark = click.style(_MARKS[line.finding.status], fg=_COLORS[line.finding.status])
    click.echo(f"{mark} {line.name}: {showing.plain(line.finding.sentence)}")


def conclude(lines: Sequence[Line]) -> None:
    """Say once more what is to be mended, and how."""
    counts = Counter(line.finding.status for line in lines)
    for status in (Status.WARN, Status.FAIL):
        for line in lines:
            if line.finding.status is status:
                click.echo("")
                _say(line)
                click.echo(f"  next: {showing.plain(line.finding.next_command)}")
    told = ((Status.PASS, "passed"), (Status.WARN, "to know of"), (Status.FAIL, "failed"))
    said = ", ".join(f"{counts[status]} {word}" for status, word in told)
    click.echo(f"\n{said}, {counts[Status.SKIP]} not checked")
