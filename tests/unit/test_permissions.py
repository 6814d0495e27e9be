"""Every call of the providers' code stands in a table of `keywrap.permissions`."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import botocore.session
import pytest
from azure.keyvault.keys import KeyClient
from botocore import xform_name
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceTransport,
)

import keywrap.providers
from keywrap.permissions import (
    ON_EVERY_KEY,
    ON_TARGETS,
    STORE_POWERS,
    Permission,
    Role,
    StorePower,
    aws,
    azure,
    gcp,
    vault,
)

PROVIDERS = Path(inspect.getfile(keywrap.providers)).parent

AZURE_POSTED = frozenset(
    {"encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify", "release"}
    | {"backup", "restore", "recover", "import"}
)
"""The operations of Key Vault's REST API on one key that are a POST, `rotate` besides."""

NOT_REQUESTS = frozenset({"close", "host", "kind", "operations_client"})
"""What a transport of Google's has that is no method of the service."""


def trees(pattern: str) -> Iterator[ast.Module]:
    """The code of a provider; strings that document it are left out."""
    paths = sorted(PROVIDERS.glob(pattern))
    assert paths, pattern
    for path in paths:
        yield ast.parse(path.read_text(encoding="utf-8"))


def names(pattern: str) -> set[str]:
    """Every string and every attribute that a provider's code has."""
    found: set[str] = set()
    for tree in trees(pattern):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
    return found


def aws_calls(found: Iterable[str]) -> set[str]:
    model = botocore.session.get_session().get_service_model("kms")
    return set(found) & {xform_name(operation) for operation in model.operation_names}


def gcp_calls(found: Iterable[str]) -> set[str]:
    methods = {n for n in dir(KeyManagementServiceTransport) if n.islower() and n[0] != "_"}
    return set(found) & (methods - NOT_REQUESTS)


def azure_calls(found: Iterable[str]) -> set[str]:
    methods = {n for n in dir(KeyClient) if n[0] != "_"} - {"close", "send_request", "vault_url"}
    return set(found) & (methods | AZURE_POSTED)


def text_of(node: ast.expr) -> str:
    """A path as it is written; the key's name in it as `{key}`, anything else as `{}`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr), ast.dump(node)
    return "".join(_part(part) for part in node.values)


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    is_name = isinstance(part.value, ast.Attribute) and part.value.attr == "_name"
    return "{key}" if is_name else "{}"


def vault_calls(tree: ast.Module) -> set[str]:
    """Method and path of each request; an operation that `_each` is given stands for `{}`."""
    calls, operations = set[str](), set[str]()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr == "_each":
            operations.add(text_of(node.args[0]))
        elif node.func.attr == "_send" or (
            node.func.attr == "send" and isinstance(node.args[0], ast.Constant)
        ):
            calls.add(f"{text_of(node.args[0])} {text_of(node.args[1])}")
    general = {"POST {}/{}/{key}", "POST {}/{key}"}
    assert len(general & calls) == 1, "the batched operations go through one place"
    calls -= general
    return calls | {f"POST {operation}/{{key}}" for operation in operations}


def ours(table: Iterable[Permission]) -> set[str]:
    return {permission.call for permission in table if permission.ours}


def test_every_call_of_aws_kms_stands_in_the_table_and_no_other() -> None:
    assert aws_calls(names("aws*.py")) == ours(aws.KMS)


def test_every_call_of_google_cloud_kms_stands_in_the_table_and_no_other() -> None:
    assert gcp_calls(names("gcp*.py")) == ours(gcp.KMS)


def test_every_call_of_azure_stands_in_the_table_and_no_other() -> None:
    assert azure_calls(names("azure*.py")) == ours(azure.KEYS)


def test_every_request_to_transit_stands_in_the_table_and_no_other() -> None:
    (tree,) = trees("vault.py")
    assert vault_calls(tree) == ours(vault.TRANSIT)


def test_requests_to_transit_are_made_in_one_file() -> None:
    for tree in trees("vault_*.py"):
        methods = {"GET", "POST", "PUT", "DELETE", "LIST", "PATCH"}
        assert not methods & {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}


def test_a_new_call_would_be_found() -> None:
    assert aws_calls({"schedule_key_deletion", "self"}) == {"schedule_key_deletion"}
    assert gcp_calls({"destroy_crypto_key_version"}) == {"destroy_crypto_key_version"}
    assert azure_calls({"begin_delete_key", "sign"}) == {"begin_delete_key", "sign"}
    code = "self._each('encrypt', p)\nself._send('POST', f'{op}/{self._name}')\n"
    found = vault_calls(ast.parse(code + "self._send('DELETE', f'keys/{self._name}')"))
    assert found == {"POST encrypt/{key}", "DELETE keys/{key}"}


def test_every_algorithm_of_azure_has_the_operations_it_posts() -> None:
    from keywrap.providers.azure_wrapping import ALGORITHMS  # noqa: PLC0415 - an extra

    for name, algorithm in ALGORITHMS.items():
        posted = {algorithm.wrapping, algorithm.opening} & AZURE_POSTED
        assert azure.BY_ALGORITHM[name] == posted


@pytest.mark.parametrize("table", [aws.KMS, gcp.KMS, azure.KEYS, vault.TRANSIT])
def test_no_permission_deletes_a_key_or_changes_who_may(table: tuple[Permission, ...]) -> None:
    bad = (
        "delet",
        "destroy",
        "purge",
        "policy",
        "grant",
        "trim",
        "export",
        "backup",
        "import",
        "*",
    )
    for permission in table:
        for word in bad:
            assert word not in f"{permission.call} {permission.name}".lower()


def test_every_role_is_told_what_it_may_do() -> None:
    assert set(ON_EVERY_KEY) == set(STORE_POWERS) == set(Role)
    assert set(ON_TARGETS) < set(Role)


def callers_of(call: str) -> set[str]:
    """Return the files of ours that call a method of a store."""
    root = PROVIDERS.parent.parent
    return {
        str(path.relative_to(root))
        for room in ("keywrap", "tasks", "workers", "scheduler")
        for path in (root / room).rglob("*.py")
        if "testing" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(call)
    }


def test_contents_are_removed_in_one_file_and_by_workers_that_may_sweep_alone() -> None:
    assert callers_of("store.remove") == {"keywrap/sweeping.py"}
    assert not any(StorePower.REMOVE in powers for powers in STORE_POWERS.values())
    assert set(aws.S3_OBJECTS) == set(StorePower)
    for table in (gcp.STORAGE, azure.STORAGE):  # where old versions are not looked into
        assert set(table) == set(StorePower) - {StorePower.LOOK_BACK}


def test_nothing_else_but_a_probe_is_deleted_from_a_store_so_no_role_may() -> None:
    """Who adds such a call gives it a `StorePower` and a permission for each kind of store."""
    # What the checklist tries a store with, and new contents that lost a race. Who may not remove
    # these leaves them: the checklist says so, and a content that nobody names costs room only.
    assert callers_of("store.delete") == {
        "keywrap/conditions.py",
        "keywrap/reencrypting.py",
        "scheduler/checks/backups.py",
    }
