import fcntl
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedded.errors import EmbeddedError
from embedded.softhsm import SoftHsm, _fetched
from keywrap.config import KeywrapConfig, open_key
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import DeniedError, UnavailableError
from keywrap.providers import pkcs11_token
from keywrap.providers.pkcs11 import Pkcs11KeyWrapProvider, Pkcs11Provider
from keywrap.providers.pkcs11_token import TokenAddress
from tests.forks import holds_in_fork
from tests.hsms import CONTEXT, DATA_KEY, KINDS, HsmToken, make_key, with_key

ROOT = Path(__file__).resolve().parents[2]

PROCESS = """
import sys
from pathlib import Path
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import KmsError
from keywrap.providers import pkcs11
kind, module, label, pin = sys.argv[1:5]
address = pkcs11.TokenAddress(Path(module), label, lambda: pin)
provider = getattr(pkcs11, kind)(address, "blob-kek")
"""


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest, hsm_token: HsmToken) -> Pkcs11Provider:
    return with_key(hsm_token, request.param)


def process(token: HsmToken, provider: Pkcs11Provider, text: str) -> subprocess.Popen[str]:
    """Start a process of its own that has a `provider` of the same key."""
    arguments = [type(provider).__name__, str(token.hsm.module), token.label, token.pin]
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS + text, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert err == ""
    return out


def test_eight_processes_log_in_at_once_and_wrap_and_unwrap(
    either: Pkcs11Provider, hsm_token: HsmToken
) -> None:
    wrapped = either.wrap(DATA_KEY, CONTEXT)
    text = f"""
input()
wrapped = WrappedKey(KeyVersion(provider.key, "1"), bytes.fromhex("{wrapped.ciphertext.hex()}"))
for place in range(20):
    provider._token._module.forget()  # logs in anew
    assert provider.unwrap(wrapped, {CONTEXT!r}) == DataKey(bytes(range(32)))
    data_key, context = DataKey.generate(), {{"blob_id": str(place)}}
    assert provider.unwrap(provider.wrap(data_key, context), context) == data_key
"""
    children = [process(hsm_token, either, text) for _ in range(8)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        ended(child)


def test_processes_that_make_versions_at_once_make_each_once(
    either: Pkcs11Provider, hsm_token: HsmToken
) -> None:
    text = """
for _ in range(5):
    print(provider.create_version().version)
"""
    children = [process(hsm_token, either, text) for _ in range(4)]
    made = [int(word) for child in children for word in ended(child).split()]
    assert sorted(made) == list(range(2, 22))
    assert either.current_version().version == "21"
    assert either.unwrap(either.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY


def test_a_process_killed_while_it_makes_versions_leaves_one_that_works(
    either: Pkcs11Provider, hsm_token: HsmToken
) -> None:
    text = """
provider.current_version()
print("ready", flush=True)
while True:
    print(provider.create_version().version, flush=True)
"""
    chance = random.Random(11)
    for _ in range(6):
        child = process(hsm_token, either, text)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.02))
        child.kill()
        out, _ = child.communicate()
        told = int(out.split()[-1]) if out.split() else 0
        current = either.current_version()
        assert not told or int(current.version) - told in {0, 1}
        wrapped = either.wrap(DATA_KEY, CONTEXT)
        assert wrapped.key_version == current
        assert either.unwrap(wrapped, CONTEXT) == DATA_KEY


def test_a_rotation_and_a_switch_in_another_process_are_seen_at_once(
    either: Pkcs11Provider, hsm_token: HsmToken
) -> None:
    old = either.wrap(DATA_KEY, CONTEXT)
    name = f"KeyVersion({either.key!r}, '1')"
    ended(
        process(hsm_token, either, f"provider.create_version(); provider.disable_version({name})")
    )
    new = either.wrap(DATA_KEY, CONTEXT)
    assert new.key_version == KeyVersion(either.key, "2")
    with pytest.raises(DeniedError) as disabled:
        either.unwrap(old, CONTEXT)
    assert disabled.value.reason_code == "version_disabled"
    ended(process(hsm_token, either, f"provider.enable_version({name})"))
    assert either.unwrap(old, CONTEXT) == DATA_KEY


def test_threads_and_providers_of_two_tokens_take_turns(softhsm: SoftHsm) -> None:
    providers = []
    for kind in KINDS:
        label = f"thread-{random.randrange(10**9)}"
        providers.append(with_key(HsmToken(softhsm, label, softhsm.create_token(label)), kind))

    def turn(place: int) -> bool:
        provider = providers[place % 2]
        data_key, context = DataKey.generate(), {"blob_id": str(place)}
        if place % 50 == 0:
            provider._token._module.forget()
        wrapped = provider.wrap(data_key, context)
        if isinstance(provider, Pkcs11KeyWrapProvider):
            (moved,) = provider.rewrap_many([(wrapped, context)])
            assert isinstance(moved, WrappedKey)
            wrapped = moved
        return provider.unwrap(wrapped, context) == data_key

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(turn, range(800)))


