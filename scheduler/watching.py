"""`rewrap status --watch`: what it reads again and again, and what it does when nothing answers."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

import click
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live

from ledger import campaigns, progress
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from ledger.states import State
from scheduler import board, waits
from scheduler.board import Board, View
from scheduler.desk import UNREACHABLE, Desk, DeskError
from scheduler.status import Status
from workers.broker import BrokerUnavailableError

_POLL_S = 0.5
_AGAIN_EVERY_S = 5.0
_ASK_EVERY_S = 10.0
_SEEN_ENDING = timedelta(minutes=1)
"""A campaign that has ended stays on the board so long, so that its end is seen."""

Look = Callable[[], View]
"""Reads everything anew."""

ReadStatus = Callable[[Desk, int], Status]
"""Reads one campaign."""


class Show(Protocol):
    """Shows what was read."""

    def __call__(self, now: Board) -> None:
        """Show it, if there is anything new."""


def follow(look: Look, show: Show, is_over: Callable[[View], bool], now: Board) -> None:
    """Read and show again and again; what was read last stays where nothing answers.

    Args:
        look: reads everything anew.
        show: shows it.
        is_over: whether nothing more is to be waited for.
        now: what was read first; it is changed in place.

    Raises:
        DeskError: something is wrong that does not pass by itself.
    """
    while True:
        show(now)
        if not now.trouble and is_over(now.view):
            return
        began = time.monotonic()
        time.sleep(_POLL_S)
        try:
            now.put(look())
        except (LedgerUnavailableError, LedgerNotReadyError) as error:
            now.trouble = f"the ledger does not answer: {error}"
        except DeskError as error:
            if error.exit_code != UNREACHABLE:
                raise
            now.trouble = str(error).removesuffix("; nothing was changed")
        # A ledger that answers slowly is not asked all the time.
        time.sleep(max(0.0, min(_AGAIN_EVERY_S, time.monotonic() - began - _POLL_S)))


class Source:
    """Reads the ledger for a watch, and asks the broker beside that.

    Args:
        desk: the operator's desk.
        campaign_id: the only campaign; None: all that are open, and those that ended just now.
        read: reads one campaign.
    """

    def __init__(self, desk: Desk, campaign_id: int | None, read: ReadStatus) -> None:
        self._desk = desk
        self._campaign_id = campaign_id
        self._read = read
        self._workers: int | None = None
        self._trouble = ""
        threading.Thread(target=self._ask, name="watch-workers", daemon=True).start()

    def look(self) -> View:
        """Read everything anew.

        Raises:
            DeskError: there is no such campaign, or no ledger.
            LedgerUnavailableError: PostgreSQL does not answer.
        """
        try:
            return self._look()
        except DeskError:
            self._desk = Desk(self._desk.config)  # `rewrap up` may bring another ledger
            raise

    def _look(self) -> View:
        desk = self._desk
        with desk.ledger.begin() as connection:
            silence = waits.silence(connection)
            ids = [self._campaign_id] if self._campaign_id is not None else []
            if not ids:
                gone = progress.now(connection) - _SEEN_ENDING
                ended = [c for c in campaigns.recent(connection) if _since(c.finished_at, gone)]
                ids = [c.id for c in [*campaigns.open_campaigns(connection), *ended]]
        statuses = tuple(self._read(desk, campaign_id) for campaign_id in ids)
        return View(statuses, silence, self._workers, self._trouble)

    def _ask(self) -> None:
        """Ask now and then how many workers there are: it takes seconds."""
        from workers import inspection  # noqa: PLC0415 - Celery takes a while

        while True:
            try:
                if url := self._desk.settings.broker.url:
                    served = inspection.served_queues(url)
                    workers = {name for names in served.values() for name in names}
                    self._workers, self._trouble = len(workers), ""
                else:
                    self._workers, self._trouble = None, "no broker is configured or running"
            except (BrokerUnavailableError, RedisError, OSError) as error:
                self._workers, self._trouble = None, f"the broker does not answer: {error}"
            time.sleep(_ASK_EVERY_S)


def _since(at: datetime | None, gone: datetime) -> bool:
    return at is not None and at > gone


def on_terminal(look: Look, is_over: Callable[[View], bool], console: Console) -> None:
    """Watch on a terminal, where everything is drawn again in place."""
    now = Board(look())
    with Live(now, console=console, refresh_per_second=4):
        follow(look, lambda _: None, is_over, now)


class PlainLines:
    """Prints a line a campaign where its state or reason changes, and now and then if it moves."""

    def __init__(self) -> None:
        self._said: dict[object, tuple[object, float]] = {}

    def __call__(self, now: Board) -> None:
        """Print what is to be said."""
        head = now.trouble and now.head()
        self._say("ledger", now.trouble, head or "the ledger answers", always=bool(now.trouble))
        if now.trouble:
            return
        foot = now.view.foot()
        self._say("foot", foot.partition(" for ")[0], foot)
        if not now.view.statuses:
            self._say("none", "none", "no open campaigns")
        for status in now.view.statuses:
            campaign = status.campaign
            key = board.reason(status)
            moves = not campaign.is_finished and campaign.state is not State.BLOCKED
            self._say(campaign.id, key, board.line(status), always=moves)

    def _say(self, what: object, key: object, text: str, *, always: bool = False) -> None:
        said, at = self._said.get(what, ("" if what == "ledger" else None, 0.0))
        again = always and time.monotonic() - at > _AGAIN_EVERY_S
        if key != said or again:
            self._said[what] = key, time.monotonic()
            click.echo(text)


class JsonLines:
    """Prints a document a line where something changed, and now and then."""

    def __init__(self) -> None:
        self._said = ""
        self._at = 0.0

    def __call__(self, now: Board) -> None:
        """Print what is to be said."""
        view = now.view
        found = {
            "ledger": {"answers": not now.trouble, "trouble": now.trouble or None},
            "scheduler": {"is_alive": not view.silence, "silent": view.silence or None},
            "workers": {"alive": view.workers, "trouble": view.broker_trouble or None},
            "campaigns": [status.document() for status in view.statuses],
        }
        key = json.dumps(found)
        if key == self._said and time.monotonic() - self._at < _AGAIN_EVERY_S:
            return
        self._said, self._at = key, time.monotonic()
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        click.echo(json.dumps({"at": at, "age_s": round(now.age_s, 1), **found}))


def watch(
    desk: Desk,
    campaign_id: int | None,
    read: ReadStatus,
    is_over: Callable[[Status], bool],
    *,
    as_json: bool,
) -> View:
    """Watch one campaign until it is over, or all open ones until Ctrl-C.

    Where there is no terminal, all open ones are watched until none of them goes on by itself: who
    waits there cannot press Ctrl-C.

    Args:
        desk: the operator's desk.
        campaign_id: the campaign; None: all that are open.
        read: reads one campaign.
        is_over: whether a campaign is to be waited for no longer.
        as_json: whether to print one JSON document a line.

    Returns:
        What was read last.

    Raises:
        DeskError: there is no such campaign, or nothing answers at the start.
        LedgerUnavailableError: PostgreSQL does not answer at the start.
    """
    source = Source(desk, campaign_id, read)
    last: list[View] = []

    def look() -> View:
        last[:] = [source.look()]
        return last[0]

    console = Console()

    def ends(view: View) -> bool:
        is_bounded = campaign_id is not None or not console.is_terminal
        return is_bounded and all(map(is_over, view.statuses))

    if console.is_terminal and not as_json:
        on_terminal(look, ends, console)
    else:
        follow(look, JsonLines() if as_json else PlainLines(), ends, Board(look()))
    return last[0]
