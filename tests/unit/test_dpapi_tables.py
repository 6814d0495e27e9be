import base64
import tomllib
import uuid
from pathlib import Path

import pytest

from keywrap.config import ConfigError, KeywrapConfig, open_key, open_keys, open_reader
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import DPAPI, KeyVersion, WrappedKey
from keywrap.kms import RefusedError
from keywrap.providers.dpapi import DpapiKeyProvider
from keywrap.testing.dpapi import Account, WrappingDpapiProvider
from keywrap.testing.kms import MemoryKeyProvider

CONTEXT = {"blob_id": "a"}
GUID, OTHER = str(uuid.uuid4()), str(uuid.uuid4())


def config_of(text: str, store: str = "") -> KeywrapConfig:
    return KeywrapConfig.from_table(
        tomllib.loads(f'[store]\nurl = "file:///srv/blobs"\n{store}\n{text}')
    )


def ring_at(path: Path, *accounts: Account) -> str:
    ring = accounts[0].ring()
    for account in accounts:
        ring = ring.with_keys(account.ring()._keys)
    ring.write(path)
    return f'ring = "{path}"'


def wrap_of(account: Account, data_key: DataKey) -> WrappedKey:
    return WrappingDpapiProvider(account).wrap(data_key, CONTEXT)


def opens(ring: KeyRing, account: Account) -> bool:
    data_key = DataKey.generate()
    wrapped = wrap_of(account, data_key)
    return ring.provider(wrapped.key_version.key).unwrap(wrapped, CONTEXT) == data_key


def refused(text: str, store: str = "") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config_of(text, store)
    return caught.value


@pytest.mark.parametrize(
    ("table", "place", "says"),
    [
        ('mode = "windows"', "[keys.dpapi.a] mode", "auto, native, ring"),
        ('mode = "ring"', "[keys.dpapi.a] ring", "expected with"),
        ('mode = "ring"\nring = "a.json"', "[keys.dpapi.a] ring", "another file"),
        ('mode = "native"\nring = "/a"', "[keys.dpapi.a] ring", "Windows itself"),
        ('inner = "utf8"', "[keys.dpapi.a] inner", "raw, hex, base64, utf16-hex"),
        ('entropy_env = "E"', "[keys.dpapi.a] entropy_encoding", "never guessed"),
        ('entropy_encoding = "hex"', "[keys.dpapi.a] entropy_encoding", "only there"),
        (
            'entropy_env = "E"\nentropy_file = "/e"\nentropy_encoding = "hex"',
            "[keys.dpapi.a]",
            "not both",
        ),
        ("master_keys = []", "[keys.dpapi.a] master_keys", "one or more"),
        (f'master_keys = ["{GUID.upper()}"]', "[keys.dpapi.a] master_keys", "number 1"),
        (f'master_keys = ["{GUID}", "x"]', "[keys.dpapi.a] master_keys", "number 2"),
        (f'master_keys = ["{GUID}", "{GUID}"]', "[keys.dpapi.a] master_keys", "already"),
        ('queue = "a b"', "[keys.dpapi.a] queue", "letters"),
        ('entropy = "secret"', "[keys.dpapi.a]", "unknown field `entropy`"),
    ],
)
def test_a_table_that_leaves_a_doubt_is_refused(table: str, place: str, says: str) -> None:
    error = refused(f"[keys.dpapi.a]\n{table}")
    assert error.place == place
    assert says in str(error)


def test_no_master_key_is_claimed_twice_and_one_table_at_most_takes_the_rest() -> None:
    both = f'[keys.dpapi.a]\nmaster_keys = ["{GUID}"]\n[keys.dpapi.b]\nmaster_keys = ["{GUID}"]'
    assert "listed in [keys.dpapi.a] already" in str(refused(both))
    assert "only one table" in str(refused("[keys.dpapi.a]\n[keys.dpapi.b]"))
    config_of(f'[keys.dpapi.a]\nmaster_keys = ["{GUID}"]\n[keys.dpapi.b]')


def test_a_ring_opens_the_master_keys_that_its_table_lists_and_no_other(tmp_path: Path) -> None:
    mine, other = Account(), Account()
    line = ring_at(tmp_path / "ring.json", mine, other)
    config = config_of(f'[keys.dpapi.a]\n{line}\nmaster_keys = ["{mine.guid}"]')
    ring = open_keys(config, {})
    assert f"dpapi:{mine.guid}" in ring
    assert opens(ring, mine)
    for key in (f"dpapi:{other.guid}", f"dpapi:{mine.guid.upper()}", "dpapi:", "dpapi", "dpapi:a"):
        assert key not in ring, "that the file holds it lists no key"
        with pytest.raises(UnlistedKeyError):
            ring.provider(key)
        with pytest.raises(UnlistedKeyError):
            open_key(config, key, {})
    assert config.keys.uris() == (f"dpapi:{mine.guid}",)
    assert isinstance(open_key(config, f"dpapi:{mine.guid}", {}), DpapiKeyProvider)


