import base64
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hvac
import pytest

from embedded import OpenBao
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    Context,
    DeniedError,
    KeyProvider,
    KmsError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from keywrap.providers.vault import VaultTransitProvider, canonical_context, check_key_path
from keywrap.providers.vault_connection import VaultServer, token_file
from keywrap.testing.kms import ProviderConformance
from tests.forks import holds_in_fork

CONTEXT = {"blob_id": "tenants/7/invoice.pdf"}
DATA_KEY = DataKey(bytes(range(32)))
DATA_KEY_TEXT = base64.b64encode(bytes(range(32))).decode()
TOKEN = "s.not-a-real-token"


@pytest.fixture
def root(openbao: OpenBao) -> Any:
    client = hvac.Client(url=openbao.address, token=openbao.token)
    yield client
    client.adapter.close()


@pytest.fixture
def provider(openbao: OpenBao, transit_key: str) -> VaultTransitProvider:
    return provider_of(openbao, transit_key)


def provider_of(openbao: OpenBao, name: str, token: str = "") -> VaultTransitProvider:
    server = VaultServer(openbao.address, lambda: token or openbao.token)
    return VaultTransitProvider(f"transit/{name}", server)


def configure(root: Any, name: str, **settings: object) -> None:
    root.adapter.post(f"/v1/transit/keys/{name}/config", json=settings)


class TestVaultTransitProvider(ProviderConformance):
    @pytest.fixture
    def provider(self, openbao: OpenBao, transit_key: str) -> KeyProvider:
        return provider_of(openbao, transit_key)


def test_a_wrap_is_what_transit_itself_would_open(
    provider: VaultTransitProvider, root: Any, transit_key: str
) -> None:
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    text = base64.b64encode(wrapped.ciphertext).decode()
    opened = root.secrets.transit.decrypt_data(
        transit_key,
        ciphertext=f"vault:v1:{text}",
        context=base64.b64encode(b'{"blob_id":"tenants/7/invoice.pdf"}').decode(),
    )
    assert opened["data"]["plaintext"] == DATA_KEY_TEXT


def test_a_context_is_encoded_in_one_way_for_ever() -> None:
    context = {"b": 'ä/"\n', "a": ""}
    assert canonical_context(context) == '{"a":"","b":"ä/\\"\\n"}'.encode()
    assert canonical_context({}) == b"{}"


@pytest.mark.parametrize(
    "path", ["", "kek", "/kek", "transit/", "a//b", "../kek", "a/..", "a/b?c", "a/b c", "a/%2e"]
)
def test_a_key_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="<mount>/<key name>"):
        check_key_path(path)


def test_a_mount_may_have_several_segments() -> None:
    assert check_key_path("teams/7/transit/blob-kek") == ("teams/7/transit", "blob-kek")


def test_making_a_provider_asks_nothing_of_the_server(provider: VaultTransitProvider) -> None:
    assert provider.requests == 0
    provider.current_version()
    assert provider.requests == 1


class TestPermissions:
    """A token that may only rewrap: no plaintext reaches whoever has it."""

    @pytest.fixture
    def rewrapper(self, openbao: OpenBao, root: Any, transit_key: str) -> VaultTransitProvider:
        root.sys.create_or_update_policy(
            transit_key,
            f'path "transit/rewrap/{transit_key}" {{ capabilities = ["update"] }}\n'
            f'path "transit/keys/{transit_key}" {{ capabilities = ["read"] }}\n',
        )
        return provider_of(openbao, transit_key, new_token(root, transit_key))

    def test_it_rewraps(
        self, provider: VaultTransitProvider, rewrapper: VaultTransitProvider
    ) -> None:
        old = provider.wrap(DATA_KEY, CONTEXT)
        newer = provider.create_version()
        (moved,) = rewrapper.rewrap_many([(old, CONTEXT)])
        assert isinstance(moved, WrappedKey)
        assert moved.key_version == newer
        assert provider.unwrap(moved, CONTEXT) == DATA_KEY

    def test_everything_else_is_denied(
        self, provider: VaultTransitProvider, rewrapper: VaultTransitProvider
    ) -> None:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        denied(lambda: rewrapper.unwrap(wrapped, CONTEXT), "permission_denied")
        denied(lambda: rewrapper.wrap(DATA_KEY, CONTEXT), "permission_denied")
        denied(rewrapper.create_version, "permission_denied")


