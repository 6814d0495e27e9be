"""Custom roles of Azure and of Managed HSMs, what they are assigned for, and the commands.

A role's file: https://learn.microsoft.com/azure/role-based-access-control/custom-roles-cli; a
Managed HSM's: https://learn.microsoft.com/azure/key-vault/managed-hsm/role-management. A role of
Azure can be assigned at a single key (".../vaults/V/keys/K"), but names as assignable scopes
management groups, subscriptions and resource groups only.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keywrap.permissions.azure import BY_ALGORITHM, KEYS, MANAGED_HSM, STORAGE, VAULT
from keywrap.providers.azure_names import SCHEME, AzureKeyName
from scheduler.policies.subject import Subject

_POSTED = frozenset().union(*BY_ALGORITHM.values())
_SECRETS = ("account_key_env", "account_key_file", "sas_env", "sas_file")


@dataclass(frozen=True, slots=True)
class _Grant:
    """Data actions at one scope; `hsm` is the Managed HSM whose own role it is, or empty."""

    hsm: str
    actions: tuple[str, ...]
    scope: str


def document(subject: Subject) -> str:
    """Return roles, assignments and commands as JSON; empty where nothing would be allowed."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for grant in (*_keys(subject), *_store(subject)):
        groups[grant.hsm, grant.actions].append(grant.scope)
    roles, assignments, commands = [], [], []
    for number, ((hsm, actions), scopes) in enumerate(groups.items(), 1):
        name = f"rewrap-{subject.role}-{number}"
        roles.append({"hsm": hsm or None, "definition": _role(subject, hsm, name, actions)})
        at = ["keyvault", "role"] if hsm else ["role"]
        of = [f"--hsm-name={hsm}"] if hsm else []
        create = ["az", *at, "definition", "create", *of, f"--role-definition=@{name}.json"]
        commands.append(shlex.join(create))
        for scope in scopes:
            who = subject.place.principal
            assignments.append({"hsm": hsm or None, "role": name, "scope": scope, "assignee": who})
            assign = ["az", *at, "assignment", "create", *of, f"--assignee={who}"]
            commands.append(shlex.join([*assign, f"--role={name}", f"--scope={scope}"]))
    if not roles:
        return ""
    return json.dumps({"roles": roles, "assignments": assignments, "commands": commands}, indent=2)


def _keys(subject: Subject) -> Iterator[_Grant]:
    for text, table in sorted(subject.config.keys.azure.items()):
        unused = _POSTED - BY_ALGORITHM[table.algorithm]
        needed = subject.permissions(KEYS, f"{SCHEME}{text}")
        verbs = {each.name for each in needed if each.call not in unused}
        if not verbs:
            continue
        key = AzureKeyName.parse(text)
        vault = key.host.partition(".")[0]
        names = MANAGED_HSM if key.is_managed_hsm else VAULT
        actions = tuple(sorted(names[verb] for verb in verbs))
        if key.is_managed_hsm:
            yield _Grant(vault, actions, f"/keys/{key.name}")
        else:
            at = f"{_group(subject)}/providers/Microsoft.KeyVault/vaults/{vault}/keys/{key.name}"
            yield _Grant("", actions, at)


def _store(subject: Subject) -> Iterator[_Grant]:
    """Yield what the container needs; an account key or signature has rights of its own."""
    store, found = subject.config.store, subject.bucket("az")
    if found is None or any(getattr(store, name) for name in _SECRETS):
        return
    actions = {name for power in subject.store_powers for name in STORAGE[power]}
    account = f"{_group(subject)}/providers/Microsoft.Storage/storageAccounts/{store.account}"
    scope = f"{account}/blobServices/default/containers/{found[0]}"
    yield _Grant("", tuple(sorted(actions)), scope)


def _group(subject: Subject) -> str:
    place = subject.place
    return f"/subscriptions/{place.subscription}/resourceGroups/{place.resource_group}"


def _role(subject: Subject, hsm: str, name: str, actions: tuple[str, ...]) -> dict[str, Any]:
    role = {
        "description": "Made by rewrap policy azure; assigned at what is listed only.",
        "actions": [],
        "notActions": [],
        "dataActions": list(actions),
        "notDataActions": [],
    }
    if hsm:
        return {"roleName": name, **role}
    in_azure = {f"{field[0].upper()}{field[1:]}": value for field, value in role.items()}
    return {"Name": name, "IsCustom": True, **in_azure, "AssignableScopes": [_group(subject)]}
