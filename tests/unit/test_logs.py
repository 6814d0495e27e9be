import ast
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from celery.signals import task_postrun, task_prerun
from structlog.contextvars import bound_contextvars, clear_contextvars, get_contextvars

from workers import app, logs
from workers.settings import Settings, load

ROOT = Path(__file__).parent.parent.parent
CANARY = "canary-5d1b9be0a7f14c0e"
CONFIG = """
[store]
url = "file:///nowhere"
[keys.env.BLOB_KEY]
encoding = "raw"
scheme = "direct"
[keys.vault."transit/blob-kek"]
address = "http://127.0.0.1:1"
token_env = "BAO_TOKEN"
"""
FORGED = 'x\n{"level": "critical", "message": "forged"}\r\x1b[2J\u2028\u202e'


@pytest.fixture(autouse=True)
def _nothing_bound() -> None:
    clear_contextvars()  # a task of another test, which Celery's signals did not end


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


def settings_of(folder: Path, more: str = "", **environ: str) -> Settings:
    (folder / "rewrap.toml").write_text(CONFIG + more)
    return load(str(folder / "rewrap.toml"), environ)


def line_of(
    message: str, *args: object, as_json: bool = True, secrets: tuple[str, ...] = (), **made: object
) -> str:
    record = logging.LogRecord("tasks.leases", logging.WARNING, "f", 1, message, args, None)
    for name, value in made.items():
        setattr(record, name, value)
    return logs.formatter("worker", frozenset(secrets), as_json=as_json).format(record)


def raised(text: str) -> object:
    held = "it is held in a variable"

    def fail() -> None:
        raise ValueError(text)

    try:
        fail()
    except ValueError:
        assert held
        return sys.exc_info()
    raise AssertionError


def test_a_line_has_the_ids_that_are_bound_and_the_name_of_its_event() -> None:
    with bound_contextvars(campaign=3, shard=12, task="0c5f"):
        line = json.loads(line_of("lease of shard %d lost", 12, event="lease_lost"))
    at = line.pop("at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", at)
    assert line.pop("pid") > 0
    assert line == {
        "level": "warning",
        "service": "worker",
        "logger": "tasks.leases",
        "event": "lease_lost",
        "message": "lease of shard 12 lost",
        "campaign": 3,
        "shard": 12,
        "task": "0c5f",
    }
    assert "campaign" not in json.loads(line_of("no campaign any more"))


def test_nothing_that_a_library_hangs_on_a_record_is_logged_but_the_id_of_the_task() -> None:
    record = logging.LogRecord(
        "celery.app.trace", logging.INFO, "f", 1, "Task %(name)s[%(id)s] succeeded",
        ({"name": "rewrap.rewrap_shard", "id": "0c5f", "args": CANARY, "kwargs": CANARY},), None,
    )  # fmt: skip
    record.data = {"id": "0c5f", "args": CANARY, "return_value": CANARY}
    text = logs.formatter("worker", frozenset(), as_json=True).format(record)
    assert CANARY not in text
    assert json.loads(text)["task"] == "0c5f"
    assert json.loads(text)["event"] == "task_succeeded"


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_logged_cannot_forge_a_line(*, as_json: bool) -> None:
    with bound_contextvars(task=FORGED):
        text = line_of("blob %s", FORGED, as_json=as_json, exc_info=raised(FORGED), event="e")
    lines = text.splitlines()
    assert all(c.isprintable() for line in lines for c in line)
    assert all(line.startswith("    ") for line in lines[1:])
    assert len(lines) == 1 or not as_json
    if as_json:
        found = json.loads(text)
        assert found["message"] == f"blob {FORGED}"
        assert found["level"] == "warning"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_variable_and_no_secret_of_the_environment(
    tmp_path: Path, *, as_json: bool
) -> None:
    urls = {
        "REWRAP_LEDGER_URL": f"postgresql://rewrap:{CANARY}@db/rewrap",
        "REWRAP_BROKER_URL": "redis://:pass%20word-of-redis@valkey/0",
    }
    environ = urls | {
        "BAO_TOKEN": "token-of-openbao",
        "BLOB_KEY": "key-of-the-blobs",
        "REWRAP_FLOWER_BASIC_AUTH": "operator:sign-in-of-flower",
        "AWS_SECRET_ACCESS_KEY": "key-of-an-account",
    }
    secrets = logs.known_secrets(settings_of(tmp_path, **urls), environ)
    leaks = (CANARY, "pass%20word-of-redis", "pass word-of-redis", "token-of-openbao")
    leaks += ("key-of-the-blobs", "sign-in-of-flower", "key-of-an-account")
    text = line_of(
        " ".join(leaks), as_json=as_json, secrets=tuple(secrets), exc_info=raised(str(leaks))
    )
    for leak in leaks:
        assert leak not in text
    assert "ValueError" in text
    assert "held in a variable" not in text