def new_token(root: Any, policy: str) -> str:
    made = root.auth.token.create(policies=[policy], ttl="10m", no_default_policy=True)
    return str(made["auth"]["client_token"])


def denied(act: Callable[[], object], reason_code: str) -> DeniedError:
    with pytest.raises(DeniedError) as refused:
        act()
    assert refused.value.reason_code == reason_code
    return refused.value


def test_a_revoked_token_is_denied(openbao: OpenBao, root: Any, transit_key: str) -> None:
    token = new_token(root, "root")
    provider = provider_of(openbao, transit_key, token)
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    root.auth.token.revoke(token)
    error = denied(lambda: provider.unwrap(wrapped, CONTEXT), "permission_denied")
    assert token not in f"{error!r} {provider!r} {vars(provider)!r}"


def test_a_renewed_token_file_mends_without_a_restart(
    openbao: OpenBao, root: Any, transit_key: str, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(new_token(root, "root") + "\n")
    server = VaultServer(openbao.address, token_file(path))
    provider = VaultTransitProvider(f"transit/{transit_key}", server)
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    root.auth.token.revoke(path.read_text().strip())
    before = provider.requests
    denied(lambda: provider.unwrap(wrapped, CONTEXT), "permission_denied")
    assert provider.requests == before + 1, "the same token is not tried twice"
    path.unlink()
    denied(lambda: provider.unwrap(wrapped, CONTEXT), "permission_denied")
    path.write_text(new_token(root, "root"))
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
    path.unlink()
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY, "read only when a token is refused"


def test_a_token_that_cannot_be_read_is_denied(openbao: OpenBao, tmp_path: Path) -> None:
    server = VaultServer(openbao.address, token_file(tmp_path / "none"))
    provider = VaultTransitProvider("transit/kek", server)
    denied(provider.current_version, "token_unreadable")
    assert provider.requests == 0


def test_a_missing_key_is_denied_and_never_created(
    openbao: OpenBao, root: Any, provider: VaultTransitProvider
) -> None:
    missing = provider_of(openbao, "no-such-key")
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    relabelled = WrappedKey(KeyVersion(missing.key, "1"), wrapped.ciphertext)
    denied(lambda: missing.wrap(DATA_KEY, CONTEXT), "key_not_found")
    denied(lambda: missing.unwrap(relabelled, CONTEXT), "key_not_found")
    denied(lambda: missing.rewrap_many([(relabelled, CONTEXT)]), "key_not_found")
    denied(missing.create_version, "key_not_found")
    with pytest.raises(hvac.exceptions.InvalidPath):
        root.secrets.transit.read_key("no-such-key")


def test_a_key_deleted_under_way_is_denied(
    root: Any, provider: VaultTransitProvider, transit_key: str
) -> None:
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    configure(root, transit_key, deletion_allowed=True)
    root.secrets.transit.delete_key(transit_key)
    denied(lambda: provider.unwrap(wrapped, CONTEXT), "key_not_found")
    denied(lambda: provider.rewrap_many([(wrapped, CONTEXT)]), "key_not_found")


def test_a_missing_mount_is_denied(openbao: OpenBao) -> None:
    server = VaultServer(openbao.address, lambda: openbao.token)
    denied(VaultTransitProvider("elsewhere/kek", server).current_version, "mount_not_found")


def test_a_soft_deleted_key_is_denied(
    root: Any, provider: VaultTransitProvider, transit_key: str
) -> None:
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    root.adapter.delete(f"/v1/transit/keys/{transit_key}/soft-delete")
    for act in (
        provider.current_version,
        provider.create_version,
        lambda: provider.wrap(DATA_KEY, CONTEXT),
        lambda: provider.unwrap(wrapped, CONTEXT),
        lambda: provider.rewrap_many([(wrapped, CONTEXT)]),
    ):
        denied(act, "key_soft_deleted")


def test_a_version_below_the_minimum_is_denied_and_not_quarantined(
    root: Any, provider: VaultTransitProvider, transit_key: str
) -> None:
    old = provider.wrap(DATA_KEY, CONTEXT)
    provider.create_version()
    new = provider.wrap(DATA_KEY, CONTEXT)
    configure(root, transit_key, min_decryption_version=2)
    for items in ([(old, CONTEXT)], [(new, CONTEXT), (old, CONTEXT)]):
        denied(lambda items=items: provider.unwrap_many(items), "version_not_allowed")
        denied(lambda items=items: provider.rewrap_many(items), "version_not_allowed")
    configure(root, transit_key, min_decryption_version=1)
    assert provider.unwrap(old, CONTEXT) == DATA_KEY


def test_a_key_that_is_not_derived_is_denied_with_the_command_that_makes_one(
    root: Any, openbao: OpenBao, transit_key: str
) -> None:
    name = f"{transit_key}-plain"
    root.secrets.transit.create_key(name)
    provider = provider_of(openbao, name)
    wrapped = WrappedKey(KeyVersion(provider.key, "1"), bytes(60))
    for act in (
        provider.current_version,
        provider.create_version,
        lambda: provider.wrap(DATA_KEY, CONTEXT),
        lambda: provider.rewrap_many([(wrapped, CONTEXT)]),
    ):
        assert "bao write -f transit/keys/" in str(denied(act, "key_not_derived"))


def test_a_wrap_of_what_is_no_aes_key_is_refused_unshown(
    root: Any, provider: VaultTransitProvider, transit_key: str
) -> None:
    made = root.secrets.transit.encrypt_data(
        transit_key,
        plaintext=base64.b64encode(b"twenty secret bytes!").decode(),
        context=base64.b64encode(canonical_context(CONTEXT)).decode(),
    )
    ciphertext = base64.b64decode(made["data"]["ciphertext"].removeprefix("vault:v1:"))
    with pytest.raises(RefusedError) as refused:
        provider.unwrap(WrappedKey(KeyVersion(provider.key, "1"), ciphertext), CONTEXT)
    assert refused.value.reason_code == "inner_key_length"
    assert "secret" not in repr(refused.value)


def test_a_batch_that_is_too_complex_is_halved_and_the_size_remembered(
    openbao: OpenBao, transit_key: str
) -> None:
    server = VaultServer(openbao.address, lambda: openbao.token)
    provider = VaultTransitProvider(f"transit/{transit_key}", server, batch_items=1000)
    items: list[tuple[DataKey, Context]] = [
        (DataKey.generate(), {"blob_id": str(place)}) for place in range(1000)
    ]
    wraps = provider.wrap_many(items)
    assert provider.batch_items == 125
    before = provider.requests
    sound = [wrapped for wrapped in wraps if isinstance(wrapped, WrappedKey)]
    opened = provider.unwrap_many(
        [(wrapped, context) for wrapped, (_, context) in zip(sound, items, strict=True)]
    )
    assert opened == [data_key for data_key, _ in items]
    assert provider.requests == before + 8


def test_a_rate_limit_is_told_as_throttling(
    root: Any, provider: VaultTransitProvider, transit_key: str
) -> None:
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    quota = f"/v1/sys/quotas/rate-limit/{transit_key}"
    path = f"transit/decrypt/{transit_key}"
    root.adapter.post(quota, json={"path": path, "rate": 1, "interval": "1h"})
    try:
        assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY
        before = provider.requests
        with pytest.raises(ThrottledError):
            provider.unwrap(wrapped, CONTEXT)
        assert 1 <= provider.requests - before <= 3
    finally:
        root.adapter.delete(quota)


def test_a_server_that_is_away_is_unavailable_within_seconds(unused_address: str) -> None:
    provider = VaultTransitProvider("transit/kek", VaultServer(unused_address, lambda: TOKEN))
    for act in (
        provider.current_version,
        lambda: provider.wrap(DATA_KEY, CONTEXT),
        provider.create_version,
    ):
        with pytest.raises(UnavailableError) as away:
            act()
        hides_secrets(away.value)
    assert provider.requests == 9


@pytest.fixture
def unused_address() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_address[1]}"