def test_a_forked_process_begins_anew_and_its_parent_goes_on(
    either: Pkcs11Provider,
) -> None:
    wrapped = either.wrap(DATA_KEY, CONTEXT)
    session = either._token.session()

    def begins_anew() -> bool:
        opened = either.unwrap(wrapped, CONTEXT) == DATA_KEY
        return opened and either._token.session() is not session

    assert holds_in_fork(begins_anew)
    assert either.unwrap(wrapped, CONTEXT) == DATA_KEY
    assert either._token.session() is session
    assert holds_in_fork(lambda: holds_in_fork(begins_anew)), "a grandchild too"


@pytest.mark.timeout(60)
def test_a_fork_beside_busy_threads_leaves_no_locked_lock(either: Pkcs11Provider) -> None:
    wrapped = either.wrap(DATA_KEY, CONTEXT)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            either.unwrap(wrapped, CONTEXT)

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert holds_in_fork(lambda: either.unwrap(wrapped, CONTEXT) == DATA_KEY)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert either.unwrap(wrapped, CONTEXT) == DATA_KEY


def test_a_pool_of_worker_processes_uses_a_provider_made_before_it(
    either: Pkcs11Provider,
) -> None:
    wrapped = either.wrap(DATA_KEY, CONTEXT)
    with multiprocessing.get_context("fork").Pool(4, initializer=_take, initargs=(either,)) as pool:
        assert pool.map(_opens, [wrapped] * 40) == [True] * 40


def _take(provider: Pkcs11Provider) -> None:
    globals()["_taken"] = provider


def _opens(wrapped: WrappedKey) -> bool:
    return bool(globals()["_taken"].unwrap(wrapped, CONTEXT) == DATA_KEY)


def test_a_login_waits_for_another_process_s_and_not_for_ever(
    hsm_token: HsmToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = with_key(hsm_token)
    monkeypatch.setattr(pkcs11_token, "WAIT_S", 0.2)
    with hsm_token.hsm.module.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError) as locked:
            provider.create_version()
        assert locked.value.reason_code == "token_locked"
        assert provider.unwrap(provider.wrap(DATA_KEY, CONTEXT), CONTEXT) == DATA_KEY
    assert provider.create_version().version == "2"


@pytest.mark.parametrize("mechanism", ["aes-gcm", "aes-kw"])
def test_a_process_finds_the_token_by_configuration_and_environment_alone(
    hsm_token: HsmToken, mechanism: str, tmp_path: Path
) -> None:
    key = make_key(hsm_token, "blob kek", mechanism)
    toml = f'[store]\nurl = "file://{tmp_path}"\n[keys]\nprimary = "{key.uri}"\n{key.toml}'
    config = KeywrapConfig.from_table(tomllib.loads(toml))
    provider = open_key(config, key.uri, key.environment)
    assert isinstance(provider, Pkcs11KeyWrapProvider) == (mechanism == "aes-kw")
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    text = f"""
import os, sys, tomllib
from keywrap.config import KeywrapConfig, open_keys
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import UnavailableError
ring = open_keys(KeywrapConfig.from_table(tomllib.loads({toml!r})), os.environ)
wrapped = WrappedKey(KeyVersion.parse({str(wrapped.key_version)!r}), {wrapped.ciphertext!r})
try:
    print(len(ring.provider({key.uri!r}).unwrap(wrapped, {CONTEXT!r}).reveal()))
except UnavailableError as error:
    print(error.reason_code)
"""
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **key.environment}
    for left_out, said in (("", "32"), ("SOFTHSM2_CONF", "token_not_found")):
        done = subprocess.run(
            [sys.executable, "-c", text],
            env={name: value for name, value in environment.items() if name != left_out},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == said


def test_where_softhsm_cannot_be_fetched_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match="this is no Debian"):
        _fetched(tmp_path / "cache")


def test_a_softhsm_that_does_not_run_makes_no_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    program = tmp_path / "util"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    program.chmod(0o700)
    with pytest.raises(EmbeddedError, match="broken"):
        SoftHsm(softhsm.module, program, softhsm.directory).create_token("none")


def test_an_address_shows_no_pin(hsm_token: HsmToken) -> None:
    address = TokenAddress(hsm_token.hsm.module, hsm_token.label, lambda: hsm_token.pin)
    assert hsm_token.pin not in f"{address!r} {hsm_token!r} {Pkcs11Provider(address, 'k')!r}"
