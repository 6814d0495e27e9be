import random
from pathlib import Path

import pytest

from keywrap.config import ConfigError
from tests.trails import signing_key
from workers.settings import Settings, load

KEY = str(signing_key(random.Random(1)).public)


def loaded(folder: Path, audit: str = "", **environ: str) -> Settings:
    config = folder / "rewrap.toml"
    config.write_text(f'[store]\nurl = "file:///nowhere"\n{audit}')
    return load(str(config), environ)


def test_the_trail_is_kept_in_the_state_directory_unless_another_is_named(tmp_path: Path) -> None:
    assert loaded(tmp_path).audit.directory == str(tmp_path / ".rewrap-state" / "audit")
    named = loaded(tmp_path, '[audit]\ndirectory = "trail"\n')
    assert named.audit.directory == str(tmp_path / "trail")
    assert loaded(tmp_path, REWRAP_AUDIT_DIRECTORY="/audit").audit.directory == "/audit"
    moved = loaded(tmp_path, REWRAP_STATE_DIR="/var/lib/rewrap")
    assert moved.audit.directory == "/var/lib/rewrap/audit"


def test_no_variable_says_whose_signature_counts(tmp_path: Path) -> None:
    audit = f'[audit]\npublic_key = "{KEY}"\n'
    assert loaded(tmp_path, audit, REWRAP_AUDIT_PUBLIC_KEY="other").audit.public_key == KEY
    assert loaded(tmp_path, REWRAP_AUDIT_PUBLIC_KEY=KEY).audit.public_key == ""


@pytest.mark.parametrize(
    "audit",
    [
        "audit = 7",
        "[audit]\ndirectory = 7",
        '[audit]\npublic_key = "short"',
        '[audit]\nprivate_key_file = "audit.key"',
        "[audit]\nhead_every_s = 0",
        "[audit]\nunknown = 1",
        "[audit]\nhead_every_s = inf",
        "[audit]\nhead_every_s = nan",
        '[audit]\ndirectory = "a\\u0000b"',
        '[audit]\nprivate_key_file = "a\\u0000b"',
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path: Path, audit: str) -> None:
    with pytest.raises(ConfigError, match=r"\[audit\]"):
        loaded(tmp_path, audit if audit.startswith("[") else "[audit]\n" + audit)
