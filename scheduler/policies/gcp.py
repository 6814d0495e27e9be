"""Custom roles of Google Cloud IAM, what they are bound to, and the commands that do it.

A role's file: https://cloud.google.com/iam/docs/creating-custom-roles; bindings:
https://cloud.google.com/sdk/gcloud/reference/kms/keys/add-iam-policy-binding.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from keywrap.permissions.gcp import KMS, STORAGE
from keywrap.providers.gcp_names import SCHEME
from scheduler.policies.subject import Subject

_UNKNOWN = "PROJECT"
"""The bucket's project, where no key is listed whose project it could share."""


def document(subject: Subject) -> str:
    """Return roles, bindings and commands as JSON; empty where nothing would be allowed."""
    roles, bindings, commands = [], [], []
    for number, ((project, permissions), resources) in enumerate(_groups(subject).items(), 1):
        name = f"rewrap_{subject.role}_{number}"
        roles.append({"project": project, "id": name, "definition": _role(name, permissions)})
        create = ["gcloud", "iam", "roles", "create", name, f"--project={project}"]
        commands.append(shlex.join([*create, f"--file={name}.json"]))
        path = f"projects/{project}/roles/{name}"
        for resource in resources:
            bindings.append(
                {"resource": resource, "role": path, "members": [subject.place.principal]}
            )
            commands.append(_binding(resource, path, subject.place.principal))
    if not roles:
        return ""
    return json.dumps({"roles": roles, "bindings": bindings, "commands": commands}, indent=2)


def _groups(subject: Subject) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """Return keys and bucket by project and permissions."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key in sorted(subject.config.keys.gcp):
        names = {each.name for each in subject.permissions(KMS, f"{SCHEME}{key}")}
        if names:
            groups[key.split("/")[1], tuple(sorted(names))].append(key)
    for bucket, permissions in _store(subject):
        projects = [key.split("/")[1] for key in sorted(subject.config.keys.gcp)]
        groups[(projects or [_UNKNOWN])[0], permissions].append(bucket)
    return groups


def _store(subject: Subject) -> Iterator[tuple[str, tuple[str, ...]]]:
    found = subject.bucket("gs")
    if found is not None and not subject.config.store.anonymous:
        names = {name for power in subject.store_powers for name in STORAGE[power]}
        yield f"gs://{found[0]}", tuple(sorted(names))


def _role(name: str, permissions: tuple[str, ...]) -> dict[str, Any]:
    return {
        "title": name.replace("_", " "),
        "description": "Made by rewrap policy gcp; bound to what is listed only.",
        "stage": "GA",
        "includedPermissions": list(permissions),
    }


def _binding(resource: str, role: str, member: str) -> str:
    who = [f"--member={member}", f"--role={role}"]
    if resource.startswith("gs://"):
        words = ["gcloud", "storage", "buckets", "add-iam-policy-binding", resource]
    else:
        _, project, _, location, _, ring, _, key = resource.split("/")
        words = ["gcloud", "kms", "keys", "add-iam-policy-binding", key]
        words += [f"--project={project}", f"--location={location}", f"--keyring={ring}"]
    return shlex.join(words + who)
