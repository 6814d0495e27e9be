"""The Campaigns pages in a real browser, on a real node: watched, and acted from.

Chromium is Debian's (`apt-get install chromium`), or the program that `REWRAP_CHROMIUM` names.
With `REWRAP_SCREENSHOTS=docs/images` the pictures of the documentation are taken anew.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import Node, until
from tests.roads import Road
from tests.sites import Site

playwright = pytest.importorskip("playwright.sync_api", reason="NO BROWSER TEST: no playwright")

CHROMIUM = os.environ.get("REWRAP_CHROMIUM") or shutil.which("chromium") or ""
SCREENSHOTS = os.environ.get("REWRAP_SCREENSHOTS", "")
PREFIX = "keys/flower"
HOSTILE = '"><img src=x onerror=document.title=1>'

pytestmark = [
    pytest.mark.skipif(
        not CHROMIUM,
        reason="NO BROWSER TEST: no chromium; apt-get install chromium, or set REWRAP_CHROMIUM",
    ),
    pytest.mark.timeout(600),
]


@dataclass
class Window:
    """A browser's window, and what went wrong in it."""

    page: Any
    base: str
    wrong: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._response)

    def _failed(self, request: Any) -> None:
        # Whoever leaves a page gives up what it has not loaded yet.
        if "ERR_ABORTED" not in str(request.failure):
            self.wrong.append(f"failed {request.url} {request.failure}")

    def _console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.wrong.append(f"console {message.text}")

    def _response(self, response: Any) -> None:
        if response.status >= 400 or not response.url.startswith(self.base):
            self.wrong.append(f"{response.status} {response.url}")

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)
        self.live()

    def live(self) -> None:
        playwright.expect(self.page.locator("#rewrap-live")).to_have_text("Live", timeout=15_000)

    @property
    def theme(self) -> str:
        return str(self.page.evaluate("document.documentElement.dataset.bsTheme"))

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.wait_for_timeout(800)  # bars glide
            self.page.screenshot(path=Path(SCREENSHOTS) / name, full_page=True)

    def expect(self, selector: str) -> Any:
        return playwright.expect(self.page.locator(selector))


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site], road: Road, openbao: Any) -> Iterator[Node]:
    """A node of its own, with Flower under a prefix and its actions on."""
    site = new_site(
        "browser", address=road.address, batch=10, token='token_file = "/dev/null"', has_flower=True
    )
    token = site.directory / "token"
    token.write_text(openbao.token)
    config = site.config.read_text().replace('"/dev/null"', f'"{token}"')
    config = config.replace("[flower]\n", f'[flower]\nurl_prefix = "{PREFIX}"\nactions = true\n')
    config += f'\n[pace.keys."hcvault://transit/{site.kek}"]\nrequests_per_s = 400\n'
    site.config.write_text(config)
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def window(browser: Any, node: Node, road: Road) -> Iterator[Window]:
    """A window in which someone has signed in."""
    name, _, password = (node.site.state / "flower-sign-in").read_text().partition(":")
    base = f"http://127.0.0.1:{node.site.flower_port}"
    context = browser.new_context(
        http_credentials={"username": name, "password": password, "origin": base},
        color_scheme="light",
        viewport={"width": 1360, "height": 900},
    )
    window = Window(context.new_page(), f"{base}/{PREFIX}")
    window.listen()
    yield window
    road.delay_s = 0.0
    context.close()
    assert window.wrong == []


