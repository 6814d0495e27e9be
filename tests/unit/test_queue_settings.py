from pathlib import Path

import pytest

from keywrap.config import ConfigError
from keywrap.keys import KeyVersion
from workers.composition import queue_of, strange_queues
from workers.settings import Settings, load

GUID = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"

CONFIG = f"""
[store]
url = "file:///nowhere"

[keys.dpapi.hostA]
master_keys = ["{GUID}"]
queue = "dpapi-hostA"

[keys.dpapi.anywhere]
mode = "ring"
ring = "/nowhere/ring.json"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "rewrap.toml"
    path.write_text(CONFIG)
    return path


def _load(config: Path, more: str = "", **environ: str) -> Settings:
    config.write_text(CONFIG + more)
    return load(str(config), environ)


def test_a_worker_serves_the_default_queue_unless_told_otherwise(config: Path) -> None:
    assert _load(config).workers.queues == ("rewrap",)


def test_queues_come_from_the_configuration_and_a_variable_goes_before(config: Path) -> None:
    more = '[workers]\nqueues = ["rewrap", "dpapi-hostA"]\n'
    assert _load(config, more).workers.queues == ("rewrap", "dpapi-hostA")
    only = _load(config, more, REWRAP_WORKERS_QUEUES="dpapi-hostA")
    assert only.workers.queues == ("dpapi-hostA",)
    both = _load(config, REWRAP_WORKERS_QUEUES="rewrap, dpapi-hostA")
    assert both.workers.queues == ("rewrap", "dpapi-hostA")


@pytest.mark.parametrize(
    "queues",
    [
        '"rewrap"',
        "[]",
        '[""]',
        '["a,b"]',
        '["-Q"]',
        '["a b"]',
        '["rewrap\\n"]',
        "[1]",
        f'["{"x" * 65}"]',
    ],
)
def test_what_is_no_list_of_queues_is_refused(config: Path, queues: str) -> None:
    with pytest.raises(ConfigError, match="workers"):
        _load(config, f"[workers]\nqueues = {queues}\n")


@pytest.mark.parametrize("queues", ["", ",", "rewrap,", "rewrap dpapi-hostA"])
def test_a_variable_with_another_text_is_refused(config: Path, queues: str) -> None:
    with pytest.raises(ConfigError, match="workers"):
        _load(config, REWRAP_WORKERS_QUEUES=queues)


@pytest.mark.parametrize(
    ("key", "queue"),
    [
        (f"dpapi:{GUID}", "dpapi-hostA"),
        (f"dpapi:{OTHER}", "rewrap"),
        ("env:BLOB_KEY", "rewrap"),
        ("hcvault://transit/blob-kek", "rewrap"),
    ],
)
def test_a_key_without_a_queue_is_of_the_default_one(config: Path, key: str, queue: str) -> None:
    assert queue_of(_load(config))(KeyVersion(key, "")) == queue


def test_a_queue_that_no_key_names_is_strange(config: Path) -> None:
    settings = _load(config, REWRAP_WORKERS_QUEUES="dpapi-hostA,rewrap,dpapi-hosta")
    assert strange_queues(settings) == ["dpapi-hosta"]
