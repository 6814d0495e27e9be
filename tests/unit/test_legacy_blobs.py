import json
import tomllib
from pathlib import Path

import pytest

from keywrap.config import KeywrapConfig, open_keys
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.layout import Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.rewrapping import Goal, Outcome, Prove, Rewrapper, Selection
from keywrap.testing.kms import MemoryKeyProvider
from keywrap.testing.legacy import KINDS, LegacyBlobs, SchemeKeys, keys_of_every_scheme
from keywrap.testing.stores import MemoryStore
from tests.worlds import InlineExecutor

ADOPTERS = """
[store]
url = "file:///srv/blobs"
[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"
[keys.env.BLOB_WRAP_KEY]
encoding = "hex"
scheme = "aes-gcm"
"""
SECRETS = {"BLOB_KEY": bytes(range(32)).hex(), "BLOB_WRAP_KEY": bytes(32).hex()}
POOL = InlineExecutor()


@pytest.fixture
def schemes(tmp_path: Path) -> SchemeKeys:
    return keys_of_every_scheme(tmp_path)


@pytest.fixture
def keys(schemes: SchemeKeys) -> KeyRing:
    config = KeywrapConfig.from_table(tomllib.loads(ADOPTERS + schemes.configuration))
    ring = open_keys(config, SECRETS | dict(schemes.environment))
    listed = [ring.provider(uri) for uri in config.keys.uris()]
    return KeyRing([*listed, MemoryKeyProvider()], primary="hcvault://memory/blob-kek")


def blobs_of(keys: KeyRing, schemes: SchemeKeys | None = None) -> LegacyBlobs:
    direct, wrapping = keys.provider("env:BLOB_KEY"), keys.provider("env:BLOB_WRAP_KEY")
    assert isinstance(direct, EnvKeyProvider)
    assert isinstance(wrapping, EnvKeyProvider)
    reader = SidecarReader(MemoryStore(), Layout(), KeyVersion("env:BLOB_KEY"))
    more = schemes.providers(keys) if schemes else {}
    return LegacyBlobs(reader, direct, wrapping, more=more)


def test_blobs_of_every_scheme_open_before_and_after_they_are_moved(
    schemes: SchemeKeys, keys: KeyRing
) -> None:
    legacy = blobs_of(keys, schemes)
    ids = list(legacy.make(legacy.ids(2 * (len(KINDS) + len(schemes.kinds)), "a/"), POOL))
    assert legacy.wrong(ids, keys, POOL) == []
    assert keys.primary is not None
    target = keys.primary.current_version()
    for selection in Selection:
        goal = Goal(target, selection, Prove.ALL, keep_previous=True)
        report = Rewrapper(legacy.reader, keys, "records-v1", POOL).rewrap(ids, goal)
        assert report.interruption is None
        left = {Outcome.REWRAPPED, Outcome.CURRENT, Outcome.EXCLUDED}
        assert {result.outcome for result in report.results} <= left, report.results
    assert {legacy.reader.read(blob_id).wrapped.key_version for blob_id in ids} == {target}
    assert legacy.wrong(ids, keys, POOL) == []


def test_a_blob_that_was_swapped_is_found_under_every_scheme(
    schemes: SchemeKeys, keys: KeyRing
) -> None:
    legacy = blobs_of(keys, schemes)
    assert keys.primary is not None
    goal = Goal(keys.primary.current_version(), Selection.LEGACY, Prove.ALL)
    for kind in schemes.kinds.keys() - {"local"}:
        one, other = legacy.make([f"{kind}-000001", f"{kind}-000002"], POOL)
        names = [legacy.reader.layout.sidecar_name(blob_id) for blob_id in (one, other)]
        store = legacy.reader.store
        first, second = (store.read(name) for name in names)
        store.replace(names[0], second.data, first)
        (result,) = Rewrapper(legacy.reader, keys, "records-v1", POOL).rewrap([one], goal).results
        assert result.outcome is Outcome.QUARANTINED, kind
        assert store.read(names[0]).data == second.data


def test_the_kinds_of_the_demo_are_the_default(keys: KeyRing) -> None:
    legacy = blobs_of(keys)
    assert [blob_id.rpartition("-")[0] for blob_id in legacy.ids(6)] == [*KINDS, KINDS[0]]


def test_no_secret_stands_in_the_configuration(schemes: SchemeKeys) -> None:
    text = json.dumps(schemes.configuration) + repr(schemes)
    assert not [secret for secret in schemes.environment.values() if secret in text]
