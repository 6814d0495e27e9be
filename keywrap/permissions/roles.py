"""Who may do what: the roles of `rewrap policy`, and what each may do with a key and a store.

No role holds a right to delete a key, or to have it deleted later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Power(StrEnum):
    """One thing that a principal may do with a key."""

    OPEN = "open"  # unwrap
    WRAP = "wrap"  # wrap under the current version, which it asks for
    MOVE_FROM = "move-from"  # have the service move wraps away from the key, unseen
    MOVE_TO = "move-to"  # have the service move wraps to the key, unseen
    JUDGE = "judge"  # tell a bad wrap from a bad key by a canary, where the service does not
    LOOK = "look"  # see the key's state and current version
    ROTATE = "rotate"  # make a new version
    SWITCH = "switch"  # take a version or the key out of use, and back


class StorePower(StrEnum):
    """One thing that a principal may do in the store."""

    READ = "read"  # list it, read blobs and sidecars
    WRITE = "write"  # put blobs and sidecars
    PUBLISH = "publish"  # put what lies under `.rewrap/`: the control file
    LOOK_BACK = "look-back"  # read what S3 keeps of objects that were replaced or removed
    REMOVE = "remove"  # remove old contents; a worker's only where [reencrypt] has `sweep = true`


class Role(StrEnum):
    """A kind of principal."""

    READER = "reader"  # an application that opens blobs
    WRITER = "writer"  # an application that writes them too
    WORKER = "worker"  # `rewrap worker`, `rewrap plan`
    VERIFIER = "verifier"  # a worker of the verifying queue
    OPERATOR = "operator"  # who types `rewrap rotate-kek`; the scheduler
    RETIRER = "retirer"  # who takes a KEK version out of use


ON_EVERY_KEY: Mapping[Role, frozenset[Power]] = {
    Role.READER: frozenset({Power.OPEN}),
    Role.WRITER: frozenset({Power.OPEN}),
    Role.WORKER: frozenset({Power.OPEN, Power.MOVE_FROM, Power.JUDGE}),
    Role.VERIFIER: frozenset({Power.OPEN}),
    Role.OPERATOR: frozenset({Power.LOOK, Power.ROTATE}),
    Role.RETIRER: frozenset({Power.LOOK, Power.SWITCH}),
}
"""What a role may do with each key that the configuration lists."""

ON_TARGETS: Mapping[Role, frozenset[Power]] = {
    Role.WRITER: frozenset({Power.WRAP}),
    Role.WORKER: frozenset({Power.WRAP, Power.MOVE_TO}),
}
"""What it may do besides with the keys that new wraps use."""

STORE_POWERS: Mapping[Role, frozenset[StorePower]] = {
    Role.READER: frozenset({StorePower.READ}),
    Role.WRITER: frozenset({StorePower.READ, StorePower.WRITE}),
    Role.WORKER: frozenset({StorePower.READ, StorePower.WRITE}),
    Role.VERIFIER: frozenset({StorePower.READ}),
    Role.OPERATOR: frozenset({StorePower.READ, StorePower.PUBLISH}),
    Role.RETIRER: frozenset({StorePower.LOOK_BACK}),
}
"""What a role may do in the store, whatever the configuration says."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What one call needs.

    Attributes:
        call: the client's operation, as the code names it.
        name: of the permission, as the vendor names it.
        powers: what somebody does who makes the call.
        bound: whether the request carries the blob's context, so that a policy can ask for it.
        ours: whether code of ours makes the call; otherwise an operator does, by the vendor's
            own command line.
    """

    call: str
    name: str
    powers: frozenset[Power]
    bound: bool = False
    ours: bool = True


def powers_of(role: Role, *, is_target: bool) -> frozenset[Power]:
    """Return what a role may do with a key.

    Args:
        role: the role.
        is_target: whether new wraps use the key.
    """
    more = ON_TARGETS.get(role, frozenset[Power]()) if is_target else frozenset[Power]()
    return ON_EVERY_KEY[role] | more
