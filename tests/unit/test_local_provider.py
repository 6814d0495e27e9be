import base64
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.contexts import canonical_context
from keywrap.datakey import DataKey
from keywrap.keyfile import WRAP_LIMIT, KeyFile
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    BatchingKeyProvider,
    DeniedError,
    KeyProvider,
    RefusedError,
    ServerSideRewrap,
    UnavailableError,
    VersionCreator,
    VersionOrder,
)
from keywrap.metering import CountedWraps
from keywrap.providers.local import FIRST_BLOCK, LARGEST_BLOCK, LocalKeyProvider, create_key_file
from keywrap.tables import local as table
from keywrap.tables.common import ConfigError
from keywrap.testing.kms import ProviderConformance
from tests.keyfiles import denied, document, edit, named

CONTEXT = {"blob_id": "tenants/7/Rechnung März.pdf"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "blobs.key.json", "blobs")
    return tmp_path / "blobs.key.json"


@pytest.fixture
def provider(path: Path) -> LocalKeyProvider:
    return LocalKeyProvider("blobs", path)


class TestLocalKeyProvider(ProviderConformance):
    @pytest.fixture
    def provider(self, path: Path) -> KeyProvider:
        return LocalKeyProvider("blobs", path)


def keys(count: int) -> list[tuple[DataKey, dict[str, str]]]:
    return [(DataKey.generate(), CONTEXT) for _ in range(count)]


def test_it_batches_and_creates_versions_and_rewraps_nothing_by_itself(
    provider: LocalKeyProvider,
) -> None:
    assert isinstance(provider, BatchingKeyProvider)
    assert isinstance(provider, VersionCreator)
    assert isinstance(provider, VersionOrder)
    assert not isinstance(provider, ServerSideRewrap)
    assert (provider.binds_context, provider.proves_wraps) == (True, False)


def test_a_key_file_is_what_its_description_says(path: Path) -> None:
    record = document(path)
    (version,) = record["versions"]
    assert list(record) == ["key", "versions"]
    assert list(version) == ["version", "state", "created_at", "key", "id", "wraps"]
    assert (record["key"], version["version"], version["state"]) == ("blobs", 1, "enabled")
    assert len(base64.b64decode(version["key"])) == 32
    assert version["created_at"].endswith("Z")
    assert version["wraps"] == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_wrap_is_nonce_ciphertext_and_tag_bound_to_version_and_context(
    path: Path, provider: LocalKeyProvider
) -> None:
    data_key = DataKey.generate()
    wrapped = provider.wrap(data_key, CONTEXT)
    cipher = AESGCM(base64.b64decode(document(path)["versions"][0]["key"]))
    nonce, sealed = wrapped.ciphertext[:12], wrapped.ciphertext[12:]
    additional = '{"blob_id":"tenants/7/Rechnung März.pdf"}'.encode()
    bound = f"local:blobs?version=1-{document(path)['versions'][0]['id'][:8]}\0".encode()
    opened = cipher.decrypt(nonce, sealed, bound + additional)
    assert opened == data_key.reveal()
    with pytest.raises(InvalidTag):
        cipher.decrypt(nonce, sealed, additional)


def test_even_the_same_key_under_another_label_does_not_open(
    path: Path, provider: LocalKeyProvider
) -> None:
    wrapped = provider.wrap(DataKey.generate(), CONTEXT)
    twin = LocalKeyProvider("blobs", path)
    loaded = twin._load()
    label = KeyVersion("local:blobs", "2-1a2b3c4d")
    loaded.versions[label.version] = replace(
        loaded.current, name=label, number=2, bound=f"{label}\0".encode()
    )
    assert twin.unwrap(wrapped, CONTEXT)
    with pytest.raises(RefusedError) as refused:
        twin.unwrap(WrappedKey(label, wrapped.ciphertext), CONTEXT)
    assert refused.value.reason_code == "wrap_does_not_open"


def test_a_context_has_one_encoding() -> None:
    assert canonical_context({"b": 'ä/"\n', "a": ""}) == '{"a":"","b":"ä/\\"\\n"}'.encode()


