"""`rewrap status --watch` on a real terminal and without one, while the ledger comes and goes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embedded import Postgres
from keywrap.rewrapping import Outcome
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import showing, status, watching
from scheduler.board import Board, View
from scheduler.status import Status
from tests.desks import Desk, desk_of
from tests.ptys import Screen
from tests.rotations import STORE
from tests.sites import ROOT, command, run

HOSTILE = "no \x1b[2J\nforged: rotate 99 is complete"


class Room:
    """A ledger with campaigns in it, and who watches them.

    Attributes:
        desk: short words for the ledger.
    """

    def __init__(self, postgres: Postgres, url: str, ledger: Ledger, folder: Path) -> None:
        self._postgres, self.folder = postgres, folder
        self.desk: Desk = desk_of(ledger)
        ((self._name,),) = self.desk.rows("SELECT current_database()")
        config = folder / "rewrap.toml"
        config.write_text(STORE.format(store=(folder / "blobs").as_uri()))
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "REWRAP_CONFIG": str(config),
            "REWRAP_LEDGER_URL": url,
            "REWRAP_BROKER_URL": "redis://127.0.0.1:1/0",
        }
        self.beat()

    def beat(self) -> None:
        self.desk.run(
            "INSERT INTO heartbeat VALUES ('scheduler', clock_timestamp() + interval '1 hour')"
        )

    def running(self, prefix: str = "", good: int = 60, bad: int = 2, left: int = 38) -> int:
        campaign = self.desk.campaign(Kind.ROTATE, prefix=prefix)
        blobs = [f"{prefix}b{n}" for n in range(good + bad + left)]
        number = self.desk.shard(campaign, blob_ids=blobs)
        self.desk.force(campaign, State.RUNNING)
        outcomes = [Outcome.REWRAPPED] * good + [Outcome.QUARANTINED] * bad
        self.desk.record(number, **dict(zip(blobs, outcomes, strict=False)))
        return campaign

    def block(self, campaign: int, why: str) -> None:
        self.desk.run(
            "UPDATE campaign SET state = 'blocked', reason_code = 'permission_denied',"
            " resume_state = 'running', reason = :why WHERE id = :id",
            why=why,
            id=campaign,
        )

    def away(self, *, is_away: bool) -> None:
        """Let the ledger be away: it takes no connection, and those that are open end."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            connection.execute(
                allow.format(sql.Identifier(self._name), sql.SQL("false" if is_away else "true"))
            )
            if is_away:
                end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                connection.execute(end, [self._name])

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let whoever serves this ledger's other connections hang."""
        ours = self.desk.rows("SELECT pg_backend_pid()")
        pids = self.desk.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = :name AND pid <> :ours",
            name=self._name,
            ours=ours[0][0],
        )
        for (pid,) in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for (pid,) in pids:
                os.kill(pid, signal.SIGCONT)

    def screen(self, *words: str, rows: int = 24) -> Screen:
        return Screen(command("status", "--watch", *words), self.environment, self.folder, rows)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command("status", "--watch", *words),
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def room(postgres: Postgres, ledger_url: str, ledger: Ledger, tmp_path: Path) -> Iterator[Room]:
    room = Room(postgres, ledger_url, ledger, tmp_path)
    yield room
    room.away(is_away=False)


def test_all_open_campaigns_move_on_a_terminal_of_80_columns(room: Room) -> None:
    one, other = room.running("p/"), room.running("q/", bad=0, left=40)
    room.block(other, HOSTILE)
    with room.screen() as screen:
        screen.await_text(f"rotate {one}  running  → hcvault://memory/blob-kek?version=1")
        screen.await_text("62% 62 of 100")
        screen.await_text("60 rewrapped · 2 quarantined · 38 pending")
        screen.await_text("quarantined: 2 of quarantined")
        screen.await_text(f"rotate {other}  blocked")
        screen.await_text("permission_denied: no \\x1b[2J\\nforged")
        screen.await_text("scheduler alive · workers unknown: the broker does not answer")
        room.desk.run("UPDATE shard SET rewrapped = 70 WHERE campaign_id = :id", id=one)
        screen.await_text("72% 72 of 100")
        assert screen.interrupt() == 0
    assert screen.widest <= 80
    assert "Traceback" not in screen.raw
    assert "Aborted" not in screen.raw


