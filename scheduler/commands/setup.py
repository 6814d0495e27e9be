"""`rewrap init`: a first configuration."""

from pathlib import Path

import click

from keywrap import newfile
from scheduler.desk import REFUSED, UNREACHABLE, Desk, DeskError
from workers.settings import DEFAULT_PATH

TEMPLATE = """\
# The configuration of rewrap. Secrets are never written here: they come from the environment or
# from files. Any value of [ledger], [broker], [workers], [scheduler], [log], [flower] and [metrics]
# may be overridden by REWRAP_<SECTION>_<NAME>, such as REWRAP_LEDGER_URL.

[store]
url = "file:///srv/blobs"            # where the blobs lie
blob_suffix = ".blob"                # blob id + this = its content
sidecar_suffix = ".blob.meta"        # blob id + this = its sidecar
legacy_default = "env:BLOB_KEY"      # the key of blobs whose sidecar names none, or is missing;
                                     # without this line they are quarantined
legacy_content = "records-v1"        # how blobs are encrypted whose sidecar does not say:
                                     # records-v1 or gcm-v1 (one AES-GCM message)
keep_previous = true                 # the old wrap stays beside the new one until it is sealed

[keys]
primary = "hcvault://transit/blob-kek"   # the KEK that new wraps use

# A legacy key, read from the environment variable of this name.
[keys.env.BLOB_KEY]
encoding = "hex"                     # hex, base64, base64url, raw, …: never guessed
scheme = "direct"                    # it is itself the data key; aes-gcm, …: it wraps data keys
# Other schemes, passphrases, DPAPI, key files, AWS, Google, Azure, PKCS#11: docs/keys.md.
# Blobs in S3, Azure and Google: docs/stores.md.

# A Transit key of OpenBao or Vault; made with: bao write -f transit/keys/blob-kek derived=true
[keys.vault."transit/blob-kek"]
address = "http://127.0.0.1:8200"        # a trial's; others are https://
token_env = "BAO_TOKEN"                  # or token_file, read again when refused

# What applications obey (docs/application.md): `rewrap control-key --out FILE` prints this table.
# [control]

# The trail of every use of a key (docs/audit.md): `rewrap audit key --out FILE` prints this table.
# [audit]

# Who can open the backup that is written before any wrap is replaced: an age recipient whose
# identity is kept offline. `rewrap backup-key --out FILE` prints this table.
# [backup]
# recipients = ["age1…"]

# Without these two, `rewrap up` brings a PostgreSQL and a Redis of its own.
# [ledger]
# url = "postgresql://rewrap@db/rewrap"      # a password: in REWRAP_LEDGER_URL
# [broker]
# url = "redis://valkey:6379/0"

# [workers]
# processes = 1                      # processes of one `rewrap worker`
# threads = 4                        # threads for store requests in each
# lease_s = 30                       # what a worker that dies costs at most

# Who is told when something is wrong (docs/alerts.md). Try it with: rewrap alerts test
# [alerts.webhooks.ops]
# url_file = "/run/secrets/alert-url"  # or url_env = "ALERT_URL": it is a secret
# format = "slack"                   # or json

# [log]
# format = "auto"                    # text on a terminal, JSON elsewhere (docs/logs.md)

# [flower]
# address = "127.0.0.1"
# port = 5555
# url_prefix = ""                    # the path that it is reached under, behind a proxy
# actions = false                    # whether campaigns may be started and stopped there

# [metrics]                          # for Prometheus: docs/metrics.md
# address = "127.0.0.1"
# port = 9310                        # the scheduler's; workers have the next ones; 0: none
"""


@click.command()
@click.pass_obj
def init(desk: Desk) -> None:
    """Write a commented configuration to start from. Never overwrites one.

    Example: rewrap init
    """
    file = Path(desk.config or DEFAULT_PATH)
    try:
        newfile.create(file, TEMPLATE.encode())
    except FileExistsError:
        raise DeskError(
            f"{file} is there already and was left as it is",
            exit_code=REFUSED,
            reason_code="already_there",
            next_command=f"edit {file}, then: rewrap up",
        ) from None
    except OSError as error:
        raise DeskError(
            f"{file} cannot be written, and no part of it was left: {error.strerror}",
            exit_code=UNREACHABLE,
            reason_code="file_not_writable",
            next_command="rewrap --config FILE init",
        ) from error
    click.echo(f"wrote {file}\nnext: edit it, set the secrets it names, then: rewrap up")
