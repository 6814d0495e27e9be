"""What may be wrong with an installation, and the line of the checklist that says so."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PASSWORD = "never-to-be-shown"
NOWHERE = "127.0.0.1:1"
GUID = "0f2fc0ba-6d55-4a1e-93f3-4b7f5a6e0c11"
HOST_A = f"""
[keys.dpapi.hostA]
mode = "ring"
ring = "/nowhere/hostA.ring.json"
master_keys = ["{GUID}"]
queue = "dpapi-hostA"
"""


@dataclass(frozen=True)
class Case:
    """Something that is wrong, and the line that says so.

    Attributes:
        name: the line that fails.
        reason_code: its reason.
        mend: words of its next step.
        code: the exit code.
        status: what the line is.
        edit: what is done to the configuration's text.
        environment: variables to set, or to unset where None.
        absent: lines that are skipped because of it.
    """

    name: str
    reason_code: str
    mend: str
    code: int = 1
    status: str = "fail"
    edit: Callable[[str], str] = field(default=lambda text: text)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def without_control(text: str) -> str:
    return text.partition("# created")[0]


def other_signer(text: str) -> str:
    return re.sub(r"public_key = .*", f'public_key = "{"A" * 43}="', text)


def key_service_nowhere(text: str) -> str:
    return re.sub(r"address = .*", f'address = "http://{NOWHERE}"', text)


KEY = "key hcvault://transit/{kek}"

CASES = {
    "it is not TOML": Case(
        "configuration", "configuration", "mend", code=2, edit=lambda text: f"{text}\n[store\n"
    ),
    "a table contradicts another": Case(
        "configuration",
        "configuration",
        "mend",
        code=2,
        edit=replaced('primary = "hcvault://transit/', 'primary = "hcvault://other/'),
    ),
    "a secret is not set": Case(
        "secrets",
        "secret_missing",
        "set BLOB_WRAP_KEY in the environment",
        environment={"BLOB_WRAP_KEY": None},
        absent=("legacy key env:BLOB_WRAP_KEY", "staging sample"),
    ),
    "the key that signs is not there": Case(
        "secrets",
        "secret_missing",
        "put it there",
        edit=replaced("control.key", "no-such.key"),
    ),
    "the key that signs is another's": Case(
        "secrets", "secret_missing", 'public_key = "', edit=other_signer
    ),
    "the ledger does not answer": Case(
        "ledger",
        "ledger_unavailable",
        "REWRAP_LEDGER_URL",
        code=3,
        environment={"REWRAP_LEDGER_URL": f"postgresql://rewrap:{PASSWORD}@{NOWHERE}/rewrap"},
        absent=("clock", "scheduler", "legacy key env:BLOB_KEY"),
    ),
    "the ledger's URL is none": Case(
        "ledger",
        "ledger_unavailable",
        "REWRAP_LEDGER_URL",
        code=3,
        environment={"REWRAP_LEDGER_URL": f"postgresql//{PASSWORD}"},
    ),
    "the database is empty": Case(
        "ledger",
        "ledger_not_migrated",
        "rewrap scheduler",
        code=3,
        environment={"REWRAP_LEDGER_URL": "EMPTY"},
    ),
    "the broker does not answer": Case(
        "broker",
        "broker_unavailable",
        "REWRAP_BROKER_URL",
        code=3,
        environment={"REWRAP_BROKER_URL": f"redis://:{PASSWORD}@{NOWHERE}/0"},
        absent=("workers of queue rewrap",),
    ),
    "the broker is none that is known": Case(
        "broker",
        "broker_unavailable",
        "REWRAP_BROKER_URL",
        code=3,
        environment={"REWRAP_BROKER_URL": f"carrier-pigeon://{PASSWORD}"},
    ),
    "nobody serves a queue": Case(
        "workers of queue dpapi-hostA",
        "no_worker",
        "rewrap worker --queues dpapi-hostA",
        code=3,
        edit=lambda text: text + HOST_A,
    ),
    "a table was edited since the workers were started": Case(
        "workers' settings",
        "settings_differ",
        "start scheduler and workers again",
        code=0,
        status="warn",
        edit=replaced("timeout_s = 2", "timeout_s = 3"),
    ),
    "a key is on other hosts": Case(
        f"legacy key dpapi:{GUID}",
        "key_elsewhere",
        "REWRAP_WORKERS_QUEUES=rewrap,dpapi-hostA",
        code=3,  # for want of a worker there
        status="skip",
        edit=lambda text: text + HOST_A,
    ),
    "master keys that no table lists have no ring": Case(
        "secrets",
        "secret_missing",
        "rewrap dpapi-ring",
        edit=replaced("here.ring.json", "nowhere.ring.json"),
        absent=("legacy keys of [keys.dpapi.here]",),
    ),
    "the store is not there": Case(
        "store",
        "store_unavailable",
        "[store] url",
        code=3,
        edit=replaced("/blobs", "/blubs"),
        absent=("conditional writes", "control file", "staging sample"),
    ),
    "the control file is signed by another": Case(
        "control file",
        "control_forged",
        "remove .rewrap/control.json",
        edit=other_signer,
    ),
    "there is no control file": Case(
        "control file",
        "control_not_configured",
        "rewrap control-key",
        code=0,
        status="skip",
        edit=without_control,
    ),
    "no key is primary": Case(
        "primary",
        "no_primary",
        'primary = "hcvault://transit/',
        code=0,
        status="warn",
        edit=lambda text: text.replace("primary = ", "# primary = "),
    ),
    "the token may do nothing": Case(
        KEY,
        "permission_denied",
        "check the key's table",
        environment={"BAO_TOKEN": PASSWORD},
        absent=("binding of hcvault://transit/{kek}",),
    ),
    "the key is not derived": Case(
        "key hcvault://transit/preflight-plain",
        "key_not_derived",
        "check the key's table",
        edit=lambda text: text.replace("preflight-kek", "preflight-plain"),
    ),
    "the key service does not answer": Case(
        KEY,
        "kms_unavailable",
        "is up at its address in [keys]",
        code=3,
        edit=key_service_nowhere,
    ),
    "a legacy key is another": Case(
        "legacy key env:BLOB_KEY",
        "blobs_do_not_open",
        "encoding, scheme or secret",
        environment={"BLOB_KEY": "00" * 32},
    ),
    "the contents are in another format": Case(
        "legacy key env:BLOB_KEY",
        "legacy_content_wrong",
        'set legacy_content = "records-v1" in [store], start scheduler and workers again',
        edit=replaced('legacy_content = "records-v1"', 'legacy_content = "gcm-v1"'),
    ),
    "real blobs do not open": Case(
        "staging sample",
        "blobs_do_not_open",
        "rewrap verify",
        environment={"BLOB_KEY": "00" * 32},
    ),
}
