"""The pages, as Flower's web server calls them. Each is also a document of JSON."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from flower.views import BaseHandler
from tornado import web

from keywrap.rewrapping import Outcome
from ledger.connection import Ledger
from ledger.states import ShardKind, ShardState
from scheduler.pages import words
from scheduler.pages.reading import Document, Reader
from scheduler.pages.source import Seen, Source
from workers.plaintext import plain
from workers.settings import Settings

_CENSUS_EVERY_S = 30.0
_CENSUS_EASE = 20.0
_MOST_ID = 2**31 - 1

_POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; form-action 'none'; "
    "base-uri 'none'; object-src 'none'"
)
"""A page loads nothing from elsewhere, runs no script but files of its own, and is in no frame."""

_Choice = TypeVar("_Choice", bound=StrEnum)


_SHARD_HEADS = (
    *("Shard", "Kind", "State", "Queue", "Decided", "Exceptions", "Attempt", "Owner"),
    *("Started", "Finished"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A page that is one table: of which campaign, its title, its heads and its rows."""

    campaign_id: int
    title: str
    heads: tuple[str, ...]
    rows: list[list[str]]


class Pages:
    """What the handlers share.

    Args:
        ledger: the ledger.
        settings: the settings.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger = ledger
        self.settings = settings
        self.reader = Reader(ledger, settings)
        self.source = Source()
        # Counting an inventory may take long: nothing else waits for it, and a page never does.
        self._censuses = Source(threads=1, fresh_s=_CENSUS_EVERY_S, ease=_CENSUS_EASE)
        self._counted: dict[int, Document] = {}

    def census(self, document: Document) -> Document:
        """Return what is known of a campaign's inventory by now; empty: nothing yet."""
        number, finished_at = document["campaign"], document["finished_at"]
        read = partial(self.reader.census, number)
        seen = self._censuses.peek((number, finished_at), read, lasts=finished_at is not None)
        if seen.value:
            self._counted[number] = seen.value
        return self._counted.get(number, {})

    def with_keys(self, document: Document) -> Document:
        """Return a campaign's document with the KEK versions that it moves from."""
        known = self.census(document).get("from_keys")
        keys = words.keys(document["kind"], document["plan_of"], document["target"], known)
        return document | {"from_keys": known, "shown": document["shown"] | {"keys": keys}}