def test_each_master_key_goes_to_the_one_table_that_claims_it(tmp_path: Path) -> None:
    first, second = Account(entropy=b"one"), Account(entropy=b"\xff\0")
    third = Account(second.guid[:-4] + "0000", entropy=b"\xff\0")
    (tmp_path / "entropy").write_bytes(b"ff00\r\n")
    config = config_of(
        f'[keys.dpapi.one]\n{ring_at(tmp_path / "1", first)}\nmaster_keys = ["{first.guid}"]\n'
        'entropy_env = "E"\nentropy_encoding = "text"\n'
        f"[keys.dpapi.rest]\n{ring_at(tmp_path / '2', second, third)}\n"
        f'entropy_file = "{tmp_path / "entropy"}"\nentropy_encoding = "hex"\n'
    )
    ring = open_keys(config, {"E": "one"})
    assert all(opens(ring, account) for account in (first, second, third))
    unknown = wrap_of(Account(), DataKey.generate())
    with pytest.raises(RefusedError) as caught:
        ring.provider(unknown.key_version.key).unwrap(unknown, CONTEXT)
    assert caught.value.reason_code == "dpapi_master_key_missing"


def test_a_ring_of_keys_stays_as_it_is_without_families() -> None:
    ring = KeyRing([MemoryKeyProvider()])
    assert f"dpapi:{GUID}" not in ring
    with pytest.raises(UnlistedKeyError):
        ring.provider(f"dpapi:{GUID}")


