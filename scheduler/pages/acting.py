"""Asking for something from Flower: endpoints of our own, which only write a request down."""

import asyncio
import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from flower.views import BaseHandler
from tornado import web

from ledger import requests
from ledger.connection import Ledger, LedgerNotReadyError, LedgerUnavailableError
from ledger.requests import Action, Asked, KeyUsedError, TooManyRequestsError, Verdict
from scheduler.pages.source import AWAY
from scheduler.starts import Start
from workers.plaintext import plain
from workers.settings import Settings

_T = TypeVar("_T")

_KEY = re.compile(r"[A-Za-z0-9._:-]{8,128}")
_MOST_BYTES = 16_384
_MOST_NAME = 200
_STATEMENT_S = 2.0
_WAIT_S = 5.0
"""So long an answer is waited for; whoever asks again with the same key waits on."""

_LOOK_EVERY_S = 0.2


class Desk:
    """What the handlers share: the ledger, beside the event loop.

    Args:
        ledger: the ledger.
        settings: the settings.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="requests")
        self.is_open = settings.flower.actions

    async def file(self, asked: Asked) -> Asked:
        """Write a request down, once; see `ledger.requests.file`."""
        return await self._beside(partial(self._file, asked))

    async def get(self, key: str) -> Asked | None:
        """Return a request, or None where there is none of that key."""
        return await self._beside(partial(self._get, key))

    async def _beside(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _file(self, asked: Asked) -> Asked:
        with self._ledger.begin() as connection:
            return requests.file(connection, asked)

    def _get(self, key: str) -> Asked | None:
        with self._ledger.reading(_STATEMENT_S) as connection:
            return requests.get(connection, key)


class Asking(BaseHandler):
    """What the endpoints have in common: who asks, and whether they may."""

    def initialize(self, desk: Desk, action: Action | None = None) -> None:
        """Take what the route says: which action it asks for."""
        self.desk = desk
        self.action = action

    def set_default_headers(self) -> None:
        """Let nobody keep an answer."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    def options(self, *_: str, **__: str) -> None:
        """Allow no page of another origin anything."""
        self.set_status(HTTPStatus.FORBIDDEN)

    def refuse(self, status: HTTPStatus, reason_code: str, reason: str, step: str = "") -> None:
        """Answer with a refusal, in the words of the command line."""
        self.set_status(status)
        self.finish({"reason_code": reason_code, "reason": reason, "next_command": step or None})

    def person(self) -> str:
        """Return who has signed in: their e-mail under OAuth, else the name they signed in with.

        Raises:
            HTTPError: nobody has, whatever Flower was told to allow.
        """
        options = self.application.options
        name = ""
        if options.auth:
            name = str(self.current_user or "")
        elif options.basic_auth:
            name = _user(self.request.headers.get("Authorization", ""))
        if not name:
            raise web.HTTPError(HTTPStatus.FORBIDDEN, "nobody has signed in")
        return plain(name)[:_MOST_NAME]

    def refused_site(self) -> bool:
        """Refuse what a page of another site sends, whatever Flower makes of it; say whether so.

        By the Fetch Metadata of browsers (W3C), and by `Origin` where there is none. A form cannot
        send JSON, nor a header of its own, so that an old browser asks first, in vain.
        """
        headers = self.request.headers
        if _is_elsewhere(headers, self.request.host):
            why = "it comes from a page of another site; nothing was changed"
            self.refuse(HTTPStatus.FORBIDDEN, "cross_site", why)
            return True
        if headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            why = "send Content-Type: application/json"
            self.refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json", why)
            return True
        return False

    def refused_closed(self) -> bool:
        """Refuse everything where the configuration allows nothing; say whether so."""
        if self.desk.is_open:
            return False
        self.refuse(
            HTTPStatus.FORBIDDEN,
            "actions_off",
            "[flower] actions = false: campaigns are looked at here, and asked for at the desk",
            "rewrap --help",
        )
        return True

    async def answer(self, asked: Asked) -> None:
        """Answer with what became of a request, if that is known soon."""
        waited_s = 0.0
        while asked.verdict is None and waited_s < _WAIT_S:
            await asyncio.sleep(_LOOK_EVERY_S)
            waited_s += _LOOK_EVERY_S
            asked = await self.desk.get(asked.key) or asked
        self.say(asked)

    def say(self, asked: Asked) -> None:
        """Answer with a request as it stands in the ledger."""
        self.set_status(_STATUS[asked.verdict])
        self.finish(document(asked))


