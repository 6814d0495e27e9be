"""The Campaigns pages of a real Flower, on a real ledger."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from keywrap.rewrapping import Outcome
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests.desks import Desk, desk_of
from tests.flowers import CANARY, Flower, until_document

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}{% raw x %}",
    "a\u202egpj.exe",
    "line\nbreak\x01",
    "javascript:alert(1)",
)


@pytest.fixture(scope="module")
def desk(shared_ledger: Ledger) -> Desk:
    return desk_of(shared_ledger)


@pytest.fixture(scope="module")
def flower(
    tmp_path_factory: pytest.TempPathFactory, shared_ledger_url: str, redis_server: Any
) -> Iterator[Flower]:
    folder = tmp_path_factory.mktemp("flower")
    with Flower(folder, shared_ledger_url, redis_server.url).running() as flower:
        yield flower


@pytest.fixture(scope="module")
def hostile(desk: Desk) -> int:
    """A finished campaign whose blobs have hostile names."""
    campaign = desk.campaign(Kind.MIGRATE, prefix="h/")
    shard = desk.shard(campaign, blob_ids=[f"h/{name}" for name in HOSTILE])
    desk.force(campaign, State.RUNNING)
    desk.record(shard, **{f"h/{name}": Outcome.QUARANTINED for name in HOSTILE})
    desk.force(campaign, State.COMPLETE_WITH_EXCEPTIONS)
    return campaign


def shown_in_list(flower: Flower, campaign: int) -> Any:
    """Return a campaign's row as soon as the list has it: what was read is good for a second."""

    def found(document: Any) -> list[Any]:
        return [row for row in document["campaigns"] if row["campaign"] == campaign]

    return found(until_document(flower, "/api/campaigns", found))[0]


def test_the_tab_is_on_every_page_of_flower(flower: Flower) -> None:
    for page in ("/", "/workers", "/tasks", "/broker", "/campaigns"):
        assert '<a class="nav-link' in flower.get(page).text
        assert 'href="/campaigns"' in flower.get(page).text, page


def test_nothing_is_shown_without_the_sign_in(flower: Flower, hostile: int) -> None:
    paths = ["/campaigns", f"/campaigns/{hostile}", f"/campaigns/{hostile}/blobs"]
    paths += [f"/campaigns/{hostile}/shards"]
    for path in [*paths, *(f"{p}.json" for p in paths), *(f"/api{p}" for p in paths)]:
        for auth in (None, ("ann", "wrong")):
            answer = requests.get(flower.origin + path, auth=auth, timeout=10)
            assert answer.status_code == 401, path
            assert "quarantined" not in answer.text
        assert flower.get(path).status_code == 200, path


def test_a_page_and_its_document_say_what_status_says(flower: Flower, hostile: int) -> None:
    document = until_document(flower, f"/campaigns/{hostile}.json", lambda d: d["tables"]["census"])
    counts = document["counts"]
    assert (counts["scanned"], counts["quarantined"], counts["pending"]) == (6, 6, 0)
    assert document["from_keys"] == ["env:BLOB_KEY"]
    assert document["shown"]["keys"] == "env:BLOB_KEY → hcvault://memory/blob-kek?version=1"
    assert document["failures"] == [
        {"outcome": "quarantined", "reason_code": "quarantined", "blobs": 6}
    ]
    assert document["next_command"] == f"rewrap blobs {hostile} --outcome quarantined"
    assert document["tables"]["census"][0][:2] == ["env", "env:BLOB_KEY"]
    assert sum(document["plot"]["rates"]) > 0
    assert (document["trouble"], document["percent"]) == (None, 100.0)
    page = flower.get(f"/campaigns/{hostile}").text
    for shown in ("env:BLOB_KEY → hcvault", "complete with exceptions", "100.0%", "0 entries"):
        assert shown in page, shown
    listed = shown_in_list(flower, hostile)
    assert listed["counts"] == counts
    assert f'href="/campaigns/{hostile}"' in flower.get("/campaigns").text