def test_master_keys_are_counted_in_no_request(tmp_path: Path) -> None:
    account = Account()
    ring = open_keys(config_of(f"[keys.dpapi.a]\n{ring_at(tmp_path / 'r', account)}"), {})
    assert opens(ring, account)
    assert (ring.requests, ring.keys()) == (0, ())


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "none is named"),
        ('mode = "auto"', "none is named"),
        ('mode = "native"', "those of Windows"),
        ('ring = "/no/such/ring"', "rewrap dpapi-ring"),
    ],
)
def test_what_opens_nothing_here_is_told_at_the_start(table: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_keys(config_of(f"[keys.dpapi.a]\n{table}"), {})
    assert caught.value.next_command


def test_missing_or_malformed_entropy_is_told_at_the_start_and_never_shown(tmp_path: Path) -> None:
    table = f'[keys.dpapi.a]\n{ring_at(tmp_path / "r", Account())}\nentropy_env = "E"\n'
    config = config_of(table + 'entropy_encoding = "hex"')
    with pytest.raises(ConfigError, match="E is not set"):
        open_keys(config, {})
    with pytest.raises(ConfigError, match="hexadecimal") as caught:
        open_keys(config, {"E": "no hex, a secret"})
    assert "no hex" not in f"{caught.value} {caught.value.__cause__!r}"


def test_a_ring_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    line = ring_at(tmp_path / "r", Account())
    (tmp_path / "r").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_keys(config_of(f"[keys.dpapi.a]\n{line}"), {})


# Queues


def test_a_key_is_of_the_queue_of_the_table_that_claims_it() -> None:
    keys = config_of(
        f'[keys.dpapi.a]\nmaster_keys = ["{GUID}"]\nqueue = "win-a"\n'
        '[keys.dpapi.b]\nqueue = "win-b"\n'
        '[keys.env.TWO]\nencoding = "raw"\nscheme = "direct"\nfrom = "dpapi:X"\nqueue = "win-c"\n'
        '[keys.env.BLOB_KEY]\nencoding = "hex"\nscheme = "direct"\n'
    ).keys
    assert keys.queue_of(f"dpapi:{GUID}") == "win-a"
    assert keys.queue_of(f"dpapi:{OTHER}") == "win-b"
    assert keys.queue_of("env:TWO") == "win-c"
    for key in ("env:BLOB_KEY", "env:OTHER", "hcvault://transit/k", "dpapi", "dpapi:x", ""):
        assert keys.queue_of(key) == ""


def test_a_master_key_that_no_table_claims_has_no_queue() -> None:
    keys = config_of(f'[keys.dpapi.a]\nmaster_keys = ["{GUID}"]\nqueue = "win-a"').keys
    assert keys.queue_of(f"dpapi:{OTHER}") == ""
    assert keys.lists(f"dpapi:{GUID}")
    assert not keys.lists(f"dpapi:{OTHER}")


def test_a_table_of_another_queue_is_not_opened_and_its_wraps_are_refused(tmp_path: Path) -> None:
    here, there = Account(), Account()
    config = config_of(
        f'[keys.dpapi.here]\n{ring_at(tmp_path / "r", here)}\nmaster_keys = ["{here.guid}"]\n'
        f'queue = "linux"\n[keys.dpapi.there]\nmode = "native"\nqueue = "win-7"\n'
        "[keys.env.BLOB_KEY]\n"
        'encoding = "raw"\nscheme = "direct"\nfrom = "dpapi-file:/no/such"\nqueue = "win-7"\n'
    )
    ring = open_keys(config, {}, queues={"linux"})
    assert opens(ring, here)
    wraps = wrap_of(there, DataKey.generate()), WrappedKey(KeyVersion("env:BLOB_KEY"), b"")
    for wrapped in wraps:
        with pytest.raises(RefusedError) as caught:
            ring.provider(wrapped.key_version.key).unwrap(wrapped, CONTEXT)
        assert caught.value.reason_code == "key_elsewhere"
        assert "'win-7'" in str(caught.value)
    nothing = open_keys(config, {}, queues=())
    assert f"dpapi:{here.guid}" in nothing
    with pytest.raises(RefusedError):
        opens(nothing, here)
    for queues in (None, {"linux", "win-7"}):
        with pytest.raises(ConfigError):
            open_keys(config, {}, queues=queues)


def test_a_table_without_a_queue_is_opened_by_every_worker(tmp_path: Path) -> None:
    account = Account()
    config = config_of(f"[keys.dpapi.a]\n{ring_at(tmp_path / 'r', account)}")
    for queues in (None, (), {"any"}):
        assert opens(open_keys(config, {}, queues=queues), account)


# DPAPI protects the one key


TWO_STEP = '[keys.env.BLOB_KEY]\nencoding = "{}"\nscheme = "{}"\nfrom = "{}"\n'


@pytest.mark.parametrize("entropy", [b"", b"app"])
def test_dpapi_may_protect_the_one_key_in_a_variable_or_a_file(
    tmp_path: Path, entropy: bytes
) -> None:
    account, key = Account(entropy=entropy), DataKey.generate()
    table = f"[keys.dpapi.a]\n{ring_at(tmp_path / 'r', account)}\n"
    if entropy:
        table += 'entropy_env = "E"\nentropy_encoding = "text"\n'
    blob = account.protect(key.reveal())
    (tmp_path / "blob").write_bytes(blob)
    environ = {"BLOB_KEY_DPAPI": base64.b64encode(blob).decode(), "E": "app"}
    for source in ("dpapi:BLOB_KEY_DPAPI", f"dpapi-file:{tmp_path / 'blob'}"):
        text = table + TWO_STEP.format("raw", "direct", source)
        config = config_of(text, 'legacy_default = "env:BLOB_KEY"')
        ring = open_keys(config, environ)
        direct = WrappedKey(KeyVersion("env:BLOB_KEY"), b"")
        assert ring.provider("env:BLOB_KEY").unwrap(direct, CONTEXT) == key
        assert open_key(config, "env:BLOB_KEY", environ).unwrap(direct, CONTEXT) == key


def test_what_dpapi_protects_is_read_in_the_encoding_of_the_key(tmp_path: Path) -> None:
    account, key = Account(), DataKey.generate()
    table = f'[keys.dpapi.a]\n{ring_at(tmp_path / "r", account)}\ninner = "base64"\n'
    config = config_of(table + TWO_STEP.format("hex", "aes-gcm", "dpapi:B"))
    environ = {"B": base64.b64encode(account.protect(key.reveal().hex().encode())).decode()}
    provider = open_keys(config, environ).provider("env:BLOB_KEY")
    wrapped = provider.wrap(key, CONTEXT)
    assert provider.unwrap(wrapped, CONTEXT) == key
    raw = {"B": base64.b64encode(account.protect(key.reveal())).decode()}
    with pytest.raises(ConfigError, match="it is not hex"):
        open_keys(config, raw)


@pytest.mark.parametrize(
    ("line", "place", "says"),
    [
        ('from = "vault:X"', "[keys.env.K] from", "dpapi:VARIABLE"),
        ('from = "dpapi:"', "[keys.env.K] from", "dpapi:VARIABLE"),
        ('from = "dpapi:X"\nvariable = "Y"', "[keys.env.K] from", "without"),
        ('from = "dpapi:X"\nfile = "/y"', "[keys.env.K] from", "without"),
        ('queue = "win"', "[keys.env.K] queue", "with `from`"),
        ('from = "dpapi:X"\nqueue = "w w"', "[keys.env.K] queue", "letters"),
        ('protected = "dpapi:X"', "[keys.env.K]", "unknown field"),
    ],
)
def test_a_source_that_leaves_a_doubt_is_refused(line: str, place: str, says: str) -> None:
    error = refused(f'[keys.env.K]\nencoding = "raw"\nscheme = "direct"\n{line}')
    assert error.place == place
    assert says in str(error)


def test_a_protected_key_that_does_not_open_stops_the_start_with_what_to_do(tmp_path: Path) -> None:
    account, stranger = Account(), Account()
    line = f'{ring_at(tmp_path / "r", account)}\nmaster_keys = ["{account.guid}", "{GUID}"]\n'
    config = config_of(f"[keys.dpapi.a]\n{line}" + TWO_STEP.format("raw", "direct", "dpapi:B"))
    blob = account.protect(bytes(32))
    cases = {
        b"": "B is not set",
        b"!": "canonical base64",
        base64.b64encode(bytes(32)): "no sound DPAPI blob",
        base64.b64encode(b"\1\0\0\0Wine Crypt32 ok\0"): "Wine made this",
        base64.b64encode(stranger.protect(bytes(32))): "no table",
        base64.b64encode(Account(GUID).protect(bytes(32))): "has no master key",
        base64.b64encode(blob[:-1] + bytes([blob[-1] ^ 1])): "does not open",
        base64.b64encode(account.protect(bytes(33))): "this one 33",
    }
    for value, says in cases.items():
        with pytest.raises(ConfigError, match=says) as caught:
            open_keys(config, {"B": value.decode()})
        assert caught.value.place.startswith("[keys.env.BLOB_KEY]")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_keys(
            config_of(
                f"[keys.dpapi.a]\n{line}" + TWO_STEP.format("raw", "direct", "dpapi-file:/x")
            ),
            {},
        )


def test_a_protected_key_whose_master_key_is_elsewhere_wants_the_queue_of_that_host(
    tmp_path: Path,
) -> None:
    account = Account()
    table = f'[keys.dpapi.a]\n{ring_at(tmp_path / "r", account)}\nqueue = "win"\n'
    text = table + TWO_STEP.format("raw", "direct", "dpapi:B")
    environ = {"B": base64.b64encode(account.protect(bytes(32))).decode()}
    with pytest.raises(ConfigError, match="'win'") as caught:
        open_keys(config_of(text), environ, queues=())
    assert caught.value.next_command == 'queue = "win"'
    with_queue = config_of(text.replace('from = "dpapi:B"', 'from = "dpapi:B"\nqueue = "win"'))
    assert open_keys(with_queue, environ, queues=()).provider("env:BLOB_KEY").requests == 0
    assert open_keys(with_queue, environ, queues={"win"})


# legacy_default


def test_the_default_may_be_dpapi_as_a_whole_where_a_table_is_listed(tmp_path: Path) -> None:
    text = f"[keys.dpapi.a]\n{ring_at(tmp_path / 'r', Account())}"
    config = config_of(text, 'legacy_default = "dpapi"')
    (tmp_path / "blobs").mkdir()
    there = tomllib.loads(f'[store]\nurl = "{(tmp_path / "blobs").as_uri()}"\n{text}')
    there["store"]["legacy_default"] = "dpapi"
    assert open_reader(KeywrapConfig.from_table(there)).legacy_default == DPAPI
    assert config.store.legacy_default == "dpapi"
    assert "known provider" in str(refused("", 'legacy_default = "dpapi"'))


def test_the_default_may_be_one_master_key_that_is_listed() -> None:
    table = f'[keys.dpapi.a]\nmaster_keys = ["{GUID}"]'
    config_of(table, f'legacy_default = "dpapi:{GUID}"')
    assert "not listed" in str(refused(table, f'legacy_default = "dpapi:{OTHER}"'))


@pytest.mark.parametrize("primary", ["dpapi", f"dpapi:{GUID}"])
def test_no_new_wraps_go_under_dpapi(primary: str) -> None:
    table = f'[keys]\nprimary = "{primary}"\n[keys.dpapi.a]\nmaster_keys = ["{GUID}"]'
    assert refused(table).place == "[keys] primary"
