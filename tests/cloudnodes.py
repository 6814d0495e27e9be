"""Nodes whose blobs and keys are in a cloud that a test can let fail."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedded import OpenBao
from tests.cloudsites import Cloud, CloudSite
from tests.nodes import Node


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def node_at(
    cloud: Cloud, server_directory: Path, openbao: OpenBao, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Node]]:
    """Makes nodes on a bucket of their own, which this process may use too, as another user."""
    nodes: list[Node] = []

    def make(name: str) -> Node:
        cloud.s3.create_bucket(name)
        site = CloudSite(server_directory / name, openbao, cloud.address, batch=40, canary=0)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKIA{secrets.token_hex(8).upper()}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_urlsafe(30))
        nodes.append(Node(site, workers=2))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()
        node.site.close()
