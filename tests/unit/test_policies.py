"""What `rewrap policy` prints, held against what our providers ask for and what it must not say."""

import fnmatch
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keywrap.config import KeywrapConfig
from keywrap.keys import KeyVersion
from keywrap.permissions import Role
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.providers.azure import AzureKeyProvider
from keywrap.providers.azure_client import AzureAccess, StaticToken, VaultClient
from keywrap.providers.azure_names import Algorithm, AzureKeyName
from keywrap.providers.gcp import GcpKeyProvider
from keywrap.providers.gcp_client import GcpAccess
from keywrap.providers.gcp_client import kms_client as gcp_client
from keywrap.testing.aws_kms import StrictKms
from keywrap.testing.aws_kms_hook import attach
from keywrap.testing.azure_vault import StrictVault
from keywrap.testing.azure_vault_hook import VaultAdapter
from keywrap.testing.gcp_kms import StrictCloudKms
from keywrap.testing.gcp_kms_server import GcpKmsServer
from scheduler.__main__ import main
from scheduler.policies import Place, Subject, aws, azure, gcp, vault
from tests.kmschecks import CONTEXT, DATA_KEY

GCP_KEY = "projects/my-project/locations/europe-west1/keyRings/blobs/cryptoKeys/blob-kek"
GCP_OLD = "projects/other-1/locations/europe-west1/keyRings/blobs/cryptoKeys/old-kek"
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OLD_ARN = "arn:aws:kms:eu-west-1:111122223333:key/2234abcd-12ab-34cd-56ef-1234567890ab"
FAR_ARN = "arn:aws:kms:us-east-1:111122223333:key/3234abcd-12ab-34cd-56ef-1234567890ab"

FILES: dict[str, Any] = {"url": "file:///srv/blobs"}
VENDORS = {"aws": aws, "gcp": gcp, "azure": azure, "vault": vault}


def subject(
    role: Role, kind: str, *names: str, store: dict[str, Any] = FILES, **table: object
) -> Subject:
    """A role's subject; the first key of its kind is the primary."""
    prefix = {"aws": "aws-kms://", "gcp": "gcp-kms://", "azure": "azure-kv://"}.get(
        kind, "hcvault://"
    )
    keys = {"primary": prefix + names[0], kind: dict.fromkeys(names, table)} if names else {}
    config = KeywrapConfig.from_table({"store": store, "keys": keys})
    return Subject(config, role, frozenset({config.keys.primary}))


def allowed_by_aws(document: str, action: str, arn: str, context: dict[str, str] | None) -> bool:
    """Judge as IAM does, of what these policies say: action, resource, and the context's names."""
    for statement in json.loads(document)["Statement"]:
        assert statement["Effect"] == "Allow"
        if action in statement["Action"] and arn in statement["Resource"]:
            for operator, wanted in statement.get("Condition", {}).items():
                names = set(context or {})
                listed = set(wanted["kms:EncryptionContextKeys"])
                holds = {
                    "ForAllValues:StringEquals": names <= listed,
                    "ForAnyValue:StringEquals": bool(names & listed),
                }
                if not holds[operator]:
                    break
            else:
                return True
    return False


class AwsWorld:
    """Two keys of a strict KMS; what was asked of it since the last look."""

    def __init__(self) -> None:
        self.kms = StrictKms()
        self.new, self.old = self.kms.create_key(), self.kms.create_key()

    def provider(self, arn: str) -> AwsKeyProvider:
        def client() -> Any:
            made = kms_client("eu-west-1", AwsAccess())
            attach(made, self.kms)
            return made

        return AwsKeyProvider(arn, client, siblings=frozenset({f"aws-kms://{self.old}"}))

    def asked(self) -> list[tuple[str, str, dict[str, str] | None]]:
        """The actions, keys and contexts of the trail, as IAM sees them."""
        asked: list[tuple[str, str, dict[str, str] | None]] = []
        for event in self.kms.trail:
            contexts = [dict(context) for context in event.contexts] or [None]
            names = [f"kms:{event.name}"]
            if event.name == "ReEncrypt":
                names = ["kms:ReEncryptFrom", "kms:ReEncryptTo"]
            asked += list(zip(names, event.keys, contexts, strict=True))
        self.kms.trail.clear()
        return asked


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-sent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, os.devnull)