def test_a_key_file_is_never_made_over_another(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        create_key_file(path, "blobs")
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == [".blobs.key.json.lock", path.name]


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", "ä", "a?version=1"])
def test_a_name_that_is_no_part_of_a_uri_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        create_key_file(tmp_path / "k", name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeniedError, match="no folder to lie in"):
        create_key_file(tmp_path / "no" / "k", "blobs")


def test_other_providers_see_a_new_version_at_once(path: Path, provider: LocalKeyProvider) -> None:
    running = LocalKeyProvider("blobs", path)
    old = running.wrap(DataKey.generate(), CONTEXT)
    for number in range(2, 30):
        assert provider.create_version() == named(path, number)
        assert running.current_version() == named(path, number)
        assert running.wrap(DataKey.generate(), CONTEXT).key_version == named(path, number)
    assert running.unwrap(old, CONTEXT)


def test_a_change_that_keeps_the_size_is_seen_however_fast_it_comes(
    path: Path, provider: LocalKeyProvider
) -> None:
    first, second = provider.current_version(), provider.create_version()
    running = LocalKeyProvider("blobs", path)
    wrapped = running.wrap(DataKey.generate(), CONTEXT)
    provider.disable_version(first)
    for _ in range(50):
        assert running.unwrap(wrapped, CONTEXT)
        # Three files on two inode numbers: the last may have the first one's, its size and tick.
        provider.disable_version(second)
        provider.enable_version(first)
        denied(lambda: running.unwrap(wrapped, CONTEXT), "version_disabled")
        provider.disable_version(first)
        provider.enable_version(second)


def test_a_disabled_version_is_denied_until_it_is_enabled(
    path: Path, provider: LocalKeyProvider
) -> None:
    running = LocalKeyProvider("blobs", path)
    old = running.wrap(DataKey.generate(), CONTEXT)
    provider.create_version()
    new = running.wrap(DataKey.generate(), CONTEXT)
    provider.disable_version(old.key_version)
    denied(lambda: running.unwrap(old, CONTEXT), "version_disabled")
    denied(lambda: running.unwrap_many([(new, CONTEXT), (old, CONTEXT)]), "version_disabled")
    assert running.unwrap(new, CONTEXT)
    provider.disable_version(new.key_version)
    denied(lambda: running.wrap(DataKey.generate(), CONTEXT), "version_disabled")
    assert running.current_version() == new.key_version, "an older version never wraps again"
    provider.enable_version(old.key_version)
    assert running.unwrap(old, CONTEXT)


def test_a_version_that_is_not_there_has_no_state(provider: LocalKeyProvider) -> None:
    one = provider.current_version()
    others = [KeyVersion(one.key, label) for label in ("", "1", "2", "1-00000000")]
    for version in (*others, replace(one, key="local:other")):
        for act in (provider.disable_version, provider.enable_version, provider.wraps_reserved):
            with pytest.raises(RefusedError) as refused:
                act(version)
            assert refused.value.reason_code == "key_version_unknown"


def test_no_wrap_is_made_that_was_not_counted_before(
    path: Path, provider: LocalKeyProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, one = 0, named(path, 1)
    for count in (1, FIRST_BLOCK - 1, 1, 500, 3000, 200_000, 1):
        provider.wrap_many(keys(count))
        made += count
        assert made <= provider.wraps_reserved(one) <= made + LARGEST_BLOCK
    other = LocalKeyProvider("blobs", path)
    before = provider.wraps_reserved(one)
    other.wrap(DataKey.generate(), CONTEXT)
    assert provider.wraps_reserved(one) == before + FIRST_BLOCK
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UnavailableError):
        other.wrap_many(keys(FIRST_BLOCK))
    assert other.wrap_many(keys(FIRST_BLOCK - 1)), "what is reserved already may be used"
    with pytest.raises(UnavailableError):
        other.wrap(DataKey.generate(), CONTEXT)


def refuse(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_key_wraps_as_often_as_is_safe_and_no_more(
    path: Path, provider: LocalKeyProvider
) -> None:
    edit(path, 1, wraps=WRAP_LIMIT - 300)
    last = provider.wrap_many(keys(299))
    error = denied(lambda: provider.wrap_many(keys(2)), "wrap_limit")
    assert "rotate-kek" in str(error)
    provider.wrap(DataKey.generate(), CONTEXT)
    denied(lambda: provider.wrap(DataKey.generate(), CONTEXT), "wrap_limit")
    denied(lambda: LocalKeyProvider("blobs", path).wrap(DataKey.generate(), CONTEXT), "wrap_limit")
    assert provider.wraps_reserved(named(path, 1)) == WRAP_LIMIT
    assert isinstance(last[0], WrappedKey)
    assert provider.unwrap(last[0], CONTEXT)
    newer = provider.create_version()
    assert provider.wrap(DataKey.generate(), CONTEXT).key_version == newer


def test_a_version_made_meanwhile_is_counted_by_itself(
    path: Path, provider: LocalKeyProvider
) -> None:
    running = LocalKeyProvider("blobs", path)
    running.wrap(DataKey.generate(), CONTEXT)
    provider.create_version()
    running.wrap_many(keys(10))
    assert running.wraps_reserved(named(path, 1)) == FIRST_BLOCK
    assert running.wraps_reserved(named(path, 2)) >= 10


def test_nothing_is_counted_where_nothing_is_wrapped(provider: LocalKeyProvider) -> None:
    assert provider.wrap_many([]) == []
    assert provider.unwrap_many([]) == []
    assert provider.wraps_reserved(provider.current_version()) == 0


def test_a_key_file_that_is_gone_is_told(path: Path, provider: LocalKeyProvider) -> None:
    provider.wrap(DataKey.generate(), CONTEXT)
    path.unlink()
    for act in (provider.current_version, provider.create_version):
        denied(act, "key_file_missing")
    denied(lambda: provider.wrap(DataKey.generate(), CONTEXT), "key_file_missing")


def test_the_file_of_another_key_is_refused(path: Path) -> None:
    with pytest.raises(DeniedError) as refused:
        LocalKeyProvider("others", path).current_version()
    assert refused.value.reason_code == "key_file_of_another_key"


def test_a_table_opens_the_provider_of_its_file(path: Path) -> None:
    read = table.read("blobs", {"file": str(path)})
    provider = table.open_provider("blobs", {"blobs": read}, {})
    assert provider.current_version() == named(path, 1)
    assert provider.key == table.PREFIX + "blobs"


@pytest.mark.parametrize(
    ("name", "written", "says"),
    [
        ("blobs", {}, "missing required field `file`"),
        ("blobs", {"file": 3}, "Expected `str`"),
        ("blobs", {"file": "k.json"}, "relative path"),
        ("blobs", {"file": "/k", "key": "x"}, "unknown field"),
        ("a/b", {"file": "/k"}, "name has letters"),
    ],
)
def test_a_table_that_leaves_a_doubt_is_refused(
    name: str, written: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        table.read(name, written)


def test_a_worker_fails_at_its_start_where_the_key_file_cannot_be_used(path: Path) -> None:
    missing = table.read("blobs", {"file": str(path) + "x"})
    with pytest.raises(ConfigError, match="is not there") as refused:
        table.open_provider("blobs", {"blobs": missing}, {})
    assert refused.value.next_command == "rewrap create-kek local:blobs"
    path.chmod(0o644)
    there = table.read("blobs", {"file": str(path)})
    with pytest.raises(ConfigError, match="chmod 600"):
        table.open_provider("blobs", {"blobs": there}, {})


def test_no_nonce_comes_twice(provider: LocalKeyProvider) -> None:
    wraps = [*provider.wrap_many(keys(1000)), *provider.wrap_many(keys(1000))]
    wraps += [provider.wrap(DataKey.generate(), CONTEXT) for _ in range(100)]
    nonces = {each.ciphertext[:12] for each in wraps if isinstance(each, WrappedKey)}
    assert len(nonces) == 2100


def test_threads_that_share_a_provider_count_every_wrap_under_its_version(
    path: Path, provider: LocalKeyProvider
) -> None:
    def work(_: int) -> Counter[str]:
        made: Counter[str] = Counter()
        for _ in range(150):
            (*_, last) = wraps = provider.wrap_many(keys(7))
            assert isinstance(last, WrappedKey)
            assert provider.unwrap(last, CONTEXT)
            made.update({last.key_version.version: len(wraps)})
        return made

    with ThreadPoolExecutor(6) as pool:
        counts = pool.map(work, range(6))
        for _ in range(40):
            LocalKeyProvider("blobs", path).create_version()
        made = sum(counts, Counter[str]())
    assert made.total() == 6 * 150 * 7
    file = KeyFile.parse(path.read_bytes())
    for version in file.versions:
        assert version.wraps >= made[file.name_of(version).version]


def test_it_tells_how_many_wraps_were_counted_under_the_newest_version(
    provider: LocalKeyProvider, path: Path
) -> None:
    assert isinstance(provider, CountedWraps)
    assert (provider.wraps_made(), provider.wrap_limit) == (0, WRAP_LIMIT)
    provider.wrap_many(keys(3))
    assert provider.wraps_made() == FIRST_BLOCK
    assert LocalKeyProvider("blobs", path).wraps_made() == FIRST_BLOCK
    provider.create_version()
    assert provider.wraps_made() == 0
