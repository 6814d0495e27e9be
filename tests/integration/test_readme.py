"""What README and docs link to and configure is there."""

import re
import tomllib
from pathlib import Path

import pytest

from keywrap.config import TABLES, KeywrapConfig
from scheduler.commands.setup import TEMPLATE
from tests.documents import fences
from workers.settings import load

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", text):
        file = page.parent / target
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


EXAMPLES = [
    pytest.param(example, id=f"{page}-{number}")
    for page in ("keys", "stores", "pkcs11")
    for number, example in enumerate(
        re.findall(
            r"```toml\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.DOTALL
        )
    )
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_table_that_the_pages_show_is_one_that_loads(example: str) -> None:
    table = {name: value for name, value in tomllib.loads(example).items() if name in TABLES}
    KeywrapConfig.from_table({"store": {"url": "file:///srv/blobs"}} | table)


def test_the_configuration_that_init_writes_is_one_that_loads(tmp_path: Path) -> None:
    file = tmp_path / "rewrap.toml"
    file.write_text(TEMPLATE)

    settings = load(str(file), {})

    assert settings.keywrap.store.blob_suffix == ".blob"
    written, shown = tomllib.loads(TEMPLATE), tomllib.loads(dict(fences("README.md"))["toml"])
    assert written["store"].pop("keep_previous") is True, "its default, which the README leaves out"
    assert (written["store"], written["keys"]) == (shown["store"], shown["keys"])
