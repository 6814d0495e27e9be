"""Blobs in Azure's and Google's buckets, by the command line, from inventory to rotation."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient

from embedded import OpenBao
from embedded.azurite import ACCOUNT, Azurite
from keywrap.keys import KeyVersion
from keywrap.testing.gcs_server import GcsServer
from scheduler import staging
from scheduler.staging import Place, Staged
from tests.nodes import Node, assert_balanced
from tests.scale import many
from tests.sites import Premises, campaign_in

BLOBS = many(60, 150)
MORE = "[workers]\nlease_s = 3\nbatch = 50\n[scheduler]\ntick_s = 0.2\n[flower]\nport = 0\n"
SECRETS = ("BLOB_KEY", "BLOB_WRAP_KEY", "BAO_TOKEN", "AZURITE_KEY")


@pytest.fixture
def az(azurite: Azurite, azure_client: ContainerClient) -> Place:
    lines = f'url = "az://{azure_client.container_name}/tenant"\naccount = "{ACCOUNT}"\n'
    lines += f'endpoint = "{azurite.address}"\naccount_key_env = "AZURITE_KEY"'
    return Place(lines, {"AZURITE_KEY": azurite.key})


@pytest.fixture
def gs(gcs_server: GcsServer, gcs_bucket: str) -> Place:
    lines = f'url = "gs://{gcs_bucket}/tenant"\nendpoint = "{gcs_server.address}"\nanonymous = true'
    return Place(lines)


@pytest.fixture
def node_on(
    server_directory: Path, openbao: OpenBao, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, Place], tuple[Node, Staged]]]:
    """Starts a node whose blobs lie in a bucket; it ends with the test."""
    nodes: list[Node] = []

    def start(name: str, place: Place) -> tuple[Node, Staged]:
        directory = server_directory / f"bucket-{name}"
        directory.mkdir()
        kek = staging.transit_key(openbao, f"bucket-{name}")
        for variable, value in {**place.environment, **kek.environment}.items():
            monkeypatch.setenv(variable, value)  # `stage` sets them; here they are put back
        config = directory / "rewrap.toml"
        staged = staging.stage(config, place, kek, {}, MORE)
        secrets = {n: staged.environment[n] for n in SECRETS if n in staged.environment}
        site: Any = Premises(directory, config.read_text(), secrets)
        nodes.append(Node(site, workers=1))
        nodes[-1].start()
        return nodes[-1], staged

    yield start
    for node in nodes:
        node.close()


@pytest.mark.parametrize("where", ["az", "gs"])
def test_blobs_are_inventoried_migrated_rotated_and_verified_where_they_lie(
    where: str,
    node_on: Callable[[str, Place], tuple[Node, Staged]],
    request: pytest.FixtureRequest,
) -> None:
    node, staged = node_on(where, request.getfixturevalue(where))
    ids, site = staged.legacy.ids(BLOBS), node.site
    with ThreadPoolExecutor(8) as pool:
        assert len(list(staged.legacy.make(ids, pool))) == BLOBS
        planned = site.rewrap("plan", "migrate", "--json")
        assert planned.code == 0, planned
        assert planned.document["cost"]["is_whole"] is False, "nobody looked its price up"
        for command in (("start", "migrate"), ("rotate-kek",)):
            ran = site.rewrap(*command, "--yes", "--wait")
            assert ran.code == 0, ran
            document = site.ask("status", str(campaign_in(ran.out)))
            assert document["counts"]["rewrapped"] == BLOBS
            assert_balanced(document, BLOBS)
            assert staged.legacy.wrong(ids, staged.keys, pool) == []
        verified = site.rewrap("verify", "--all", "--json")
        assert verified.code == 0, verified
        assert verified.document["counts"]["current"] == BLOBS
        assert staged.keys.primary is not None
        newest = KeyVersion(staged.keys.primary.key, "2")
        seen = pool.map(staged.reader.read, ids)
        assert {s.wrapped.key_version for s in seen} == {newest}