def test_an_operator_watches_a_campaign_opens_its_failures_pauses_and_resumes_it(
    node: Node, window: Window, road: Road
) -> None:
    page = window.page
    node.site.make(400, "w/")
    spoil(node.site, "w")
    road.delay_s = 0.3
    campaign = node.site.campaign("migrate", "--prefix", "w/")
    row = f'tr[data-campaign="{campaign}"]'
    window.open("/campaigns")
    assert window.theme == "light"
    window.expect(f"{row} [data-f=state]").to_have_text("running", timeout=60_000)
    first = watch(window, row)
    window.expect(f"{row} [data-f=pace]").to_contain_text(" of 400 requests/s")
    window.picture("flower-campaigns.png")
    page.click(f"{row} [data-link]")
    window.live()
    assert bar(window, "#rewrap-page") >= first
    fails = page.locator('[data-table="failures"] a')
    playwright.expect(fails.first).to_be_visible(timeout=60_000)
    page.click("[data-action=pause]")
    window.expect("#rewrap-answer").to_contain_text("Done: campaign", timeout=15_000)
    window.expect("h1 [data-f=state]").to_have_text("paused", timeout=30_000)
    window.expect("[data-f=next]").to_have_text(f"rewrap resume {campaign}")
    window.expect('[data-table="requests"] tr').to_have_count(1)
    assert node.document(campaign)["state"] == "paused"
    fails.first.click()
    window.expect("#rewrap-rows").to_contain_text(HOSTILE)
    assert "Flower" in page.title(), "what a blob is called was run"
    assert page.locator("#rewrap-rows img").count() == 0
    page.go_back()
    window.live()
    page.click("[data-action=resume]")
    road.delay_s = 0.0
    window.expect("h1 [data-f=state]").to_have_text("complete with exceptions", timeout=90_000)
    window.expect("[data-f=percent]").to_have_text("100.0%")
    window.expect("[data-f=next]").to_have_text(f"rewrap blobs {campaign} --outcome quarantined")
    window.expect("[data-action=pause]").to_be_hidden()
    assert page.locator('[data-table="census"] tr').count() >= 3
    page.emulate_media(color_scheme="dark")
    for path in ("/campaigns", f"/campaigns/{campaign}"):
        window.open(path)
        assert window.theme == "dark"
    window.expect("svg.rewrap-plot polyline").to_be_visible()
    window.picture("flower-campaign-dark.png")


def watch(window: Window, row: str) -> float:
    """Watch a bar until it has moved twice; return how long it is."""
    lengths = [bar(window, row)]

    def moved() -> bool:
        lengths.append(bar(window, row))
        return 0 < lengths[0] < lengths[-1] < 100 or (lengths[0] == 0 and bool(lengths.pop(0)))

    window.page.wait_for_timeout(100)
    until(lambda: window.page.wait_for_timeout(250) or moved(), "the bar moves", 60)
    return lengths[-1]


def bar(window: Window, scope: str) -> float:
    """Return the length of a campaign's bar, in percent."""
    text: str = window.page.locator(f"{scope} [data-bar=done]").first.evaluate("e => e.style.width")
    return float(text.removesuffix("%") or 0)


def spoil(site: Site, folder: str) -> None:
    """Add blobs that cannot be opened, with hostile names."""
    for number in range(3):
        name = f"{HOSTILE}{number}"
        (site.store / folder / f"{name}.blob").write_bytes(b"x" * 100)
        (site.store / folder / f"{name}.blob.meta").write_text("{")


def test_a_start_that_is_refused_says_why_and_one_that_is_not_runs(
    node: Node, window: Window
) -> None:
    page = window.page
    node.site.make(20, "s/")
    window.open("/campaigns")
    page.fill("[name=to]", "aws-kms://arn:nobody")
    page.click("#rewrap-start button")
    window.expect("#rewrap-answer").to_contain_text("Refused: ", timeout=15_000)
    window.wrong = [w for w in window.wrong if "/api/campaigns/start" not in w and "409" not in w]
    page.fill("[name=to]", "")
    page.fill("[name=prefix]", "s/")
    page.select_option("[name=kind]", "migrate")
    page.click("#rewrap-start button")
    window.expect("#rewrap-answer").to_contain_text("Done: campaign", timeout=15_000)
    campaign = int(page.inner_text("#rewrap-answer").split()[2])
    node.reach(campaign, "complete")
    row = f'tr[data-campaign="{campaign}"]'
    window.expect(f"{row} [data-f=state]").to_have_text("complete", timeout=10_000)
    asked = node.site.ask("status", str(campaign))
    assert asked["counts"]["rewrapped"] == 20
