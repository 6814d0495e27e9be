"""Our templates beside Flower's, and one more tab in its navigation bar."""

import logging
from pathlib import Path

from tornado.template import Loader, Template

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).with_name("templates")

_AFTER = '<ul class="app-nav app-nav-secondary navbar-nav ms-lg-auto">'
"""What follows the list of tabs in Flower 2.2."""

_TAB = """\
        <li class="nav-item">
          <a class="nav-link{% if active_tab == 'campaigns' %} active{% end %}"
            href="{{ reverse_url('campaigns') }}"
            {% if active_tab == 'campaigns' %}aria-current="page"{% end %}>Campaigns</a>
        </li>
"""


class OverlayLoader(Loader):
    """Finds our templates, then those of its folder, Flower's, and adds the tab to its bar."""

    def _create_template(self, name: str) -> Template:
        ours = TEMPLATES / name
        file = ours if ours.is_file() else Path(self.root) / name
        text = file.read_text(encoding="utf-8")
        if name == "navbar.html":
            text = with_tab(text)
        return Template(text, name=name, loader=self)


def with_tab(bar: str) -> str:
    """Return Flower's navigation bar with our tab, or as it is where it is built otherwise."""
    head, found, tail = bar.partition(_AFTER)
    end = head.rfind("</ul>")
    if not found or end < 0:
        text = "Flower's bar is built otherwise: no Campaigns tab, the page is /campaigns"
        logger.error(text, extra={"event": "campaigns_tab_missing"})
        return bar
    return f"{head[:end]}{_TAB}      {head[end:]}{found}{tail}"