def test_a_policy_of_aws_allows_what_each_role_asks_kms_and_nothing_of_the_others() -> None:
    world = AwsWorld()
    new, old = (world.provider(arn) for arn in (world.new, world.old))
    wrapped, old_wrapped = new.wrap(DATA_KEY, CONTEXT), old.wrap(DATA_KEY, CONTEXT)
    world.kms.trail.clear()
    acts: dict[str, Callable[[], object]] = {
        "open": lambda: world.provider(world.new).unwrap(wrapped, CONTEXT),
        "open old": lambda: old.unwrap(old_wrapped, CONTEXT),
        "wrap": lambda: world.provider(world.new).wrap(DATA_KEY, CONTEXT),
        "make": lambda: world.provider(world.new).generate_data_key(CONTEXT),
        "move": lambda: world.provider(world.new).rewrap_many([(old_wrapped, CONTEXT)]),
        "try dry": lambda: world.provider(world.new).preflight(),
        "look": lambda: world.provider(world.old).current_version(),
        "rotate": lambda: world.provider(world.old).create_version(),
    }
    asked = {}
    for what, act in acts.items():
        act()
        asked[what] = world.asked()
    opens = {"open", "open old"}
    may = {
        Role.READER: opens,
        Role.WRITER: opens | {"wrap", "make"},
        Role.WORKER: opens | {"wrap", "make", "move", "try dry"},
        Role.VERIFIER: opens,
        Role.OPERATOR: {"look", "rotate"},
        Role.RETIRER: {"look"},
    }
    for role, expected in may.items():
        printed = aws.document(subject(role, "aws", world.new, world.old))
        passed = {
            what
            for what, requests in asked.items()
            if requests and all(allowed_by_aws(printed, *request) for request in requests)
        }
        assert passed == expected, role


