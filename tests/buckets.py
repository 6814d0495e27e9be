"""Azure's and Google's buckets on the loopback: Azurite, and Cloud Storage from memory."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient

from embedded import EmbeddedError
from embedded.azurite import ACCOUNT, Azurite
from keywrap.azurecredentials import AccountKey
from keywrap.azurestore import open_azure
from keywrap.gcsstore import Anonymous, open_gcs
from keywrap.objectstore import ObjectStore
from keywrap.testing.gcs import Faults, MemoryGcs
from keywrap.testing.gcs_server import GcsServer


def azure_store(address: str, key: str, container: str, prefix: str = "") -> ObjectStore:
    """A store in Azurite, or behind something that stands before it."""
    signing = AccountKey(ACCOUNT, lambda: key)
    return open_azure(
        container, prefix, account=ACCOUNT, endpoint=address, allow_http=True, credentials=signing
    )


def gcs_store(address: str, bucket: str, prefix: str = "", timeout_s: float = 30.0) -> ObjectStore:
    """A store in Cloud Storage from memory, or in something that is none."""
    return open_gcs(
        bucket,
        prefix,
        endpoint=address,
        allow_http=True,
        tokens=Anonymous(),
        timeout_s=timeout_s,
    )


@pytest.fixture
def no_cloud_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of Azure and Google in the environment."""
    for name in list(os.environ):
        if name.startswith(("AZURE_", "GOOGLE_")) or name in {
            "SERVICE_ACCOUNT",
            "IDENTITY_ENDPOINT",
        }:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def azurite(server_directory: Path) -> Iterator[Azurite]:
    """Microsoft's emulator, where Node.js is there."""
    try:
        server = Azurite.start(server_directory / "azurite", supervised=True)
    except EmbeddedError as error:
        pytest.skip(f"Azure Blob Storage is NOT tested here: {error}")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def azure_client(azurite: Azurite, no_cloud_settings: None) -> Iterator[ContainerClient]:  # noqa: ARG001
    """A new container of `azurite`, as somebody else's application uses it."""
    name = f"blobs-{uuid.uuid4().hex[:12]}"
    credential = {"account_name": ACCOUNT, "account_key": azurite.key}
    with ContainerClient(azurite.address, name, credential=credential) as client:
        client.create_container()
        yield client


@pytest.fixture
def azure_blobs(azurite: Azurite, azure_client: ContainerClient) -> ObjectStore:
    """An empty store, in a folder of that container."""
    return azure_store(azurite.address, azurite.key, azure_client.container_name, "tenant")


@pytest.fixture(scope="session")
def gcs_server_thread() -> Iterator[GcsServer]:
    """Cloud Storage from memory; most tests want `gcs_server`."""
    with GcsServer(MemoryGcs()) as server:
        yield server


@pytest.fixture
def gcs_server(gcs_server_thread: GcsServer, no_cloud_settings: None) -> Iterator[GcsServer]:  # noqa: ARG001
    """Cloud Storage with nothing wrong at the start."""
    yield gcs_server_thread
    gcs_server_thread.gcs.faults = Faults()
    gcs_server_thread.read_latency_s = 0.0


@pytest.fixture
def gcs_bucket(gcs_server: GcsServer) -> Iterator[str]:
    """The name of a new bucket of `gcs_server`."""
    name = f"blobs-{uuid.uuid4().hex[:12]}"
    gcs_server.gcs.create_bucket(name)
    yield name
    gcs_server.gcs.delete_bucket(name)


@pytest.fixture
def gcs_blobs(gcs_server: GcsServer, gcs_bucket: str) -> ObjectStore:
    """An empty store, in a folder of that bucket."""
    return gcs_store(gcs_server.address, gcs_bucket, "tenant")
