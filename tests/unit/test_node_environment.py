from pathlib import Path

from scheduler.node import without_secrets
from workers.settings import load

CONFIG = """
[store]
url = "file:///nowhere"

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
"""


def test_scheduler_and_flower_get_no_variable_that_a_key_is_read_from(tmp_path: Path) -> None:
    config = tmp_path / "rewrap.toml"
    config.write_text(CONFIG)
    secret = ("BLOB_KEY_DPAPI", "OLD_KEK", "HOST_A_ENTROPY", "BAO_TOKEN")
    environment = dict.fromkeys(secret, "secret") | {"PATH": "/bin"}
    assert without_secrets(environment, load(str(config), {})) == {"PATH": "/bin"}