_STATUS = {
    None: HTTPStatus.ACCEPTED,
    Verdict.DONE: HTTPStatus.OK,
    Verdict.REFUSED: HTTPStatus.CONFLICT,
}


def document(asked: Asked) -> dict[str, Any]:
    """Return a request as a document of JSON."""
    at = {name: getattr(asked, name) for name in ("created_at", "answered_at")}
    said = {name: when.isoformat(timespec="seconds") if when else None for name, when in at.items()}
    known: dict[str, Any] = asdict(asked)
    known.pop("details")
    known["campaign"] = known.pop("campaign_id")
    return known | said | {"verdict": asked.verdict or "waiting"}


class RequestHandler(Asking):
    """What became of a request."""

    @web.authenticated
    async def get(self, key: str) -> None:
        """Say it."""
        try:
            asked = await self.desk.get(key)
        except (LedgerUnavailableError, LedgerNotReadyError):
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "ledger_unavailable", f"{AWAY}.")
            return
        if asked is None:
            self.refuse(HTTPStatus.NOT_FOUND, "no_such_request", "there is no such request")
            return
        self.say(asked)


class ActionHandler(Asking):
    """Asks for something: `start`, or `pause`, `resume` or `cancel` of one campaign."""

    @web.authenticated
    async def post(self, number: str = "") -> None:
        """Write the request down, and wait a moment for what becomes of it."""
        name = self.person()
        if self.refused_site() or self.refused_closed():
            return
        asked = self._asked(name, number)
        if asked is None:
            return
        try:
            await self.answer(await self.desk.file(asked))
        except KeyUsedError:
            why = "another request has this key already; nothing was changed"
            self.refuse(HTTPStatus.UNPROCESSABLE_ENTITY, "request_key_used", why)
        except TooManyRequestsError:
            why = "too many requests wait for a scheduler; nothing was changed"
            step = "rewrap scheduler"
            self.refuse(HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests", why, step)
        except (LedgerUnavailableError, LedgerNotReadyError):
            why = f"{AWAY}: ask again with the same key"
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "ledger_unavailable", why)

    def _asked(self, name: str, number: str) -> Asked | None:
        """Return the request as it is to be written; None: it was refused."""
        assert self.action is not None  # noqa: S101 - its route says it
        key = self.request.headers.get("Idempotency-Key", "")
        if not _KEY.fullmatch(key):
            why = "send Idempotency-Key: 8 to 128 letters, digits or ._:-, new for each request"
            self.refuse(HTTPStatus.BAD_REQUEST, "request_key_wanted", why)
            return None
        if len(self.request.body) > _MOST_BYTES:
            why = f"expected at most {_MOST_BYTES} bytes"
            self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_long", why)
            return None
        by = f"flower: {name}"
        try:
            if self.action is Action.START:
                start = _START.decode(self.request.body)
                return Asked(key, self.action, None, start.text(), by)
            _NOTHING.decode(self.request.body or b"{}")
        except (msgspec.MsgspecError, UnicodeError) as error:
            self.refuse(HTTPStatus.BAD_REQUEST, "usage", str(error), "rewrap start --help")
            return None
        return Asked(key, self.action, min(int(number), 2**31 - 1), "", by)


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A body without anything in it."""


_START = msgspec.json.Decoder(Start)
_NOTHING = msgspec.json.Decoder(_Nothing)


def _is_elsewhere(headers: Mapping[str, str], host: str) -> bool:
    if site := headers.get("Sec-Fetch-Site"):
        return site != "same-origin"
    origin = headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != host


def _user(authorization: str) -> str:
    """Return the user of HTTP's basic authentication (RFC 7617); Flower has checked it."""
    scheme, _, credentials = authorization.partition(" ")
    try:
        user, found, _ = b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return user if found and scheme == "Basic" else ""