def test_the_terminal_keeps_the_last_figures_while_the_ledger_is_away(room: Room) -> None:
    room.running()
    with room.screen() as screen:
        screen.await_text("62% 62 of 100")
        room.away(is_away=True)
        screen.await_text("the ledger does not answer")
        screen.await_text("what is shown is")
        screen.await_text("62% 62 of 100")
        screen.await_text("s old")
        room.desk.ledger.close()
        room.away(is_away=False)
        room.desk.run("UPDATE shard SET rewrapped = 70")
        screen.await_text("72% 72 of 100")
        screen.read(1.0)
        screen.raw = ""
        screen.await_text("72% 72 of 100")
        assert "old" not in screen.raw
        assert screen.interrupt() == 0
    assert screen.widest <= 80


def test_where_there_is_no_room_each_has_a_line_and_the_rest_is_counted(room: Room) -> None:
    for number in range(30):
        room.running(f"p{number:02}/", good=3, bad=0, left=3)
    with room.screen(rows=12) as screen:
        screen.await_text("rotate 1 ")
        screen.await_text("50%")
        screen.await_text("more")
        assert screen.interrupt() == 0
    assert screen.widest <= 80
    assert "rotate 30 " not in "\n".join(screen.lines)


def test_one_campaign_is_watched_to_its_end(room: Room) -> None:
    campaign = room.running()
    with room.screen(str(campaign)) as screen:
        screen.await_text("62% 62 of 100")
        room.desk.run("UPDATE shard SET rewrapped = 98, state = 'done'")
        room.desk.run(
            "UPDATE campaign SET state = 'complete_with_exceptions',"
            " finished_at = clock_timestamp()"
        )
        assert screen.end() == 0
    text = "\n".join(screen.lines)
    assert f"rewrap blobs {campaign} --outcome quarantined" in text
    assert screen.widest <= 80