def hides_secrets(error: KmsError) -> None:
    """No part of the chain of errors holds the token or the data key, hidden or not."""
    link: BaseException | None = error
    while link is not None:
        shown = "".join(traceback.format_exception(link)) + repr(vars(link))
        assert TOKEN not in shown
        assert DATA_KEY_TEXT not in shown
        link = link.__context__ or link.__cause__


def test_threads_share_a_provider(provider: VaultTransitProvider) -> None:
    def round_trip(place: int) -> bool:
        data_key, context = DataKey.generate(), {"blob_id": str(place)}
        return provider.unwrap(provider.wrap(data_key, context), context) == data_key

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(80)))
    assert 160 < provider.requests <= 168, "each request counted, the key checked at first use"


def test_a_forked_process_connects_anew(provider: VaultTransitProvider) -> None:
    wrapped = provider.wrap(DATA_KEY, CONTEXT)
    assert holds_in_fork(lambda: provider.unwrap(wrapped, CONTEXT) == DATA_KEY)
    assert provider.unwrap(wrapped, CONTEXT) == DATA_KEY


class OddServer:
    """Answers as no sound Transit would: what was put for a method and path, and counts."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {
            "GET keys": (200, {"data": {"derived": True, "latest_version": 1}})
        }
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                operation = self.path.split("/")[3]
                if self.path.endswith("/rotate"):
                    operation = "rotate"
                asked = f"{self.command} {operation}"
                odd.asked.append(asked)
                odd.tokens.append(self.headers["X-Vault-Token"])
                status, body = odd.answers[asked]
                if status == 0:
                    self.close_connection = True
                    return
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if status == 307:
                    self.send_header("Location", f"{odd.address}/v1/stolen/elsewhere")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815 - http.server's own spelling

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.provider = VaultTransitProvider(
            "transit/kek", VaultServer(self.address, lambda: TOKEN, timeout_s=2)
        )


@pytest.fixture
def odd() -> Iterator[OddServer]:
    odd = OddServer()
    yield odd
    odd.server.shutdown()
    odd.server.server_close()
    odd.thread.join()


def batch(*items: dict[str, object]) -> dict[str, object]:
    return {"data": {"batch_results": list(items)}}


SOUND = {"ciphertext": "vault:v1:" + base64.b64encode(bytes(60)).decode(), "key_version": 1}


@pytest.mark.parametrize(
    "body",
    [
        batch(),
        batch(SOUND, SOUND),
        {"data": None},
        {},
        batch({**SOUND, "key_version": 2}),
        batch({"ciphertext": SOUND["ciphertext"]}),
        batch({**SOUND, "key_version": "1"}),
        batch({**SOUND, "ciphertext": "vault:v1:AAA"}),
        batch({**SOUND, "ciphertext": "vault:v1:A*A="}),
        batch({**SOUND, "ciphertext": "other:v1:AAAA"}),
        batch({**SOUND, "ciphertext": "vault:v01:AAAA"}),
        batch({"key_version": 1}),
        b"<html>a proxy</html>",
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_not_sound_gives_no_wrap(odd: OddServer, body: object) -> None:
    odd.answers["POST encrypt"] = odd.answers["POST rewrap"] = (200, body)
    wrapped = WrappedKey(KeyVersion(odd.provider.key, "1"), bytes(60))
    for act in (
        lambda: odd.provider.wrap(DATA_KEY, CONTEXT),
        lambda: odd.provider.rewrap_many([(wrapped, CONTEXT)]),
    ):
        with pytest.raises(UnavailableError) as refused:
            act()
        assert refused.value.reason_code == "answer_malformed"
        hides_secrets(refused.value)


def test_a_plaintext_that_is_not_base64_gives_no_key_and_is_not_shown(odd: OddServer) -> None:
    odd.answers["POST decrypt"] = (200, batch({"plaintext": DATA_KEY_TEXT + "*"}))
    with pytest.raises(UnavailableError) as refused:
        odd.provider.unwrap(WrappedKey(KeyVersion(odd.provider.key, "1"), bytes(60)), CONTEXT)
    hides_secrets(refused.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0, UnavailableError),
        (307, UnavailableError),
        (400, DeniedError),
        (401, DeniedError),
        (403, DeniedError),
        (404, DeniedError),
        (405, DeniedError),
        (408, UnavailableError),
        (412, UnavailableError),
        (413, RefusedError),
        (429, ThrottledError),
        (472, UnavailableError),
        (500, UnavailableError),
        (502, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_every_status_is_one_of_the_four_kinds_and_echoes_are_not_shown(
    odd: OddServer, status: int, kind: type[KmsError]
) -> None:
    odd.answers["POST encrypt"] = (status, {"errors": [f"bad request {DATA_KEY_TEXT}"]})
    with pytest.raises(kind) as refused:
        odd.provider.wrap(DATA_KEY, CONTEXT)
    hides_secrets(refused.value)
    tries = 3 if kind in {UnavailableError, ThrottledError} else 1
    assert odd.asked == ["GET keys"] + ["POST encrypt"] * tries


def test_a_redirect_is_never_followed_with_the_token(odd: OddServer) -> None:
    odd.answers["GET keys"] = (307, {})
    with pytest.raises(UnavailableError) as refused:
        odd.provider.current_version()
    assert refused.value.reason_code == "server_redirects"
    assert odd.asked == ["GET keys"] * 3


def test_a_hiccup_is_retried(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = (503, {"errors": ["Vault is sealed"]})
    sound = odd.answers["GET keys"]
    answers = iter([sealed, (0, None), sound])
    monkeypatch.setattr(odd, "answers", Answers(answers))
    assert odd.provider.current_version() == KeyVersion(odd.provider.key, "1")


class Answers:
    """The next answer, whatever is asked."""

    def __init__(self, answers: Iterator[tuple[int, object]]) -> None:
        self._answers = answers

    def __getitem__(self, asked: str) -> tuple[int, object]:
        return next(self._answers)


@pytest.mark.parametrize("status", [0, 500, 503, 429])
def test_a_rotation_whose_answer_is_lost_is_never_sent_twice(odd: OddServer, status: int) -> None:
    odd.answers["POST rotate"] = (status, {})
    with pytest.raises(UnavailableError if status != 429 else ThrottledError):
        odd.provider.create_version()
    assert odd.asked == ["GET keys", "POST rotate"]


def test_a_rotation_that_is_not_seen_is_not_reported_as_done(odd: OddServer) -> None:
    odd.answers["POST rotate"] = (204, b"")
    with pytest.raises(UnavailableError) as refused:
        odd.provider.create_version()
    assert refused.value.reason_code == "rotation_not_seen"
    assert odd.asked.count("POST rotate") == 1


def test_the_environment_chooses_neither_road_nor_token(
    odd: OddServer, monkeypatch: pytest.MonkeyPatch, unused_address: str
) -> None:
    for variable in ("VAULT_ADDR", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, unused_address)
    monkeypatch.setenv("VAULT_TOKEN", "s.another-token")
    odd.provider.current_version()
    assert odd.tokens == [TOKEN]


def test_each_item_of_a_batch_is_named_by_the_request_that_carried_it(
    provider: VaultTransitProvider,
) -> None:
    provider.batch_items = 2
    wraps = provider.wrap_many([(DATA_KEY, CONTEXT)] * 5)
    sent = provider.last_requests()
    assert [sent.count(name) for name in dict.fromkeys(sent)] == [2, 2, 1]
    items = [(w, CONTEXT) for w in wraps if isinstance(w, WrappedKey)]
    elsewhere = WrappedKey(KeyVersion("hcvault://transit/other", "1"), b"x")
    provider.unwrap_many([items[0], (elsewhere, CONTEXT), items[1]])
    first, none, third = provider.last_requests()
    assert first == third
    assert none == ""
    assert first not in sent
    with ThreadPoolExecutor(1) as thread:  # another thread's batches are none of this one's
        assert thread.submit(provider.last_requests).result() == []
