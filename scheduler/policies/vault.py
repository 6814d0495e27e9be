"""A policy of OpenBao or HashiCorp Vault, in HCL.

https://openbao.org/docs/concepts/policies/ has its form.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from keywrap.permissions import Permission
from keywrap.permissions.vault import PARAMETERS, TRANSIT
from keywrap.tables.vault import PREFIX
from scheduler.policies.subject import Subject


@dataclass
class _Rule:
    """What is allowed on one path."""

    capabilities: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)


def document(subject: Subject) -> str:
    """Return the policy as HCL; empty where it would allow nothing."""
    return "\n\n".join(_servers(subject))


def servers(subject: Subject) -> int:
    """Return how many servers and namespaces the keys lie on: a policy is written to each."""
    return len({(table.address, table.namespace) for table in subject.config.keys.vault.values()})


def _servers(subject: Subject) -> Iterator[str]:
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, table in sorted(subject.config.keys.vault.items()):
        places[table.address, table.namespace].append(path)
    for (address, namespace), paths in places.items():
        rules = [rule for path in paths for rule in _rules(subject, path)]
        if rules:
            inside = f", namespace {namespace}" if namespace else ""
            yield "\n".join([f"# {json.dumps(address + inside)}: rewrap {subject.role}", *rules])


def _rules(subject: Subject, path: str) -> Iterator[str]:
    """Yield a rule for each path of one key: two for one path would not add up."""
    mount, _, name = path.rpartition("/")
    rules: dict[str, _Rule] = defaultdict(_Rule)
    for permission in subject.permissions(TRANSIT, f"{PREFIX}{path}"):
        at = f"{mount}/{permission.call.partition(' ')[2].format(key=name)}"
        rules[at].capabilities.add(permission.name)
        rules[at].lines += _limits(permission)
    for at, rule in sorted(rules.items()):
        lines = [f"  capabilities = {json.dumps(sorted(rule.capabilities))}", *rule.lines]
        yield "\n".join([f'path "{at}" {{', *lines, "}"])


def _limits(permission: Permission) -> Iterator[str]:
    if allowed := PARAMETERS.get(permission.call):
        yield "  allowed_parameters = {"
        for name, values in allowed.items():
            yield f'    "{name}" = {json.dumps(values)}'
        yield "  }"
