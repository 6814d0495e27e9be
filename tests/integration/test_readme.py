"""What the README shows is run."""

import re
import secrets
import tomllib
from pathlib import Path

import click
import pytest

from embedded import OpenBao
from keywrap.blobs import open_blobs
from keywrap.config import TABLES, KeywrapConfig
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from scheduler.commands import rewrap
from scheduler.commands.setup import TEMPLATE
from workers.settings import load

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def site(
    tmp_path: Path, openbao: OpenBao, transit_key: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The README's configuration, with this machine's store and OpenBao put in."""
    (tmp_path / "blobs").mkdir()
    token = tmp_path / "token"
    token.write_text(openbao.token)
    token.chmod(0o600)
    text = (
        block("toml")
        .replace("file:///srv/blobs", (tmp_path / "blobs").as_uri())
        .replace("https://bao.example.com:8200", openbao.address)
        .replace("/run/secrets/bao-token", str(token))
        .replace("blob-kek", transit_key)
    )
    (tmp_path / "rewrap.toml").write_text(text)
    monkeypatch.setenv("BLOB_KEY", secrets.token_hex(32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_application_example_runs(site: Path) -> None:
    exec(block("python"), {})  # noqa: S102 - our own README

    assert (site / "blobs" / "invoice-7.blob.meta").exists()


def test_the_configured_application_reads_the_first_adopters_blobs(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secrets.token_hex(32)
    monkeypatch.setenv("BLOB_KEY", key)
    content = content_format("records-v1").seal(DataKey(bytes.fromhex(key)), b"old" * 5000)
    (site / "blobs" / "old.blob").write_bytes(content)

    assert open_blobs("rewrap.toml").get("old") == b"old" * 5000


def test_every_command_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`(?:\.venv/bin/)?rewrap ([a-z-]+)", README))
    named |= set(re.findall(r"^    \.venv/bin/rewrap ([a-z-]+)", README, re.MULTILINE))

    assert {"init", "up", "start", "rotate-kek"} <= named
    assert named <= set(rewrap.list_commands(click.Context(rewrap)))


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


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
    written, shown = tomllib.loads(TEMPLATE), tomllib.loads(block("toml"))
    assert written["store"].pop("keep_previous") is True, "its default, which the README leaves out"
    assert (written["store"], written["keys"]) == (shown["store"], shown["keys"])
