import builtins
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keywrap.config import (
    ConfigError,
    KeywrapConfig,
    layout,
    open_key,
    open_keys,
    open_store,
)
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.layout import Layout
from keywrap.testing.kms import MemoryKeyProvider

KEY_HEX = bytes(range(32)).hex()
ENVIRON = {"BLOB_KEY": KEY_HEX, "BAO_TOKEN": "s.notarealtoken"}

WHOLE = """
[store]
url = "file:///srv/blobs"
blob_suffix = ".blob"
sidecar_suffix = ".blob.meta"
legacy_default = "env:BLOB_KEY"
legacy_content = "records-v1"
keep_previous = true
[keys]
primary = "hcvault://transit/blob-kek"
[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"
variable = "BLOB_KEY"
[keys.vault."transit/blob-kek"]
address = "http://127.0.0.1:8200"
token_env = "BAO_TOKEN"
timeout_s = 10.0
namespace = ""
"""


def read(text: str) -> KeywrapConfig:
    return KeywrapConfig.from_table(tomllib.loads(text))


def changed(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


def test_the_whole_configuration_is_read() -> None:
    config = read(WHOLE)
    assert config.store.legacy_content == "records-v1"
    assert config.keys.uris() == ("env:BLOB_KEY", "hcvault://transit/blob-kek")
    assert layout(config) == Layout(".blob", ".blob.meta")


def test_a_store_is_all_that_must_be_set() -> None:
    config = read('[store]\nurl = "file:///srv/blobs"')
    assert config.store.legacy_default == ""
    assert config.store.legacy_content == "gcm-v1"
    assert config.store.keep_previous
    assert layout(config) == Layout()
    ring = open_keys(config, {})
    assert ring.keys() == ()
    assert ring.primary is None


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        ('url = "file:///srv/blobs"', "", "[store]", "missing required field `url`"),
        ('url = "file:///srv/blobs"', "url = 3", "[store] url", "Expected `str`"),
        ("file:///srv/blobs", "file://srv/blobs", "[store] url", "three slashes"),
        ("file:///srv/blobs", "file:srv/blobs", "[store] url", "three slashes"),
        ("file:///srv/blobs", "/srv/blobs", "[store] url", "file:// or s3:// URL"),
        ("file:///srv/blobs", "ftp://srv/blobs", "[store] url", "file:// or s3:// URL"),
        ("file:///srv/blobs", "s3://bucket", "[store] region", "the bucket's Region"),
        ("file:///srv/blobs", "s3://", "[store] url", "name of a bucket"),
        ("file:///srv/blobs", "s3://Bucket", "[store] url", "name of a bucket"),
        ("file:///srv/blobs", "s3://bucket/a//b", "[store] url", "segment"),
        ("file:///srv/blobs", "s3://bucket/../b", "[store] url", "segment"),
        ("file:///srv/blobs", "s3://bucket?x", "[store] url", "bucket and prefix only"),
        ("[store]\n", '[store]\nregion = "eu-west-1"\n', "[store] region", "s3:// only"),
        (
            'url = "file:///srv/blobs"',
            'url = "s3://bucket"\nregion = "eu-west-1"\nendpoint = "http://s3.internal"',
            "[store] endpoint",
            "in clear",
        ),
        ("file:///srv/blobs", "file:///", "[store] url", "folder"),
        ("file:///srv/blobs", "file:///srv/blobs?x", "[store] url", "folder"),
        ("blob_suffix", "blob_sufix", "[store]", "unknown field `blob_sufix`"),
        (".blob.meta", ".blob", "[store] sidecar_suffix", "differ"),
        ("records-v1", "records-v9", "[store] legacy_content", "none of"),
        ('"env:BLOB_KEY"', '"env:OTHER"', "[store] legacy_default", "not listed"),
        ('"env:BLOB_KEY"', '"dpapi:BLOB_KEY"', "[store] legacy_default", "not listed"),
        ('"env:BLOB_KEY"', '"nonsense"', "[store] legacy_default", "known provider"),
        (
            'legacy_default = "env:BLOB_KEY"',
            'legacy_default = "hcvault://transit/blob-kek"',
            "[store] legacy_default",
            "no legacy key",
        ),
        (
            'primary = "hcvault://transit/blob-kek"',
            'primary = "env:BLOB_KEY"',
            "[keys] primary",
            "legacy",
        ),
        (
            'primary = "hcvault://transit/blob-kek"',
            'primary = "hcvault://transit/blob-kek?version=3"',
            "[keys] primary",
            "without its version",
        ),
        (
            'primary = "hcvault://transit/blob-kek"',
            'primary = "hcvault://transit/other"',
            "[keys] primary",
            "not listed",
        ),
        ('encoding = "hex"', "", "[keys.env.BLOB_KEY]", "`encoding`"),
        ('encoding = "hex"', f'encoding = "{KEY_HEX}"', "[keys.env.BLOB_KEY] encoding", "hex,"),
        ('scheme = "direct"', "", "[keys.env.BLOB_KEY]", "`scheme`"),
        ('variable = "BLOB_KEY"', f'key = "{KEY_HEX}"', "[keys.env.BLOB_KEY]", "`key`"),
        (
            'variable = "BLOB_KEY"',
            'variable = "BLOB_KEY"\nfile = "/k"',
            "[keys.env.BLOB_KEY]",
            "not both",
        ),
        ("[keys.env.BLOB_KEY]", '[keys.env."BLOB KEY"]', "[keys.env]", "name has letters"),
        ("[keys.env.BLOB_KEY]", "[keys.gpg.BLOB_KEY]", "[keys]", "unknown field `gpg`"),
        ('."transit/blob-kek"]', '."blob-kek"]', "[keys.vault]", "<mount>/<key name>"),
        ('."transit/blob-kek"]', '."transit/../kek"]', "[keys.vault]", "<mount>/<key name>"),
        ("http://127.0.0.1:8200", "127.0.0.1:8200", 'blob-kek"] address', "server's URL"),
        ("http://127.0.0.1:8200", "http://[::1", 'blob-kek"] address', "not a URL"),
        ("http://127.0.0.1:8200", "https://u:p@bao", 'blob-kek"] address', "only"),
        ("http://127.0.0.1:8200", "https://bao/v1", 'blob-kek"] address', "only"),
        ("http://127.0.0.1:8200", "http://bao:8200", 'blob-kek"] address', "in clear"),
        ('token_env = "BAO_TOKEN"', "", '[keys.vault."transit/blob-kek"]', "token_file"),
        (
            'token_env = "BAO_TOKEN"',
            'token_env = "T"\ntoken_file = "/t"',
            '[keys.vault."transit/blob-kek"]',
            "`token_env` or `token_file`",
        ),
        ("timeout_s = 10.0", "timeout_s = 0", 'blob-kek"] timeout_s', "> 0"),
        ("[store]\n", "[ledger]\n[store]\n", "[ledger]", "no such table"),
    ],
)
def test_a_mistake_is_told_with_its_place(old: str, new: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(changed(old, new))
    assert place in refused.value.place
    assert says in str(refused.value)
    assert KEY_HEX not in str(refused.value)


@pytest.mark.parametrize("table", [{"store": 3}, {"store": {"url": "file:///b"}, "keys": [1]}, {}])
def test_what_is_no_table_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        KeywrapConfig.from_table(table)


def test_a_relative_store_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(ConfigError) as refused:
        read(changed("file:///srv/blobs", "file://srv/blobs"))
    assert refused.value.next_command == 'url = "file:///srv/blobs"'


@pytest.mark.parametrize(
    "address", ["https://bao.internal:8200", "http://localhost:8200", "http://[::1]:8200"]
)
def test_addresses_that_keep_secrets_off_the_network_in_clear_are_fine(address: str) -> None:
    assert read(changed("http://127.0.0.1:8200", address)).keys.vault


def test_plain_http_to_another_host_must_be_allowed() -> None:
    text = changed("http://127.0.0.1:8200", "http://openbao:8200")
    assert read(text + "allow_http = true\n").keys.vault["transit/blob-kek"].allow_http


def test_every_listed_key_is_in_the_ring_and_no_connection_is_made() -> None:
    ring = open_keys(read(WHOLE), ENVIRON)
    assert ring.keys() == ("env:BLOB_KEY", "hcvault://transit/blob-kek")
    assert ring.primary is ring.provider("hcvault://transit/blob-kek")
    listed = ring.keys()
    assert [ring.provider(key).requests for key in listed] == [0, 0]
    data_key = ring.provider("env:BLOB_KEY").unwrap(WrappedKey(KeyVersion("env:BLOB_KEY"), b""), {})
    assert data_key == DataKey(bytes.fromhex(KEY_HEX))


@pytest.mark.parametrize("missing", ["BLOB_KEY", "BAO_TOKEN"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_secret_is_told_at_start(missing: str, value: str | None) -> None:
    environ = {name: text for name, text in ENVIRON.items() if name != missing}
    if value is not None:
        environ[missing] = value
    with pytest.raises(ConfigError, match=f"{missing} is not set") as refused:
        open_keys(read(WHOLE), environ)
    assert missing in refused.value.next_command


def test_an_environment_that_has_the_keys_of_connections_written_down_is_refused() -> None:
    config, environ = read(WHOLE), {**ENVIRON, "SSLKEYLOGFILE": "keys.log"}
    with pytest.raises(ConfigError, match="SSLKEYLOGFILE") as refused:
        open_keys(config, environ)
    assert refused.value.next_command == "unset SSLKEYLOGFILE"
    with pytest.raises(ConfigError, match="SSLKEYLOGFILE"):
        open_key(config, config.keys.primary, environ)


def test_one_key_needs_only_its_own_secret() -> None:
    provider = open_key(
        read(WHOLE), "hcvault://transit/blob-kek", {"BAO_TOKEN": ENVIRON["BAO_TOKEN"]}
    )
    assert provider.key == "hcvault://transit/blob-kek"


def test_the_variable_is_named_as_the_table_by_default() -> None:
    config = read(changed('variable = "BLOB_KEY"\n', ""))
    assert open_key(config, "env:BLOB_KEY", ENVIRON).key == "env:BLOB_KEY"


def test_a_key_that_is_not_listed_is_never_made() -> None:
    for key in ("env:OTHER", "hcvault://transit/other", "hcvault://transit/blob-kek?version=1"):
        with pytest.raises(UnlistedKeyError) as refused:
            open_keys(read(WHOLE), ENVIRON).provider(key)
        assert refused.value.reason_code == "key_not_listed"
        with pytest.raises(UnlistedKeyError):
            open_key(read(WHOLE), key, ENVIRON)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_key_file_may_end_with_a_line_break(tmp_path: Path, ending: str) -> None:
    (tmp_path / "key").write_bytes((KEY_HEX + ending).encode())
    config = read(changed('variable = "BLOB_KEY"', f'file = "{tmp_path / "key"}"'))
    open_key(config, "env:BLOB_KEY", {})


def test_a_raw_key_file_is_taken_as_it_is(tmp_path: Path) -> None:
    text = changed('variable = "BLOB_KEY"', f'file = "{tmp_path / "key"}"')
    config = read(text.replace('"hex"', '"raw"'))
    (tmp_path / "key").write_bytes(bytes(31) + b"\n")
    open_key(config, "env:BLOB_KEY", {})
    (tmp_path / "key").write_bytes(bytes(32) + b"\n")
    with pytest.raises(ConfigError, match="this one 33"):
        open_key(config, "env:BLOB_KEY", {})


@pytest.mark.parametrize("content", [b"", b"x" * 20_000, None])
def test_an_unusable_key_file_is_told_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    config = read(changed('variable = "BLOB_KEY"', f'file = "{tmp_path / "key"}"'))
    with pytest.raises(ConfigError, match=str(tmp_path / "key")):
        open_keys(config, ENVIRON)


def test_a_malformed_key_is_told_without_its_value() -> None:
    for value in (KEY_HEX[:-1] + "g", KEY_HEX[:30], "MDEyMzQ1" * 11 + "=="):
        with pytest.raises(ConfigError) as refused:
            open_keys(read(WHOLE), {**ENVIRON, "BLOB_KEY": value})
        assert value[:12] not in f"{refused.value} {refused.value.__cause__}"
        assert "encoding" in refused.value.next_command


@pytest.mark.parametrize("content", ["", " \n", "two words", "s.töken", "two\nlines"])
def test_an_unusable_token_file_is_told_without_its_value(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    config = read(changed('token_env = "BAO_TOKEN"', f'token_file = "{tmp_path / "token"}"'))
    with pytest.raises(ConfigError, match="no usable token") as refused:
        open_keys(config, ENVIRON)
    assert not content.strip() or content not in str(refused.value)


def test_a_missing_token_file_is_told(tmp_path: Path) -> None:
    config = read(changed('token_env = "BAO_TOKEN"', f'token_file = "{tmp_path / "token"}"'))
    with pytest.raises(ConfigError, match="No such file"):
        open_keys(config, ENVIRON)


def test_a_token_that_would_break_a_header_is_refused_unseen() -> None:
    with pytest.raises(ConfigError) as refused:
        open_keys(read(WHOLE), {**ENVIRON, "BAO_TOKEN": "s.secret\r\nX-Evil: 1"})
    assert "s.secret" not in str(refused.value)


def test_a_missing_ca_file_is_told() -> None:
    with pytest.raises(ConfigError, match=r"/no/ca\.pem"):
        open_keys(read(WHOLE + 'ca_file = "/no/ca.pem"\n'), ENVIRON)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import: Callable[..., Any] = builtins.__import__

    def without_hvac(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "hvac":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    for module in ("keywrap.providers.vault", "keywrap.providers.vault_connection"):
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.delattr(sys.modules["keywrap.providers"], module.rpartition(".")[2], False)  # noqa: FBT003
    monkeypatch.setattr(builtins, "__import__", without_hvac)
    with pytest.raises(ConfigError, match=r"pip install 'keywrap\[vault\]'") as refused:
        open_keys(read(WHOLE), ENVIRON)
    assert refused.value.next_command == "pip install 'keywrap[vault]'"


def test_the_store_is_the_folder_of_the_url(tmp_path: Path) -> None:
    folder = tmp_path / "blobs of März"
    folder.mkdir()
    store = open_store(read(changed("file:///srv/blobs", folder.as_uri())))
    (folder / "a").write_bytes(b"1")
    assert store.read("a").data == b"1"


class TestKeyRing:
    def test_it_gives_the_very_provider_that_was_put_in(self) -> None:
        first, second = MemoryKeyProvider(), MemoryKeyProvider(key="hcvault://memory/other")
        ring = KeyRing([first, second], primary=second.key)
        assert ring.provider(first.key) is first
        assert ring.primary is second
        assert ring.keys() == (first.key, second.key)

    def test_one_kek_is_listed_once(self) -> None:
        with pytest.raises(ValueError, match="twice"):
            KeyRing([MemoryKeyProvider(), MemoryKeyProvider()])

    def test_the_primary_is_listed(self) -> None:
        with pytest.raises(UnlistedKeyError):
            KeyRing([MemoryKeyProvider()], primary="env:OTHER")
