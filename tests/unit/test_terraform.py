"""deploy/terraform/aws, against what `rewrap policy` prints. `terraform` itself is not run here."""

import json
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from keywrap.permissions import Role
from scheduler.policies import Subject, aws
from workers.settings import load

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "terraform" / "aws"
OVERLAY = ROOT / "deploy" / "kubernetes" / "overlays" / "aws"
CONFIG = load(str(OVERLAY / "rewrap.toml"), {}).keywrap
ARN = CONFIG.keys.primary.removeprefix("aws-kms://")

VALUES = {
    "${aws_kms_key.blob_kek.arn}": ARN,
    "${local.bucket}": "arn:aws:s3:::" + CONFIG.store.url.removeprefix("s3://"),
}
"""What expressions stand for in the installation of that overlay."""

MARKS = {"__is_block__", "__comments__"}


def plain(value: Any) -> Any:
    """Take from what python-hcl2 read its own marks and the quotes of strings."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items() if key not in MARKS}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, str):
        return value
    text = value[1:-1] if value.startswith('"') else value
    for expression, meant in VALUES.items():
        text = text.replace(expression, meant)
    return text


def _module() -> dict[str, dict[str, Any]]:
    """Everything that the module declares, by the address that expressions use."""
    found: dict[str, dict[str, Any]] = {}
    for file in FOLDER.glob("*.tf"):
        with file.open() as text:
            blocks = plain(hcl2.load(text))
        for kind, prefix in (("resource", ""), ("data", "data.")):
            for block in blocks.get(kind, []):
                for its, named in block.items():
                    found |= {f"{prefix}{its}.{name}": body for name, body in named.items()}
        for block in blocks.get("variable", []):
            found |= {f"var.{name}": body for name, body in block.items()}
        for block in blocks.get("locals", []):
            found |= {f"local.{name}": body for name, body in block.items()}
    return found


MODULE = _module()


def policy(name: str) -> list[dict[str, Any]]:
    """Return the statements of a document, as its provider writes them in JSON."""
    statements = []
    for each in MODULE[f"data.aws_iam_policy_document.{name}"]["statement"]:
        made = {
            "Sid": each["sid"],
            "Effect": "Allow",
            "Action": each["actions"],
            "Resource": each["resources"],
        }
        conditions = {
            one["test"]: {one["variable"]: one["values"]} for one in each.get("condition", [])
        }
        statements.append(made | ({"Condition": conditions} if conditions else {}))
    return statements


@pytest.mark.parametrize("role", Role)
def test_each_policy_is_what_rewrap_policy_prints(role: Role) -> None:
    printed = json.loads(aws.document(Subject(CONFIG, role, frozenset({CONFIG.keys.primary}))))
    assert policy(role.value) == printed["Statement"]
    assert role.value in MODULE["local.documents"]


def test_nobody_but_the_account_itself_may_delete_the_key() -> None:
    for address, body in MODULE.items():
        if address.startswith("data.aws_iam_policy_document.") and not address.endswith(".key"):
            actions = [action for each in body["statement"] for action in each["actions"]]
            assert not [one for one in actions if "*" in one or "Deletion" in one]
            assert "kms:PutKeyPolicy" not in actions
    assert MODULE["aws_kms_key.blob_kek"]["lifecycle"] == [{"prevent_destroy": True}]


def test_every_address_in_an_expression_is_declared() -> None:
    address = re.compile(
        r"(?<![.\w-])((?:data\.)?aws_[a-z_]+\.[a-z_]+|var\.[a-z_]+|local\.[a-z_]+)"
    )
    text = "".join(file.read_text() for file in FOLDER.glob("*.tf"))
    used = set(address.findall(re.sub(r"^\s*(#.*|description .*)$", "", text, flags=re.MULTILINE)))
    assert used <= MODULE.keys()
    assert {name for name in MODULE if name.startswith("var.")} <= used


def test_its_roles_are_those_of_the_service_accounts() -> None:
    accounts = MODULE["local.accounts"]
    annotated = {
        one["metadata"]["name"]: one["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
        for one in yaml.safe_load_all((OVERLAY / "identity.yaml").read_text())
    }
    prefix = MODULE["aws_iam_role.service"]["name"].replace("${each.key}", "")
    assert {name: arn.partition("role/")[2] for name, arn in annotated.items()} == {
        account: f"{prefix}{role}" for role, account in accounts.items()
    }
    assert accounts.keys() <= MODULE["local.documents"].keys()