def test_hostile_ids_are_text_on_pages_and_paged_completely(flower: Flower, hostile: int) -> None:
    query = "?outcome=quarantined&reason=quarantined"
    page = flower.get(f"/campaigns/{hostile}/blobs{query}")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    main = page.text[page.text.index("<tbody>") : page.text.index("</tbody>")]
    assert not re.search(r"<(?!/?(tbody|tr|td)\b)", main), main
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in main
    assert "{{ 7*7 }}" in main
    assert "a\\u202egpj.exe" in main
    assert "line\\nbreak\\x01" in main
    found = flower.document(f"/api/campaigns/{hostile}/blobs{query}")["blobs"]
    assert sorted(b["blob_id"] for b in found) == sorted(f"h/{name}" for name in HOSTILE)
    none = flower.document(f"/api/campaigns/{hostile}/blobs?outcome=failed")
    assert none["blobs"] == []


def test_many_blobs_and_shards_come_in_pages(flower: Flower, desk: Desk) -> None:
    campaign = desk.campaign(Kind.MIGRATE, prefix="many/")
    ids = [f"many/\x01 &?{n:03d}" for n in range(250)]
    first = desk.shard(campaign, blob_ids=ids)
    for _ in range(120):
        desk.shard(campaign)
    desk.force(campaign, State.RUNNING)
    desk.record(first, **dict.fromkeys(ids, Outcome.FAILED))
    for what, path, name in (
        ("blobs", f"/api/campaigns/{campaign}/blobs?outcome=failed", "blob_id"),
        ("shards", f"/api/campaigns/{campaign}/shards?state=waiting", "shard_no"),
    ):
        seen, query = [], path.partition("?")[2]
        while query:
            document = flower.document(f"{path.partition('?')[0]}?{query}")
            assert len(document[what]) <= 100
            seen += [row[name] for row in document[what]]
            query = document["next"]
        assert len(seen) == len(set(seen)) == (250 if what == "blobs" else 120)
    assert "Next page" in flower.get(f"/campaigns/{campaign}/blobs?outcome=failed").text
    desk.force(campaign, State.CANCELLED)


def test_what_is_not_there_or_asked_wrongly_is_refused(flower: Flower, hostile: int) -> None:
    for path in ("/campaigns/99999", "/campaigns/9999999999", "/campaigns/99999/blobs"):
        assert flower.get(path).status_code == 404, path
        assert flower.get(f"/api{path}").status_code == 404, path
    for query in ("outcome=burnt", "after=%ff"):
        assert flower.get(f"/campaigns/{hostile}/blobs?{query}").status_code == 400, query
    for query in ("state=sold", "after=-1", "after=x", "after=99999999999", "kind='"):
        assert flower.get(f"/campaigns/{hostile}/shards?{query}").status_code == 400, query
    assert flower.get("/campaigns/static/../handlers.py").status_code in {403, 404}


def test_a_waiting_campaign_says_why_and_what_to_type(flower: Flower, desk: Desk) -> None:
    campaign = desk.campaign(Kind.VERIFY)
    mine = shown_in_list(flower, campaign)
    assert mine["reason_code"] == "no_scheduler"
    assert mine["shown"]["next"] == "rewrap scheduler"
    assert "no scheduler has ticked yet" in flower.get(f"/campaigns/{campaign}").text
    desk.force(campaign, State.CANCELLED)


def test_no_secret_is_on_a_page(flower: Flower, hostile: int, shared_ledger_url: str) -> None:
    paths = ["/campaigns", "/campaigns.json", f"/campaigns/{hostile}"]
    paths += [f"/campaigns/{hostile}.json", f"/campaigns/{hostile}/blobs", "/metrics"]
    text = "".join(flower.get(path).text for path in paths) + flower.log.read_text()
    assert "quarantined" in text
    for secret in (CANARY, flower.password, shared_ledger_url):
        assert secret not in text


def test_under_a_prefix_every_link_and_file_is_under_it(
    tmp_path: Path, shared_ledger_url: str, redis_server: Any, hostile: int
) -> None:
    flower = Flower(tmp_path, shared_ledger_url, redis_server.url, 'url_prefix = "keys/flower"')
    flower.prefix = "/keys/flower"
    with flower.running():
        for path in ("/campaigns", f"/campaigns/{hostile}", f"/campaigns/{hostile}/blobs"):
            page = flower.get(path)
            assert page.status_code == 200
            for link in re.findall(r'(?:href|src|data-source)="(/[^"]*)"', page.text):
                assert link.startswith("/keys/flower/"), link
                assert flower.session.get(flower.origin + link, timeout=10).ok, link
        assert flower.document("/api/campaigns")["campaigns"]
        assert requests.get(f"{flower.origin}/campaigns", timeout=10).status_code == 404
