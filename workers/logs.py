"""How every process logs: one line an event, as text for people or as JSON for machines.

Loggers are the standard library's, so the lines of Celery, Flower and other libraries come the same
way; `structlog` binds ids to what is logged meanwhile, in whichever room. docs/logs.md lists the
fields and the names of events.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

import structlog
from structlog.typing import EventDict

from workers import secretvariables
from workers.log_table import Log
from workers.plaintext import plain
from workers.settings import Settings

logger = logging.getLogger(__name__)

_BOUND = ("campaign", "shard", "task")
_MOST_CHARS = 16_000
"""Of a message or a traceback: another program may have made it as long as it liked."""

_MIN_SECRET = 8
"""Shorter values stand in honest text too."""

_TASK_LINES = {"celery.worker.strategy": "task_received", "celery.app.trace": "task_succeeded"}

_logs_json = False


def configure(settings: Settings, environ: Mapping[str, str], service: str) -> None:
    """Let this process log to standard error; whatever was set up before is put aside.

    Args:
        settings: the settings; the passwords in them are kept out of the log.
        environ: the environment; likewise the keys and tokens in it.
        service: what the process is: `scheduler`, `worker`, `flower` or `up`.
    """
    global _logs_json
    _logs_json = is_json(settings.log)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(service, known_secrets(settings, environ), as_json=_logs_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log.level.upper())
    # Its warnings show the URL that was asked, and so a webhook's secret one.
    logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_died


def logs_json() -> bool:
    """Whether all that this process writes to standard error is JSON, its last words too."""
    return _logs_json


def is_json(log: Log, stream: TextIO = sys.stderr) -> bool:
    """Whether lines are JSON, by the settings and by where they go."""
    return not stream.isatty() if log.format == "auto" else log.format == "json"


def formatter(service: str, secrets: frozenset[str], *, as_json: bool) -> logging.Formatter:
    """Make what turns a record into a line.

    Args:
        service: what the process is.
        secrets: texts that never stand in a line.
        as_json: whether lines are JSON.
    """

    def fields(_logger: Any, _method: str, found: EventDict) -> EventDict:  # noqa: ANN401
        return _fields(service, secrets, found)

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars],
        processors=[fields, _as_json if as_json else _as_text],
    )


def known_secrets(settings: Settings, environ: Mapping[str, str]) -> frozenset[str]:
    """Return the secrets that this process was given in its environment or URLs.

    Nothing logs one on purpose. This holds where a library or a stack of them does by mistake.
    """
    names = secretvariables.names(settings) | secretvariables.of_stores(settings)
    names |= secretvariables.of_webhooks(settings) | secretvariables.OF_LIBRARIES
    found = {environ.get(name, "") for name in names}
    for url in (settings.ledger.url, settings.broker.url):
        password = _password(url)
        found |= {password, unquote(password)}
    found.add(environ.get("REWRAP_FLOWER_BASIC_AUTH", "").partition(":")[2])
    found.add(environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").partition("=")[2])
    return frozenset(secret for secret in found if len(secret) >= _MIN_SECRET)


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def _fields(service: str, secrets: frozenset[str], found: EventDict) -> EventDict:
    """Pick what is logged: nothing that a library hangs on its records beside its message."""
    record: logging.LogRecord = found["_record"]
    data = getattr(record, "data", None)
    task = data.get("id") if isinstance(data, dict) and record.name in _TASK_LINES else None
    bound = {name: found[name] for name in _BOUND if name in found}
    line = {
        "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "service": service,
        "pid": record.process,
        "logger": record.name,
        "event": _event(record),
        "message": _bounded(str(found["event"])),
        **({"task": str(task)} if task else {}),
        **bound,
        "exception": _exception(found.get("exc_info")),
    }
    return {
        name: _without(secrets, value) if isinstance(value, str) else value
        for name, value in line.items()
        if value is not None
    }


def _event(record: logging.LogRecord) -> str | None:
    named: str | None = getattr(record, "event", None) or _TASK_LINES.get(record.name)
    if record.name in _TASK_LINES and record.levelno > logging.INFO:
        return "task_failed"
    return named


def _exception(raised: Any) -> str | None:  # noqa: ANN401 - as `sys.exc_info` has it
    if not raised:
        return None
    # No values of variables: a data key may be one.
    return _bounded(logging.Formatter().formatException(raised))


def _bounded(text: str) -> str:
    left_out = len(text) - _MOST_CHARS
    return text if left_out <= 0 else f"{text[:_MOST_CHARS]}… ({left_out} characters left out)"


def _without(secrets: frozenset[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _as_json(_logger: Any, _method: str, line: EventDict) -> str:  # noqa: ANN401
    return json.dumps(line, default=str)


def _as_text(_logger: Any, _method: str, line: EventDict) -> str:  # noqa: ANN401
    ids = "".join(f" {name}={plain(str(line[name]))}" for name in _BOUND if name in line)
    head = f"{line['at']} {line['level'].upper()} {line['service']}/{line['pid']}{ids}"
    # What goes on over lines is indented: no line of it can be taken for one of ours.
    rest = "".join(f"\n    {plain(text)}" for text in line.get("exception", "").splitlines())
    return f"{head} {plain(line['message'])}{rest}"


def _crashed(kind: Any, error: Any, trace: Any) -> None:  # noqa: ANN401 - as Python calls it
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("crashed", exc_info=(kind, error, trace), extra={"event": "crashed"})


def _thread_died(died: threading.ExceptHookArgs) -> None:
    name = died.thread.name if died.thread else "?"
    trace: Any = (died.exc_type, died.exc_value, died.exc_traceback)
    logger.critical("thread %s died", name, exc_info=trace, extra={"event": "thread_died"})
