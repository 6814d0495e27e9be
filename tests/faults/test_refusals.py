import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hvac
import psutil
import pytest

from embedded import OpenBao
from tests.faulting import assert_moved
from tests.nodes import Node, assert_balanced, decided, until
from tests.readers import Watch
from tests.roads import Road
from tests.writers import Writer

BLOBS = 600
SLOW_S = 0.2
POLICY = """
path "transit/*" { capabilities = ["create", "read", "update"] }
"""


@pytest.fixture
def bao(openbao: OpenBao) -> Iterator[hvac.Client]:
    client = hvac.Client(url=openbao.address, token=openbao.token, timeout=5)
    yield client
    client.adapter.close()


@pytest.fixture
def token_file(server_directory: Path, openbao: OpenBao) -> Iterator[Path]:
    """The file that workers have their token from."""
    file = server_directory / "faulty.token"
    yield file
    file.write_text(openbao.token)


class Refused:
    """A migration that something refuses half-way."""

    def __init__(self, node: Node, road: Road, folder: str, blobs: int = BLOBS) -> None:
        self.node = node
        self._road = road
        self._prefix = f"{folder}/"
        self.blob_ids = node.site.make(blobs, self._prefix)
        self.id = 0

    def watch(self) -> Watch:
        return self.node.site.watch(self.blob_ids)

    def begin(self) -> None:
        self._road.delay_s = SLOW_S
        self.id = self.node.site.campaign("migrate", "--prefix", self._prefix)
        self.node.some_but_not_all(self.id)

    def is_blocked(self, reason_code: str) -> None:
        """It waits, says why, and has put nothing aside."""
        document = self.node.reach(self.id, "blocked", 20)
        assert document["reason_code"] == reason_code, document
        assert "it goes on by itself" in document["reason"]
        time.sleep(1.5)  # it is tried again meanwhile
        document = self.node.site.ask("status", str(self.id))
        assert (document["state"], document["reason_code"]) == ("blocked", reason_code)
        counts = document["counts"]
        assert {counts[o] for o in ("quarantined", "failed", "gone", "conflict")} == {0}
        assert counts["pending"] > 0
        assert counts["scanned"] == len(self.blob_ids)

    def goes_on(self) -> None:
        """It is running again by itself, and far from its end."""
        before = decided(self.node.document(self.id))
        self.node.reach(self.id, "running", 30)
        until(lambda: decided(self.node.document(self.id)) > before, "it goes on", 30)
        assert decided(self.node.document(self.id)) < len(self.blob_ids)

    def ends_well(self) -> None:
        self._road.delay_s = 0.0
        assert_moved(self.node, self.node.reach(self.id, "complete", 60), self.blob_ids)


def new_token(bao: hvac.Client) -> str:
    return str(bao.auth.token.create(policies=["worker"])["auth"]["client_token"])


def test_a_revoked_token_or_a_policy_taken_away_blocks_the_campaign_until_it_is_mended(
    faulty: Node, road: Road, bao: hvac.Client, token_file: Path
) -> None:
    bao.sys.create_or_update_policy("worker", POLICY)
    token = new_token(bao)
    token_file.write_text(token)
    end_workers(faulty)  # the root token stays good: they must begin with this one
    campaign = Refused(faulty, road, "denied")
    with campaign.watch() as watch:
        campaign.begin()
        bao.auth.token.revoke(token)
        campaign.is_blocked("permission_denied")
        token_file.write_text(new_token(bao))
        campaign.goes_on()
        bao.sys.create_or_update_policy("worker", 'path "transit/*" { capabilities = ["deny"] }')
        campaign.is_blocked("permission_denied")
        bao.sys.create_or_update_policy("worker", POLICY)
        campaign.ends_well()
    assert watch.failures == []
    assert watch.fallbacks == 0
    assert token not in faulty.logs()


def end_workers(node: Node) -> None:
    for process in (node.process("worker-1"), node.process("worker-2")):
        process.terminate()
        process.wait(20)


def test_an_openbao_that_refuses_or_freezes_blocks_the_campaign_and_every_blob_is_read(
    faulty: Node, road: Road, openbao: OpenBao
) -> None:
    campaign = Refused(faulty, road, "unavailable")
    pid = openbao._process.last_pid
    assert pid is not None
    server = psutil.Process(pid)
    with campaign.watch() as watch:
        campaign.begin()
        road.tear_up()
        campaign.is_blocked("kms_unavailable")
        road.restore()
        campaign.goes_on()
        assert watch.fallbacks == 0
        server.suspend()
        try:
            campaign.is_blocked("kms_unavailable")
        finally:
            server.resume()
        campaign.ends_well()
    assert watch.failures == []
    assert watch.fallbacks > 0  # by the two-key envelope, while OpenBao did not answer


@contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    away = folder.with_name("away")
    folder.rename(away)
    try:
        yield
    finally:
        away.rename(folder)


def test_a_store_that_is_away_blocks_the_campaign_and_no_blob_is_called_gone(
    faulty: Node, road: Road
) -> None:
    campaign = Refused(faulty, road, "store-away")
    store = faulty.site.store
    campaign.begin()
    with moved_away(store):
        campaign.is_blocked("store_unavailable")
    campaign.goes_on()
    with moved_away(store):
        store.mkdir()  # as when a file system is not mounted
        try:
            campaign.is_blocked("store_unavailable")
        finally:
            store.rmdir()
    campaign.ends_well()


@pytest.mark.parametrize("manner", ["put", "legacy"])
def test_a_live_writer_loses_no_update_and_its_latest_content_always_opens(
    faulty: Node, road: Road, manner: str
) -> None:
    site = faulty.site
    campaign = Refused(faulty, road, f"writer-{manner}", 300)
    kinds = "" if manner == "put" else "/adopter"
    written = [b for b in campaign.blob_ids if kinds in b][::5]
    still = [b for b in campaign.blob_ids if b not in written]
    writer = Writer(site, manner, written)
    reader = Watch(site.reader(), written, writer.is_right, writer.floor)
    with writer, reader:
        campaign.begin()
        before = writer.writes
        road.delay_s = SLOW_S / 2
        time.sleep(2.5)
        until(lambda: writer.writes > before + 20, "the writer goes on")
        writer.stop()
        road.delay_s = 0.0
        document = faulty.reach(campaign.id, "complete", 60)
        time.sleep(0.5)
    assert reader.failures == []
    assert reader.reads > 50
    assert reader.fallbacks == 0
    assert_balanced(document, len(campaign.blob_ids))
    plain = site.reader()
    try:
        assert plain.wrong(written, writer.last) == []
        assert plain.wrong(still, site.original) == []
        if manner == "legacy":
            kept = {b: plain.sidecar(b).get("edition", 0) for b in written}
            assert kept == writer.done
    finally:
        plain.close()
    assert site.key_ids(campaign.blob_ids) == {site.version(1)}