class Page(BaseHandler):
    """What all pages have in common: sign-in, form, and what they say when the ledger is away."""

    def initialize(self, pages: Pages, form: str = "page") -> None:
        """Take what the route says: `form` is `page`, `json` (of the page) or `api`."""
        self.pages = pages
        self.form = form

    def set_default_headers(self) -> None:
        """Let nobody keep, frame or sniff it."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Referrer-Policy", "same-origin")

    def show(self, template: str, seen: Seen[Any], document: Document, **more: object) -> None:
        """Answer in the form that was asked for.

        Args:
            template: the page's template.
            seen: how the ledger answered.
            document: what it said.
            more: what only the template needs.
        """
        note = _note(seen)
        answers = {**document, "trouble": note or None, "age_s": round(seen.age_s, 1)}
        is_away = seen.value is None or (self.form == "api" and note)
        self.set_status(HTTPStatus.SERVICE_UNAVAILABLE if is_away else HTTPStatus.OK)
        if self.form != "page":
            self.finish(answers)
            return
        if seen.value is None:
            self.set_header("Refresh", "5")
        self.render(
            template,
            doc=answers,
            actions=self.pages.settings.flower.actions,
            plain=plain,
            **more,
        )

    def number_of(self, text: str) -> int:
        """Return a campaign's number, as PostgreSQL's `integer` holds it."""
        if int(text) > _MOST_ID:
            raise web.HTTPError(HTTPStatus.NOT_FOUND, "there is no such campaign")
        return int(text)

    def asked(self, name: str) -> str:
        """Return an argument as it was sent; empty where it was not."""
        # Not Tornado's own way: it puts spaces for the control characters that an id may have.
        values = self.request.query_arguments.get(name, [b""])
        try:
            return bytes(values[-1]).decode().replace("\0", "")  # which PostgreSQL's text has not
        except UnicodeDecodeError:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, f"{name}: expected UTF-8") from None

    def asked_number(self, name: str) -> int | None:
        """Return an argument that is a number.

        Raises:
            HTTPError: it is none.
        """
        text = self.asked(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit()) or int(text) > _MOST_ID:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, f"{name}: expected a number")
        return int(text)

    def asked_choice(self, name: str, choices: type[_Choice]) -> _Choice | None:
        """Return an argument that is one of some words.

        Raises:
            HTTPError: it is none of them.
        """
        text = self.asked(name)
        if not text:
            return None
        try:
            return choices(text)
        except ValueError:
            expected = ", ".join(choices)
            raise web.HTTPError(
                HTTPStatus.BAD_REQUEST, f"{name}: expected one of {expected}"
            ) from None


def _note(seen: Seen[Any]) -> str:
    if not seen.trouble:
        return ""
    if seen.value is None:
        return f"{seen.trouble}."
    return f"{seen.trouble}. This is from {words.duration(seen.age_s)} ago."


class CampaignsPage(Page):
    """Every campaign."""

    @web.authenticated
    async def get(self) -> None:
        """Show them."""
        before = self.asked_number("before")
        reader = self.pages.reader
        seen = await self.pages.source.get(("campaigns", before), partial(reader.campaigns, before))
        document = seen.value or {"campaigns": [], "older": None, "tables": {"requests": []}}
        rows = [self.pages.with_keys(row) for row in document["campaigns"]]
        shown = words.totals(rows)
        self.show("rewrap_campaigns.html", seen, {**document, "campaigns": rows, "shown": shown})


class CampaignPage(Page):
    """One campaign."""

    @web.authenticated
    async def get(self, number: str) -> None:
        """Show it."""
        campaign_id = self.number_of(number)
        seen = await self.pages.source.get(
            ("campaign", campaign_id), partial(self.pages.reader.campaign, campaign_id)
        )
        if seen.value is None:
            _refuse_unknown(seen)
            table = Table(campaign_id, f"Campaign {campaign_id}", (), [])
            self.show("rewrap_rows.html", seen, {}, table=table)
            return
        document = self.pages.with_keys(seen.value)
        census = self.pages.census(document)
        document["census"] = census.get("lines")
        document["tables"] = document["tables"] | {"census": census.get("table", [])}
        self.show("rewrap_campaign.html", seen, document)


class BlobsPage(Page):
    """The blobs of a campaign behind a count."""

    @web.authenticated
    async def get(self, number: str) -> None:
        """Show a page of them."""
        campaign_id = self.number_of(number)
        outcome = self.asked_choice("outcome", Outcome) or Outcome.QUARANTINED
        reason = self.asked("reason") if "reason" in self.request.query_arguments else None
        question = (campaign_id, outcome, reason, self.asked("after"))
        seen = await self.pages.source.get(
            ("blobs", *question), partial(self.pages.reader.blobs, *question)
        )
        _refuse_unknown(seen)
        document = seen.value or {"blobs": [], "next": None, "dropped": False}
        why = f": {reason}" if reason else ""
        self.show(
            "rewrap_rows.html",
            seen,
            document,
            table=Table(
                campaign_id,
                f"Campaign {campaign_id}: {outcome}{why}",
                ("Blob", "Outcome", "Reason", "Detail"),
                words.blob_rows(document),
            ),
        )


class ShardsPage(Page):
    """The shards of a campaign."""

    @web.authenticated
    async def get(self, number: str) -> None:
        """Show a page of them."""
        campaign_id = self.number_of(number)
        kind = self.asked_choice("kind", ShardKind)
        state = self.asked_choice("state", ShardState)
        question = (campaign_id, kind, state, self.asked_number("after") or 0)
        seen = await self.pages.source.get(
            ("shards", *question), partial(self.pages.reader.shards, *question)
        )
        _refuse_unknown(seen)
        document = seen.value or {"shards": [], "next": None}
        of = " ".join(word for word in (state, kind) if word)
        self.show(
            "rewrap_rows.html",
            seen,
            document,
            table=Table(
                campaign_id,
                f"Campaign {campaign_id}: {of} shards",
                _SHARD_HEADS,
                words.shard_rows(document),
            ),
        )


def _refuse_unknown(seen: Seen[Any]) -> None:
    if seen.value is None and not seen.trouble:
        raise web.HTTPError(HTTPStatus.NOT_FOUND, "there is no such campaign")
