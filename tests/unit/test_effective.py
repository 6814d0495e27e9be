import tomllib

import pytest

from scheduler.effective import hidden, toml


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("postgresql://db/rewrap", "postgresql://db/rewrap"),
        ("postgresql://u:s3cret@db/rewrap", "postgresql://***@db/rewrap"),
        ("postgresql://u:s3/cr@et@db/rewrap", "postgresql://***@db/rewrap"),
        ("postgresql://db/r?user=u&password=s3cret", "postgresql://db/r?user=u&password=***"),
        ("redis+socket:///run/r.sock?virtual_host=0", "redis+socket:///run/r.sock?virtual_host=0"),
        ("sentinel://:s3cret@a;sentinel://:s3cret@b", "sentinel://***@b"),
    ],
)
def test_nothing_of_a_url_is_shown_that_may_be_secret(url: str, shown: str) -> None:
    assert hidden(url) == shown


def test_tables_are_written_as_toml_that_reads_back() -> None:
    tables = {
        "state_dir": "/a b/ü",
        "keys": {"primary": 'a"b', "vault": {"transit/kek": {"timeout_s": 2.0}}, "aws": {"x": {}}},
        "workers": {"queues": ["a", "b"], "idle": False, "limit": None},
    }
    again = tomllib.loads(toml(tables))
    del tables["workers"]["limit"]  # type: ignore[attr-defined]
    assert again == tables