def documents(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def test_json_is_a_document_a_line_while_the_ledger_comes_and_goes(room: Room) -> None:
    campaign = room.running()
    process = room.start("--json")
    try:
        stream = documents(process)
        first = next(stream)
        assert first["ledger"] == {"answers": True, "trouble": None}
        assert first["scheduler"] == {"is_alive": True, "silent": None}
        assert [one["campaign"] for one in first["campaigns"]] == [campaign]
        assert first["campaigns"][0]["counts"]["rewrapped"] == 60
        room.away(is_away=True)
        away = next(one for one in stream if not one["ledger"]["answers"])
        assert away["campaigns"][0]["counts"]["rewrapped"] == 60
        later = next(one for one in stream if one["age_s"] > away["age_s"])
        assert not later["ledger"]["answers"]
        room.desk.ledger.close()
        room.away(is_away=False)
        back = next(one for one in stream if one["ledger"]["answers"])
        assert back["age_s"] < 1
        room.desk.run("UPDATE shard SET rewrapped = 71")
        next(one for one in stream if one["campaigns"][0]["counts"]["rewrapped"] == 71)
        assert any("broker" in (one["workers"]["trouble"] or "") for one in stream)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_without_a_terminal_there_are_plain_lines(room: Room) -> None:
    campaign = room.running()
    process = room.start(str(campaign))
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = next(line for line in lines if line.startswith("rotate"))
        assert said.startswith(f"rotate {campaign}: running - 62 of 100; ")
        assert "60 rewrapped · 2 quarantined · 38 pending" in said
        room.away(is_away=True)
        next(line for line in lines if line.startswith("the ledger does not answer: "))
        room.desk.ledger.close()
        room.away(is_away=False)
        next(line for line in lines if line == "the ledger answers\n")
        room.desk.run("UPDATE shard SET rewrapped = 98, state = 'done'")
        room.desk.run("UPDATE campaign SET state = 'complete', finished_at = clock_timestamp()")
        rest, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert f"rotate {campaign}: complete - 100 of 100" in rest
        assert "\x1b" not in rest
    finally:
        process.kill()
        process.communicate()


def test_a_campaign_that_is_blocked_is_told_once_a_reason_with_what_to_type(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = room.running()
    for module, every in ((watching, "_AGAIN_EVERY_S"), (showing, "_PLAIN_EVERY_S")):
        monkeypatch.setattr(module, every, -1.0)
    monkeypatch.setattr(showing, "_POLL_S", 0.0)
    watched = watching.PlainLines()

    def look() -> Status:
        found = status.read(room.desk.ledger, campaign, keeps_previous=True)
        assert found is not None
        watched(Board(View((found,), "", 1, "")))
        return found

    def told(times: int) -> list[str]:
        looks = iter(range(times))
        showing.until_finished(look, lambda _: next(looks) == times - 1)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("rotate")]

    assert len(told(4)) == 4 + 4, "what moves is told again and again"
    room.block(campaign, "the token may not do this")
    lines = told(4)
    assert len(lines) == 1 + 2, "the last of a wait is told anyway"
    assert all(line.endswith("; next: rewrap preflight") for line in lines)
    room.block(campaign, "the token is not known")
    assert sum("is not known" in line for line in told(4)) == 3
    room.desk.force(campaign, State.RUNNING)
    assert len(told(4)) == 4 + 4


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a watch that ends by itself; return its code, its last line, and its errors."""
    try:
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out.splitlines()[-1], err


def test_a_watch_of_nothing_says_so_and_what_cannot_be_read_at_the_start_is_told(
    room: Room,
) -> None:
    with room.screen() as screen:
        screen.await_text("no open campaigns")
        assert screen.interrupt() == 0
    assert ended(room.start()) == (0, "no open campaigns", "")
    room.desk.force(room.running(), State.PAUSED)
    code, said, err = ended(room.start("--json"))
    assert (code, json.loads(said.splitlines()[0])["campaigns"][0]["state"], err) == (
        0,
        "paused",
        "",
    )
    with room.screen("7") as screen:
        assert screen.end() == 2
    assert "there is no campaign 7" in screen.raw
    room.away(is_away=True)
    began = time.monotonic()
    with room.screen() as screen:
        assert screen.end() == 3
    assert time.monotonic() - began < 15
    assert "PostgreSQL does not answer" in screen.raw


def test_a_ledger_that_hangs_is_told_and_ctrl_c_still_ends_the_watch(room: Room) -> None:
    room.running()
    with room.screen() as screen:
        screen.await_text("62% 62 of 100")
        with room.frozen():
            screen.await_text("the ledger has not answered yet; what is shown is")
            screen.await_text("62% 62 of 100")
            assert screen.interrupt() == 0, screen.raw[-3000:]
    assert "Traceback" not in screen.raw


def test_lists_say_that_no_scheduler_ticks(room: Room) -> None:
    one, other = room.running("p/"), room.running("q/")
    room.desk.run("UPDATE heartbeat SET at = clock_timestamp() - interval '10 minutes'")
    room.desk.run(
        "INSERT INTO schedule (name, kind, cron, zone, next_at, try_at, created_by)"
        " VALUES ('nightly', 'verify', '0 3 * * *', 'UTC', now(), now(), 'x')"
    )
    listed = run(["status"], room.environment, room.folder)
    assert listed.code == 0
    assert f"waits ({other}, {one}): no scheduler has ticked for 6" in listed.out
    assert listed.out.count("next: rewrap scheduler") == 1
    for words, says in ((["alerts"], "nobody looks"), (["schedule", "list"], "nobody opens")):
        ran = run(words, room.environment, room.folder)
        assert says in ran.out, ran
        assert "next: rewrap scheduler" in ran.out
