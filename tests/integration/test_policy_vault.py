"""The policies of `rewrap policy vault`, each tried by a token that has nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import pytest
from click.testing import CliRunner

from embedded import OpenBao
from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import DeniedError
from keywrap.permissions import Role
from keywrap.providers.vault import VaultTransitProvider
from keywrap.providers.vault_connection import VaultServer
from scheduler.commands import rewrap

CONTEXT = {"blob_id": "tenants/7/invoice.pdf"}
DATA_KEY = DataKey(bytes(range(32)))


class Bench:
    """A primary key and an old one, a wrap under each, and tokens of generated policies."""

    def __init__(self, openbao: OpenBao, root: Any, name: str, directory: Path) -> None:
        self._openbao = openbao
        self._root = root
        self.name, self.old_name = name, f"{name}-old"
        openbao.create_transit_key(self.old_name)
        self._config = directory / "rewrap.toml"
        self._config.write_text(
            f'[store]\nurl = "file://{directory}"\n'
            f'[keys]\nprimary = "hcvault://transit/{name}"\n'
            + "".join(
                f'[keys.vault."transit/{key}"]\naddress = "{openbao.address}"\ntoken_env = "T"\n'
                for key in (self.name, self.old_name)
            )
        )
        self.mighty = self.provider("", name)
        self.wrapped = self.mighty.wrap(DATA_KEY, CONTEXT)
        self.old_wrapped = self.provider("", self.old_name).wrap(DATA_KEY, CONTEXT)

    def provider(self, token: str, name: str) -> VaultTransitProvider:
        server = VaultServer(self._openbao.address, lambda: token or self._openbao.token)
        return VaultTransitProvider(f"transit/{name}", server)

    def token(self, role: Role) -> str:
        words = ["--config", str(self._config), "policy", "vault", "--role", role.value]
        printed = CliRunner().invoke(rewrap, words, catch_exceptions=False)
        assert printed.exit_code == 0, printed.output
        policy = f"{self.name}-{role}"
        self._root.sys.create_or_update_policy(policy, printed.stdout)
        made = self._root.auth.token.create(policies=[policy], ttl="10m", no_default_policy=True)
        return str(made["auth"]["client_token"])

    def of(self, role: Role) -> "Hands":
        token = self.token(role)
        client = hvac.Client(url=self._openbao.address, token=token)
        return Hands(
            self.provider(token, self.name), self.provider(token, self.old_name), client, self.name
        )


class Hands:
    """What a role has: our provider of either key, and a raw client."""

    def __init__(
        self, primary: VaultTransitProvider, old: VaultTransitProvider, raw: Any, name: str
    ) -> None:
        self.primary, self.old, self.raw, self.name = primary, old, raw, name

    def configure(self, **settings: object) -> None:
        self.raw.adapter.post(f"/v1/transit/keys/{self.name}/config", json=settings)


@pytest.fixture
def root(openbao: OpenBao) -> Any:
    client = hvac.Client(url=openbao.address, token=openbao.token)
    yield client
    client.adapter.close()


@pytest.fixture
def bench(openbao: OpenBao, root: Any, transit_key: str, tmp_path: Path) -> Bench:
    return Bench(openbao, root, transit_key, tmp_path)


def refusal(act: Callable[[], object]) -> str:
    """Why our provider or the server did not do it; empty where it did."""
    try:
        act()
    except DeniedError as error:
        return error.reason_code
    except hvac.exceptions.Forbidden:
        return "permission_denied"
    return ""


def forbidden(act: Callable[[], object]) -> None:
    assert refusal(act) == "permission_denied"


def may(bench: Bench, hands: Hands) -> set[str]:
    """Try everything that our provider does, and return what the role may do."""
    acts: dict[str, Callable[[], object]] = {
        "open": lambda: hands.primary.unwrap(bench.wrapped, CONTEXT),
        "open old": lambda: hands.old.unwrap(bench.old_wrapped, CONTEXT),
        "rewrap": lambda: hands.primary.rewrap_many([(bench.wrapped, CONTEXT)]),
        "rewrap under old": lambda: hands.old.rewrap_many([(bench.old_wrapped, CONTEXT)]),
        "wrap": lambda: hands.primary.wrap(DATA_KEY, CONTEXT),
        "wrap under old": lambda: hands.old.wrap(DATA_KEY, CONTEXT),
        "look": hands.primary.current_version,
        "rotate": hands.primary.create_version,
        "rotate old": hands.old.create_version,
        "disable": lambda: hands.configure(min_encryption_version=0),
    }
    said = {what: refusal(act) for what, act in acts.items()}
    assert set(said.values()) <= {"", "permission_denied"}
    return {what for what, why in said.items() if not why}


OPENS = {"open", "open old"}
ALLOWED: dict[Role, set[str]] = {
    Role.READER: OPENS,
    Role.WRITER: OPENS | {"wrap", "look"},
    Role.WORKER: OPENS | {"wrap", "look", "rewrap"},
    Role.VERIFIER: OPENS,
    Role.OPERATOR: {"look", "rotate", "rotate old"},
    Role.RETIRER: {"look", "disable"},
}


@pytest.mark.parametrize("role", list(Role))
def test_each_role_may_do_what_it_is_for_and_nothing_else(bench: Bench, role: Role) -> None:
    assert may(bench, bench.of(role)) == ALLOWED[role]


def test_a_worker_moves_a_wrap_of_the_old_key_to_the_new_version_of_the_primary(
    bench: Bench,
) -> None:
    newer = bench.mighty.create_version()
    worker = bench.of(Role.WORKER)
    (moved,) = worker.primary.rewrap_many([(bench.wrapped, CONTEXT)])
    assert isinstance(moved, WrappedKey)
    assert moved.key_version == newer
    crossed = worker.primary.wrap(worker.old.unwrap(bench.old_wrapped, CONTEXT), CONTEXT)
    assert bench.of(Role.VERIFIER).primary.unwrap(crossed, CONTEXT) == DATA_KEY


def test_an_operator_rotates_and_opens_nothing_before_or_after(bench: Bench) -> None:
    operator = bench.of(Role.OPERATOR)
    forbidden(lambda: operator.primary.unwrap(bench.wrapped, CONTEXT))
    assert operator.primary.create_version().version == "2"
    forbidden(lambda: operator.primary.unwrap(bench.wrapped, CONTEXT))


def test_an_operator_makes_a_listed_key_that_cannot_be_taken_away_and_no_other(
    bench: Bench, root: Any
) -> None:
    root.adapter.post(f"/v1/transit/keys/{bench.old_name}/config", json={"deletion_allowed": True})
    root.secrets.transit.delete_key(bench.old_name)
    raw = bench.of(Role.OPERATOR).raw
    path = f"/v1/transit/keys/{bench.old_name}"
    forbidden(lambda: raw.adapter.post(path, json={"derived": False}))
    forbidden(lambda: raw.adapter.post(path, json={"derived": True, "exportable": True}))
    forbidden(lambda: raw.adapter.post(f"{path}-not-listed", json={"derived": True}))
    raw.adapter.post(path, json={"derived": True})
    assert bench.provider("", bench.old_name).current_version().version == "1"


def test_a_retirer_takes_a_version_out_of_use_and_back(bench: Bench) -> None:
    bench.mighty.create_version()
    retirer = bench.of(Role.RETIRER)
    retirer.configure(min_decryption_version=2, min_encryption_version=2)
    with pytest.raises(DeniedError) as refused:
        bench.mighty.unwrap(bench.wrapped, CONTEXT)
    assert refused.value.reason_code == "version_not_allowed"
    retirer.configure(min_decryption_version=1)
    assert bench.mighty.unwrap(bench.wrapped, CONTEXT) == DATA_KEY


@pytest.mark.parametrize("role", list(Role))
def test_no_role_can_delete_a_key_or_a_version_or_take_it_away(bench: Bench, role: Role) -> None:
    hands = bench.of(role)
    adapter, path = hands.raw.adapter, f"/v1/transit/keys/{bench.name}"
    forbidden(lambda: hands.configure(deletion_allowed=True))
    forbidden(lambda: hands.configure(min_decryption_version=1, deletion_allowed=True))
    forbidden(lambda: hands.configure(exportable=True, allow_plaintext_backup=True))
    forbidden(lambda: adapter.delete(path))
    forbidden(lambda: adapter.delete(f"{path}/soft-delete"))
    forbidden(lambda: adapter.post(f"{path}/trim", json={"min_available_version": 1}))
    forbidden(lambda: adapter.get(f"/v1/transit/export/encryption-key/{bench.name}"))
    forbidden(lambda: adapter.get(f"/v1/transit/backup/{bench.name}"))
    assert bench.mighty.unwrap(bench.wrapped, CONTEXT) == DATA_KEY


@pytest.mark.parametrize("role", list(Role))
def test_no_role_reaches_a_key_that_is_not_listed(
    bench: Bench, role: Role, openbao: OpenBao
) -> None:
    other = f"{bench.name}-other"
    openbao.create_transit_key(other)
    wrapped = bench.provider("", other).wrap(DATA_KEY, CONTEXT)
    hands = bench.provider(bench.token(role), other)
    forbidden(lambda: hands.unwrap(wrapped, CONTEXT))
    forbidden(lambda: hands.wrap(DATA_KEY, CONTEXT))
    forbidden(hands.create_version)
    assert wrapped.key_version == KeyVersion(hands.key, "1")
