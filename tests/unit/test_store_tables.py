import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from keywrap.stores import StoreUnavailableError
from keywrap.tables.common import ConfigError
from keywrap.tables.store import StoreConfig, check_store, open_store

AZURE = {"url": "az://blobs/prefix", "account": "rewrap7"}


def table(**fields: object) -> StoreConfig:
    return msgspec.convert(fields, StoreConfig)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "gs://blobs"},
        {"url": "gs://blobs_7.example/tenant%207", "endpoint": "https://storage.example"},
        {"url": "gs://blobs", "endpoint": "http://127.0.0.1:9000", "anonymous": True},
        AZURE,
        AZURE | {"endpoint": "https://rewrap7.blob.core.usgovcloudapi.net"},
        AZURE | {"endpoint": "http://127.0.0.1:10000/rewrap7", "account_key_env": "KEY"},
        AZURE | {"sas_file": "/run/secrets/sas"},
    ],
)
def test_a_table_that_fits_its_store_passes(fields: dict[str, object]) -> None:
    check_store(table(**fields))


@pytest.mark.parametrize(
    ("fields", "place", "sentence"),
    [
        ({"url": "gs://blobs", "region": "eu"}, "[store] region", "s3:// only"),
        ({"url": "gs://blobs", "account": "rewrap7"}, "[store] account", "az:// only"),
        ({"url": "gs://blobs", "anonymous": True}, "[store] anonymous", "emulator"),
        ({"url": "gs://Blobs"}, "[store] url", "name of a bucket"),
        ({"url": "gs://blobs/a//b"}, "[store] url", "segment"),
        (
            {"url": "gs://blobs", "endpoint": "http://gcs.internal"},
            "[store] endpoint",
            "in clear",
        ),
        ({"url": "az://blobs"}, "[store] account", "storage account"),
        (AZURE | {"account": "Rewrap-7"}, "[store] account", "storage account"),
        (AZURE | {"url": "az://a--b"}, "[store] url", "name of a container"),
        (AZURE | {"url": "az://$root"}, "[store] url", "name of a container"),
        (AZURE | {"profile": "x"}, "[store] profile", "s3:// only"),
        (AZURE | {"endpoint": "https://host/other"}, "[store] endpoint", "host and port only"),
        (AZURE | {"endpoint": "http://azurite:10000/rewrap7"}, "[store] endpoint", "in clear"),
        (AZURE | {"sas_env": "A", "account_key_env": "B"}, "[store]", "expected one of"),
        ({"url": "s3://blobs", "region": "eu-west-1", "sas_env": "A"}, "[store] sas_env", "az://"),
        ({"url": "file:///srv", "anonymous": True}, "[store] anonymous", "gs:// only"),
        ({"url": "ftp://blobs"}, "[store] url", "az://, gs://"),
    ],
)
def test_a_mistake_in_a_store_table_is_told_with_its_place(
    fields: dict[str, object], place: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        check_store(table(**fields))
    assert caught.value.place == place


def test_two_accounts_are_two_places() -> None:
    places = {table(**AZURE, **more).place for more in ({}, {"endpoint": "https://x"})}
    places.add(table(**AZURE | {"account": "other"}).place)
    assert len(places) == 3


def test_a_secret_that_is_not_there_is_told_when_the_store_is_opened(tmp_path: Path) -> None:
    for fields in ({"account_key_env": "NO_SUCH_VARIABLE"}, {"sas_file": str(tmp_path / "none")}):
        with pytest.raises(ConfigError) as caught:
            open_store(table(**AZURE, **fields))
        assert next(iter(fields)) in caught.value.place


def test_a_secret_file_that_vanishes_is_a_store_that_is_away(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("c2VjcmV0")
    store = open_store(table(**AZURE, account_key_file=str(secret)))
    secret.unlink()
    with pytest.raises(StoreUnavailableError, match=r"account_key_file.*cannot be read"):
        store.check()


WITHOUT = """
import sys
missing, url = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == missing or name.startswith(missing + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
from keywrap.tables.common import ConfigError
from keywrap.tables.store import StoreConfig, open_store
try:
    open_store(StoreConfig(url, account="rewrap7", region="eu-west-1"))
except ConfigError as error:
    print(error, error.next_command)
"""


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [
        ("obstore", "az://blobs", "keywrap[az]"),
        ("azure.identity", "az://blobs", "keywrap[az]"),
        ("obstore", "gs://blobs", "keywrap[gs]"),
        ("google.auth", "gs://blobs", "keywrap[gs]"),
        ("requests", "gs://blobs", "keywrap[gs]"),
        ("obstore", "s3://blobs", "keywrap[s3]"),
    ],
)
def test_a_missing_library_names_the_extra_that_brings_it(
    missing: str, url: str, extra: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing, url],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"pip install '{extra}'" in done.stdout, done.stderr
