"""Making the pages part of Flower, before it starts."""

import os
from pathlib import Path

import flower
from flower import urls
from flower.views import BaseHandler
from tornado.web import StaticFileHandler, url

from ledger.requests import Action
from scheduler.pages.acting import ActionHandler, Desk, RequestHandler
from scheduler.pages.handlers import (
    BlobsPage,
    CampaignPage,
    CampaignsPage,
    Pages,
    ShardsPage,
)
from scheduler.pages.navbar import OverlayLoader
from workers import settings
from workers.composition import ledger_of

_STATIC = Path(__file__).with_name("static")
_ID = r"([1-9][0-9]{0,9})"


class UnknownFlowerError(RuntimeError):
    """Flower is built otherwise than the pages need; docs/decisions/flower-pages.md."""


def install() -> None:
    """Add the pages to Flower; a second call does nothing.

    Raises:
        ConfigError: the configuration is wrong, or names no ledger.
        UnknownFlowerError: this is not the Flower that they were made for.
    """
    _check()
    if isinstance(urls.settings.get("template_loader"), OverlayLoader):
        return
    configured = settings.load()
    pages = Pages(ledger_of(configured), configured)
    # `url` objects, not tuples: under a prefix Flower drops the arguments of tuples.
    urls.handlers[0:0] = [
        route
        for path, handler, name in (
            ("/campaigns", CampaignsPage, "campaigns"),
            (f"/campaigns/{_ID}", CampaignPage, "campaign"),
            (f"/campaigns/{_ID}/blobs", BlobsPage, "campaign-blobs"),
            (f"/campaigns/{_ID}/shards", ShardsPage, "campaign-shards"),
        )
        for route in (
            url(path, handler, {"pages": pages}, name=name),
            url(rf"{path}\.json", handler, {"pages": pages, "form": "json"}, name=f"{name}-json"),
            url(f"/api{path}", handler, {"pages": pages, "form": "api"}, name=f"api-{name}"),
        )
    ]
    urls.handlers[0:0] = [
        url(r"/campaigns/static/(.*)", StaticFileHandler, {"path": _STATIC}, "campaigns-static"),
        *_actions(Desk(pages.ledger, configured)),
    ]
    urls.settings["template_loader"] = OverlayLoader(urls.settings["template_path"])


def _actions(desk: Desk) -> list[url]:
    paths = {action: f"/api/campaigns/{_ID}/{action}" for action in Action}
    paths[Action.START] = "/api/campaigns/start"
    return [
        url(path, ActionHandler, {"desk": desk, "action": action}, name=f"api-{action}")
        for action, path in paths.items()
    ] + [
        url(
            r"/api/requests/([A-Za-z0-9._:-]{8,128})", RequestHandler, {"desk": desk}, "api-request"
        )
    ]


def _check() -> None:
    has_urls = isinstance(urls.handlers, list) and isinstance(urls.settings, dict)
    if not has_urls or not os.path.isdir(urls.settings.get("template_path", "")):  # noqa: PTH112
        raise UnknownFlowerError(f"flower.urls of Flower {flower.__version__} are not as in 2.2")
    if not all(hasattr(BaseHandler, name) for name in ("get_current_user", "check_xsrf_cookie")):
        raise UnknownFlowerError(f"the handlers of Flower {flower.__version__} are not as in 2.2")