def test_a_policy_of_aws_wants_the_blob_id_in_the_context_and_nothing_besides() -> None:
    printed = aws.document(subject(Role.WORKER, "aws", ARN, OLD_ARN))
    for action in ("Decrypt", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo"):
        assert allowed_by_aws(printed, f"kms:{action}", ARN, {"blob_id": "a"})
        assert not allowed_by_aws(printed, f"kms:{action}", ARN, None)
        assert not allowed_by_aws(printed, f"kms:{action}", ARN, {"blob_id": "a", "more": "b"})
    assert allowed_by_aws(printed, "kms:DescribeKey", ARN, None)


def test_wraps_are_moved_from_keys_that_kms_can_move_them_from_only() -> None:
    printed = aws.document(subject(Role.WORKER, "aws", ARN, OLD_ARN, FAR_ARN))
    assert allowed_by_aws(printed, "kms:ReEncryptFrom", OLD_ARN, CONTEXT)
    assert not allowed_by_aws(printed, "kms:ReEncryptTo", OLD_ARN, CONTEXT)
    assert not allowed_by_aws(printed, "kms:ReEncryptFrom", FAR_ARN, CONTEXT)
    assert allowed_by_aws(printed, "kms:Decrypt", FAR_ARN, CONTEXT)


@pytest.mark.parametrize("suffix", ["", ".blob"])
def test_only_a_worker_that_may_sweep_may_delete_and_contents_alone(suffix: str) -> None:
    store = {"url": "s3://blobs/team", "region": "eu-west-1", "blob_suffix": suffix}
    generation = "0123456789abcdef" * 2
    contents = [f"t/a{suffix}", f"t/a{suffix}.~{generation}"]
    others = ["t/a.sidecar.json", ".rewrap/control.json", ".rewrap/store-mark"]
    others += [".rewrap/audit-head.json"] + ([f"t/a.~{generation[1:]}"] if suffix else [])
    for role in Role:
        for sweeps in (False, True):
            about = replace(subject(role, "aws", ARN, store=store), sweeps=sweeps)
            printed = aws.document(about)
            may = sweeps and role is Role.WORKER
            assert [may_delete(printed, name) for name in contents] == [may] * len(contents)
            assert not any(may_delete(printed, name) for name in others)


def may_delete(document: str, name: str) -> bool:
    """Judge as IAM does: what is denied anywhere is denied."""
    statements = json.loads(document)["Statement"] if document else []
    effects = {
        statement["Effect"]
        for statement in statements
        if "s3:DeleteObject" in statement["Action"]
        if statement.get("Condition", {}).get("Null") == {"s3:if-match": "false"}
        or statement["Effect"] == "Deny"
        for pattern in statement["Resource"]
        if fnmatch.fnmatchcase(f"arn:aws:s3:::blobs/team/{name}", pattern)
    }
    return effects == {"Allow"}


def test_a_policy_of_google_allows_what_each_role_asks_and_no_more() -> None:
    kms = StrictCloudKms()
    server = GcpKmsServer(kms)
    client = gcp_client(GcpAccess(server.address))
    kms.create_key(GCP_KEY)
    provider = GcpKeyProvider(GCP_KEY, lambda: client)

    def asked(act: Callable[[], object]) -> set[str]:
        kms.trail.clear()
        act()
        return {GOOGLE[event.operation] for event in kms.trail}

    try:
        wrapped = provider.wrap(DATA_KEY, CONTEXT)
        opening = asked(lambda: provider.unwrap(wrapped, CONTEXT))
        fresh = GcpKeyProvider(GCP_KEY, lambda: client)
        wrapping = asked(lambda: fresh.wrap(DATA_KEY, CONTEXT))
        looking = asked(provider.current_version)
        rotating = asked(provider.create_version)
        first = KeyVersion(provider.key, "1")
        switching = asked(lambda: (provider.disable_version(first), provider.enable_version(first)))
    finally:
        client.transport.close()
        server.stop()
    assert google(Role.READER) == google(Role.VERIFIER) == opening
    assert google(Role.WRITER) == google(Role.WORKER) == opening | wrapping
    assert google(Role.OPERATOR) == rotating | looking
    assert google(Role.RETIRER) == switching | looking


GOOGLE = {
    "Encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
    "Decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt",
    "GetCryptoKey": "cloudkms.cryptoKeys.get",
    "GetCryptoKeyVersion": "cloudkms.cryptoKeyVersions.get",
    "ListCryptoKeyVersions": "cloudkms.cryptoKeyVersions.list",
    "CreateCryptoKeyVersion": "cloudkms.cryptoKeyVersions.create",
    "UpdateCryptoKeyVersion": "cloudkms.cryptoKeyVersions.update",
    "UpdateCryptoKeyPrimaryVersion": "cloudkms.cryptoKeys.update",
}
"""https://cloud.google.com/kms/docs/reference/permissions-and-roles."""


def google(role: Role) -> set[str]:
    (made,) = json.loads(gcp.document(subject(role, "gcp", GCP_KEY)))["roles"]
    return set(made["definition"]["includedPermissions"])


def test_google_binds_each_key_for_itself_and_keeps_roles_in_their_projects() -> None:
    document = json.loads(gcp.document(subject(Role.WRITER, "gcp", GCP_KEY, GCP_OLD)))
    bound = {each["resource"]: each["role"] for each in document["bindings"]}
    assert set(bound) == {GCP_KEY, GCP_OLD}
    for resource, role in bound.items():
        assert role.split("/")[1] == resource.split("/")[1]
    opens = {
        each["project"]: each["definition"]["includedPermissions"] for each in document["roles"]
    }
    assert "cloudkms.cryptoKeyVersions.useToEncrypt" in opens["my-project"]
    assert opens["other-1"] == ["cloudkms.cryptoKeyVersions.useToDecrypt"]


@pytest.mark.parametrize("algorithm", ["RSA-OAEP-256", "A256KW", "A256GCM"])
def test_a_role_of_azure_allows_what_each_asks_and_no_more(algorithm: Algorithm) -> None:
    kind = "vault" if algorithm == "RSA-OAEP-256" else "managedhsm"
    name = f"my-{kind}.{kind}.azure.net/keys/blob-kek"
    world = StrictVault(name.partition("/")[0])
    world.create_key("blob-kek", "RSA" if kind == "vault" else "oct-HSM")

    def provider() -> AzureKeyProvider:
        def client(count: Callable[[], None]) -> VaultClient:
            key, adapter = AzureKeyName.parse(name), VaultAdapter(world)
            return VaultClient(key, AzureAccess(), count, credential=StaticToken(), adapter=adapter)

        return AzureKeyProvider(name, client, algorithm=algorithm)

    def asked(act: Callable[[], object]) -> set[str]:
        world.trail.clear()
        act()
        verbs = {event.operation for event in world.trail} - {"challenge"}
        return {azures(kind, verb) for verb in verbs}

    def role(which: Role) -> set[str]:
        about = subject(which, "azure", name, algorithm=algorithm)
        (made,) = json.loads(azure.document(about))["roles"]
        definition = made["definition"]
        return set(definition.get("DataActions") or definition["dataActions"])

    wrapped = provider().wrap(DATA_KEY, CONTEXT)
    read = azures(kind, "get")
    opening = asked(lambda: provider().unwrap(wrapped, CONTEXT)) | {read}
    wrapping = asked(lambda: provider().wrap(DATA_KEY, CONTEXT))
    rotating = asked(provider().create_version)
    first = wrapped.key_version
    switching = asked(lambda: provider().disable_version(first))
    assert role(Role.READER) == role(Role.VERIFIER) == opening
    assert role(Role.WRITER) == role(Role.WORKER) == opening | wrapping
    assert role(Role.OPERATOR) == rotating
    assert role(Role.RETIRER) == switching


def azures(kind: str, operation: str) -> str:
    """The data action of an operation of the REST API, as Microsoft's pages have them."""
    hsm = kind == "managedhsm"
    if operation in {"get", "list"}:
        return f"Microsoft.KeyVault/{'managedHsm' if hsm else 'vaults'}/keys/read" + (
            "/action" if hsm else ""
        )
    verb = {"wrapkey": "wrap", "unwrapkey": "unwrap"}.get(operation, operation)
    if hsm:
        return f"Microsoft.KeyVault/managedHsm/keys/{'write' if verb == 'update' else verb}/action"
    return f"Microsoft.KeyVault/vaults/keys/{verb}/action"


def test_azure_assigns_at_single_keys_and_a_managed_hsm_by_its_own_roles() -> None:
    names = ("my-vault.vault.azure.net/keys/a", "my-hsm.managedhsm.azure.net/keys/b")
    about = subject(Role.READER, "azure", *names)
    place = Place("someone", "1234", "blobs")
    document = json.loads(azure.document(Subject(about.config, about.role, about.targets, place)))
    scopes = {each["hsm"]: each["scope"] for each in document["assignments"]}
    group = "/subscriptions/1234/resourceGroups/blobs"
    assert scopes == {
        None: f"{group}/providers/Microsoft.KeyVault/vaults/my-vault/keys/a",
        "my-hsm": "/keys/b",
    }
    assert all("--assignee=someone" in line for line in document["commands"] if "assign" in line)


STORES: dict[str, dict[str, Any]] = {
    "aws": {"url": "s3://blobs/team", "region": "eu-west-1"},
    "gcp": {"url": "gs://blobs/team"},
    "azure": {"url": "az://blobs/team", "account": "blobs7"},
}


@pytest.mark.parametrize("vendor", list(STORES))
@pytest.mark.parametrize("role", list(Role))
def test_a_store_of_the_vendor_is_read_or_written_as_the_role_needs(
    vendor: str, role: Role
) -> None:
    printed = VENDORS[vendor].document(subject(role, vendor, store=STORES[vendor]))
    reads = any(w in printed for w in ('"s3:GetObject"', "objects.get", "blobs/read"))
    lists = any(w in printed for w in ('"s3:ListBucket"', "objects.list", "blobs/read"))
    writes = any(w in printed for w in ("s3:PutObject", "objects.create", "blobs/write"))
    assert reads is lists is (role is not Role.RETIRER)
    assert writes is (role in {Role.WRITER, Role.WORKER, Role.OPERATOR})


def test_an_operator_writes_nothing_into_s3_but_the_control_file() -> None:
    printed = aws.document(subject(Role.OPERATOR, "aws", store=STORES["aws"]))
    puts = [s for s in json.loads(printed)["Statement"] if "s3:PutObject" in s["Action"]]
    assert [s["Resource"] for s in puts] == [["arn:aws:s3:::blobs/team/.rewrap/*"]]


def test_a_prefix_with_a_star_in_its_name_is_not_a_pattern() -> None:
    store = {"url": "s3://blobs/a*b", "region": "cn-north-1"}
    printed = aws.document(subject(Role.READER, "aws", store=store))
    assert "arn:aws-cn:s3:::blobs/a${*}b/*" in printed


@pytest.mark.parametrize("role", list(Role))
def test_no_document_deletes_keys_or_names_one_that_is_not_listed(role: Role) -> None:
    vault_key = {"address": "http://127.0.0.1:8200", "token_env": "T"}
    documents = [
        aws.document(subject(role, "aws", ARN)),
        gcp.document(subject(role, "gcp", GCP_KEY)),
        azure.document(subject(role, "azure", "my-vault.vault.azure.net/keys/a")),
        vault.document(subject(role, "vault", "transit/kek", **vault_key)),
    ]
    for document in documents:
        assert document
        for word in ("*", "elet", "estroy", "urge", "ackup", "xport", "deny", "sudo", "root"):
            assert word not in document


def typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str, toml: str = ""
) -> tuple[int, str, str]:
    config = tmp_path / "rewrap.toml"
    config.write_text(f'[store]\nurl = "file://{tmp_path}"\n{toml}')
    code = main(["--config", str(config), "policy", *words])
    out, err = capsys.readouterr()
    return code, out, err


