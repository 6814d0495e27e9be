"""The states of campaigns and shards, and every step that a campaign may take between them."""

from enum import StrEnum


class Kind(StrEnum):
    """What a campaign does."""

    INVENTORY = "inventory"  # records which key wraps each blob
    MIGRATE = "migrate"  # legacy keys to the managed KEK
    ROTATE = "rotate"  # one managed KEK version to another
    REENCRYPT = "reencrypt"  # a new data key for each blob, and its content anew
    VERIFY = "verify"  # opens blobs and their content; changes nothing
    PLAN = "plan"  # opens a sample as a campaign would, and changes nothing
    BACKUP = "backup"  # writes the wraps to an encrypted backup; changes nothing
    SEAL = "seal"  # strips the wraps before the newest, which a campaign has left
    UNDO = "undo"  # puts the wraps back that a campaign has replaced
    SWEEP = "sweep"  # removes the old contents that a re-encryption has left


KEEPING = (Kind.MIGRATE, Kind.ROTATE)
"""Kinds that may leave the old wrap beside the new one, to be sealed or undone."""

REWRAPPING = (*KEEPING, Kind.REENCRYPT)
"""Kinds that make new wraps: they begin with a canary, and the rate ramps up after it."""

FOLLOWING = (Kind.SEAL, Kind.UNDO, Kind.SWEEP)
"""Kinds that follow another campaign, and change what that one has left."""

MOVING = (*REWRAPPING, *FOLLOWING)
"""Kinds that change blobs: they replace sidecars, or remove old contents. No other may."""

COUNTING = (Kind.INVENTORY, Kind.BACKUP)
"""Kinds that decide nothing about a blob: what they have scanned is done."""

OPENING = (Kind.VERIFY, Kind.PLAN)
"""Kinds whose outcomes are what their verify shards say of blobs."""


class State(StrEnum):
    """Where a campaign stands."""

    PLANNED = "planned"  # asked for; the next tick takes it up
    AWAITING_APPROVAL = "awaiting_approval"  # a second person must sign exactly this plan
    INVENTORY = "inventory"  # workers list the store and read the sidecars
    BACKUP = "backup"  # the wraps about to be replaced go into an encrypted backup
    CANARY = "canary"  # a random sample goes through all steps but the write, and is opened
    RUNNING = "running"  # workers rewrap
    VERIFYING = "verifying"  # a fresh scan for stragglers, and the sample is opened
    PAUSING = "pausing"  # no new shards; those in work are handed back
    PAUSED = "paused"  # a person resumes
    BLOCKED = "blocked"  # a KEK or service refuses; one shard at a time tries until it is mended
    STOPPED = "stopped"  # a gate stopped it: a proof failed, too many fail; a person resumes
    COMPLETE = "complete"  # every blob is where it should be, and a fresh scan found no straggler
    COMPLETE_WITH_EXCEPTIONS = "complete_with_exceptions"  # done, but some blobs need a person
    CANCELLING = "cancelling"  # as pausing, for good
    CANCELLED = "cancelled"  # what was rewrapped stays so


_WORK = {State.INVENTORY, State.BACKUP, State.CANARY, State.RUNNING, State.VERIFYING}

TRANSITIONS: dict[State, frozenset[State]] = {
    State.PLANNED: frozenset(
        {State.AWAITING_APPROVAL, State.INVENTORY, State.PAUSED, State.CANCELLED}
    ),
    State.AWAITING_APPROVAL: frozenset({State.INVENTORY, State.CANCELLED}),
    State.INVENTORY: frozenset(
        {
            State.BACKUP,  # every sidecar has been read
            State.CANARY,  # likewise, and the configuration wants no backup
            State.RUNNING,  # likewise, and nothing new is wrapped
            State.VERIFYING,  # a verify campaign or a plan opens what was listed
            State.COMPLETE,  # an inventory is all that was asked for
            State.BLOCKED,
            State.STOPPED,
            State.PAUSING,
            State.CANCELLING,
        }
    ),
    State.BACKUP: frozenset(
        {
            State.CANARY,  # the backup is whole, and was read back
            State.RUNNING,  # likewise, and the canary was passed before or nothing new is wrapped
            State.COMPLETE,  # a backup is all that was asked for
            State.BLOCKED,
            State.STOPPED,
            State.PAUSING,
            State.CANCELLING,
        }
    ),
    State.CANARY: frozenset(
        {
            State.RUNNING,  # every blob of the sample opens to what it was
            State.BLOCKED,
            State.STOPPED,
            State.PAUSING,
            State.CANCELLING,
        }
    ),
    State.RUNNING: frozenset(
        {
            State.VERIFYING,  # every blob has its outcome
            State.BLOCKED,
            State.STOPPED,
            State.PAUSING,
            State.CANCELLING,
        }
    ),
    State.VERIFYING: frozenset(
        {
            State.RUNNING,  # the fresh scan found stragglers
            State.BACKUP,  # likewise, and their wraps are in no backup yet
            State.COMPLETE,
            State.COMPLETE_WITH_EXCEPTIONS,
            State.BLOCKED,
            State.STOPPED,
            State.PAUSING,
            State.CANCELLING,
        }
    ),
    # Out of a wait: back to the state that was left.
    State.BLOCKED: frozenset({*_WORK, State.STOPPED, State.PAUSING, State.CANCELLING}),
    State.STOPPED: frozenset({*_WORK, State.CANCELLING}),
    State.PAUSING: frozenset({State.PAUSED, *_WORK, State.STOPPED, State.CANCELLING}),
    State.PAUSED: frozenset({State.PLANNED, *_WORK, State.CANCELLING, State.CANCELLED}),
    State.COMPLETE_WITH_EXCEPTIONS: frozenset({*_WORK}),  # retry
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.COMPLETE: frozenset(),
    State.CANCELLED: frozenset(),
}

RESUMABLE = frozenset({State.PLANNED, *_WORK})
"""States that a campaign goes back to after a wait."""

WORKING = frozenset({*_WORK, State.BLOCKED})
"""States in which a worker may claim a shard. A blocked campaign is probed by one at a time."""

FINISHED = frozenset({State.COMPLETE, State.COMPLETE_WITH_EXCEPTIONS, State.CANCELLED})

OPEN = frozenset(State) - FINISHED


def sources_of(target: State) -> list[State]:
    """Return the states from which a campaign may step to `target`."""
    return [state for state, targets in TRANSITIONS.items() if target in targets]


class ShardKind(StrEnum):
    """What the task of a shard does."""

    INVENTORY = "inventory"  # one part of the store is listed and its sidecars are read
    REWRAP = "rewrap"  # the blobs of the shard are brought to the target
    STRAGGLERS = "stragglers"  # one part of the store is scanned anew for wraps still to move
    VERIFY = "verify"  # blobs are opened, content and all; in a plan or canary, all but rewrapped
    BACKUP = "backup"  # the sidecars of blobs are written to one part of a backup
    MANIFEST = "manifest"  # the backup's list of parts is written


class ShardState(StrEnum):
    """Where a shard stands."""

    WAITING = "waiting"  # nobody has it
    OFFERED = "offered"  # a message is out; until the offer lapses only a claim takes it
    LEASED = "leased"  # a worker has it, under a lease with a fencing token
    DONE = "done"
