import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keywrap.kms import DeniedError, KeyProvider, KmsError, ThrottledError, UnavailableError
from keywrap.providers import calls
from keywrap.tables.keys import read_keys
from keywrap.testing import azure_vault_server, gcp_kms_server
from keywrap.testing.server_process import ServerProcess
from tests.forks import holds_in_fork
from tests.kmschecks import CONTEXT, DATA_KEY

GCP = "projects/my-project/locations/europe-west1/keyRings/blobs/cryptoKeys/blob-kek"
VAULT, HSM = "my-vault.vault.azure.net", "my-hsm.managedhsm.azure.net"

WORKER = """
import json, sys
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.tables.keys import read_keys
tables, context = json.loads(sys.argv[1])
(key,) = read_keys(tables).uris()
provider = read_keys(tables).open(key, {})
data_key = DataKey(bytes(range(100, 132)))
wrapped = provider.wrap(data_key, context)
assert provider.unwrap(wrapped, context) == data_key
print(json.dumps([str(wrapped.key_version), wrapped.ciphertext.hex()]))
"""


class Cloud:
    """A server, the table that reaches it, and its control."""

    def __init__(
        self, kind: str, table: dict[str, Any], address: str, control: Callable[..., dict[str, int]]
    ) -> None:
        self.tables = {kind: {name: {**options, "endpoint": address} for name, options in table}}
        self._address = address
        self._control = control

    def control(self, **wishes: object) -> dict[str, int]:
        return self._control(self._address, **wishes)

    def provider(self) -> KeyProvider:
        keys = read_keys(self.tables)
        return keys.open(keys.uris()[0], {})


def gcp() -> tuple[ServerProcess, Cloud]:
    server = ServerProcess.launch("keywrap.testing.gcp_kms_server", "--key", GCP)
    table: Any = [(GCP, {})]
    return server, Cloud("gcp", table, server.address, gcp_kms_server.control)


def vault() -> tuple[ServerProcess, Cloud]:
    server = ServerProcess.launch("keywrap.testing.azure_vault_server", "--key", "blob-kek")
    table: Any = [(f"{VAULT}/keys/blob-kek", {})]
    return server, Cloud("azure", table, server.address, azure_vault_server.control)


def hsm() -> tuple[ServerProcess, Cloud]:
    server = ServerProcess.launch(
        "keywrap.testing.azure_vault_server", "--host", HSM, "--aes-key", "blob-kek"
    )
    table: Any = [(f"{HSM}/keys/blob-kek", {"algorithm": "A256GCM"})]
    return server, Cloud("azure", table, server.address, azure_vault_server.control)


@pytest.fixture(params=[gcp, vault, hsm], ids=["gcp", "vault", "hsm"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    server, cloud = request.param()
    with server:
        yield cloud


OPENING = ("Decrypt", "unwrapkey", "decrypt")


def opened(counted: dict[str, int]) -> int:
    """Return how many wraps were opened."""
    return sum(times for name, times in counted.items() if name.split()[0] in OPENING)


def test_a_wrap_of_one_process_is_opened_by_another(cloud: Cloud) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps([cloud.tables, CONTEXT])],
        check=True,
        capture_output=True,
        timeout=60,
    )
    version, ciphertext = json.loads(ran.stdout)
    provider = cloud.provider()
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    assert str(wrapped.key_version) == version
    theirs = type(wrapped)(wrapped.key_version, bytes.fromhex(ciphertext))
    assert provider.unwrap(theirs, CONTEXT) == DATA_KEY
    assert opened(cloud.control()) == 2


def test_a_child_of_a_process_that_asked_asks_for_itself(cloud: Cloud) -> None:
    provider = cloud.provider()
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
    assert holds_in_fork(lambda: provider.unwrap(wrapped, CONTEXT) == DATA_KEY)
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY


def test_faults_are_set_from_outside(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "THROTTLED_FOR_S", 0.05)
    monkeypatch.setattr(calls, "RETRY_FOR_S", 0.1)
    provider = cloud.provider()
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    is_gcp = "gcp" in cloud.tables
    kinds: list[tuple[Any, type[KmsError]]] = [
        ({"code": "PERMISSION_DENIED"} if is_gcp else {"status": 403}, DeniedError),
        ({"code": "RESOURCE_EXHAUSTED"} if is_gcp else {"status": 429}, ThrottledError),
        ({"code": "INTERNAL"} if is_gcp else {"status": 500}, UnavailableError),
    ]
    for failure, kind in kinds:
        cloud.control(fail={**failure, "times": 1000})
        with pytest.raises(kind):
            provider.unwrap(wrapped, CONTEXT)
        cloud.control(clear=True)
    before = opened(cloud.control(lose_replies=1))
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
    assert opened(cloud.control()) == before + 2
    cloud.control(latency_ms={"": 200})
    began = time.monotonic()
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
    assert time.monotonic() - began > 0.2
    cloud.control(clear=True, rotate=GCP if is_gcp else "blob-kek")
    assert provider.current_version() != wrapped.key_version