TWO_SERVERS = """
[keys.vault."transit/kek"]
address = "http://127.0.0.1:8200"
token_env = "T"
[keys.vault."transit/old"]
address = "http://127.0.0.1:8201"
token_env = "T"
"""


def test_the_document_alone_goes_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = typed(tmp_path, capsys, "vault", "--role", "writer", toml=TWO_SERVERS)
    assert code == 0
    assert out.startswith("# ")
    assert "transit/encrypt" not in out
    assert "only opens here" in err
    assert "several servers" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("aws", "--role", "reader"), "no_such_keys"),
        (("vault", "--role", "worker", "--to", "hcvault://transit/none"), "key_not_usable"),
        (("vault", "--role", "worker", "--to", "nonsense\n"), "key_not_usable"),
        (("vault", "--role", "reader", "--to", "hcvault://transit/kek"), "usage"),
        (("vault", "--role", "king"), "usage"),
        (("vault",), "usage"),
        (("ibm", "--role", "reader"), "usage"),
    ],
)
def test_what_makes_no_policy_is_exit_code_2_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    code, out, err = typed(tmp_path, capsys, *words, toml=TWO_SERVERS)
    assert (code, out) == (2, "")
    assert f"[{reason}]" in err
    assert "next: " in err


def test_a_worker_may_be_given_other_targets_than_the_primary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("vault", "--role", "worker", "--to", "hcvault://transit/old")
    _, out, _ = typed(tmp_path, capsys, *words, toml=TWO_SERVERS)
    assert 'path "transit/rewrap/old"' in out
    assert 'path "transit/rewrap/kek"' not in out