def test_what_a_task_logs_has_its_id_until_it_ends() -> None:
    bound_contextvars(campaign=1).__enter__()  # of a task that ended oddly
    assert app.app  # its signals are connected
    task_prerun.send(sender=None, task_id="0c5f")
    assert get_contextvars() == {"task": "0c5f"}
    task_postrun.send(sender=None, task_id="0c5f")
    assert get_contextvars() == {}


def test_a_warning_that_shows_the_url_of_a_webhook_is_not_logged(tmp_path: Path) -> None:
    settings_of(tmp_path)
    # In a process of its own: it is set up for as long as one lives.
    script = f"""
import logging
from workers import logs
from workers.settings import load
logs.configure(load({str(tmp_path / "rewrap.toml")!r}, {{}}), {{}}, "scheduler")
logging.getLogger("urllib3.connection").warning("Failed to parse headers (url={CANARY})")
logging.getLogger("other").warning("said")
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "said" in ran.stderr
    assert CANARY not in ran.stderr


def test_a_short_value_is_not_blanked_out_of_honest_text(settings: Settings) -> None:
    assert logs.known_secrets(settings, {"BAO_TOKEN": "root"}) == frozenset()


def test_a_message_is_bounded() -> None:
    line = line_of("%s", "x" * 1_000_000)
    assert len(line) < 20_000
    assert "984000 characters left out" in json.loads(line)["message"]


@pytest.mark.parametrize(
    ("more", "variable", "on_terminal", "elsewhere"),
    [
        ("", {}, False, True),
        ('[log]\nformat = "text"', {}, False, False),
        ('[log]\nformat = "json"', {}, True, True),
        ('[log]\nformat = "json"', {"REWRAP_LOG_FORMAT": "text"}, False, False),
    ],
)
def test_lines_are_text_on_a_terminal_and_json_elsewhere_unless_it_is_said(
    tmp_path: Path, more: str, variable: dict[str, str], *, on_terminal: bool, elsewhere: bool
) -> None:
    log = settings_of(tmp_path, more, **variable).log
    for is_terminal, expected in ((True, on_terminal), (False, elsewhere)):
        stream = type("Stream", (), {"isatty": lambda _, is_terminal=is_terminal: is_terminal})()
        assert logs.is_json(log, stream) is expected


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the rooms that writes to a log."""
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno}", node)
        for room in ("ledger", "tasks", "workers", "scheduler", "embedded")
        for file in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and is_logging(node.func)
    ]


def is_logging(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and called.attr in {"debug", "info", "warning", "error", "exception", "critical"}
        and isinstance(called.value, ast.Name)
        and called.value.id in {"logger", "_log"}
    )


def test_every_line_of_ours_has_an_event_that_the_docs_list() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs/logs.md").read_text()))
    assert len(calls()) > 20
    for place, call in calls():
        extra = {key.arg: key.value for key in call.keywords}.get("extra")
        assert isinstance(extra, ast.Dict), f"{place} has no event"
        for name in extra.values:
            if isinstance(name, ast.Constant):
                assert name.value in documented, f"{place}: {name.value}"
