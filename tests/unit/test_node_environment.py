from pathlib import Path

from scheduler.node import environments
from workers import logs
from workers.settings import Settings, load

CONFIG = """
[store]
url = "az://blobs"
account = "acme"
sas_env = "STORE_SAS"

[backup]
required = false

[backup.store]
url = "az://backups"
account = "acme"
account_key_env = "BACKUP_KEY"

[alerts.webhooks.ops]
url_env = "HOOK_URL"

[keys.env.BLOB_KEY]
encoding = "raw"
scheme = "direct"
from = "dpapi:BLOB_KEY_DPAPI"

[keys.env.OLD_KEK]
encoding = "hex"
scheme = "aes-gcm"

[keys.dpapi.hostA]
entropy_env = "HOST_A_ENTROPY"
entropy_encoding = "hex"

[keys.vault."transit/blob-kek"]
address = "http://127.0.0.1:1"
token_env = "BAO_TOKEN"

[keys.pkcs11."token=hsm;object=kek"]
module = "/usr/lib/softhsm.so"
pin_env = "HSM_PIN"
"""
KEYS = {"BLOB_KEY_DPAPI", "OLD_KEK", "HOST_A_ENTROPY", "BAO_TOKEN", "HSM_PIN"}
STORES = {"STORE_SAS", "BACKUP_KEY"}


def settings(folder: Path) -> Settings:
    config = folder / "rewrap.toml"
    config.write_text(CONFIG)
    return load(str(config), {})


def test_each_process_gets_no_secret_but_those_that_it_uses(tmp_path: Path) -> None:
    given = dict.fromkeys([*KEYS, *STORES, "HOOK_URL", "PATH"], "secret")
    scheduler, worker, flower = environments(given, settings(tmp_path))
    assert scheduler.keys() == {*STORES, "HOOK_URL", "PATH"}
    assert worker.keys() == {*KEYS, *STORES, "PATH"}
    assert flower.keys() == {"PATH"}


def test_no_line_of_a_log_shows_what_a_variable_of_the_configuration_holds(tmp_path: Path) -> None:
    given = {name: f"secret of {name}" for name in (*KEYS, *STORES, "HOOK_URL")}
    assert logs.known_secrets(settings(tmp_path), given) == set(given.values())
