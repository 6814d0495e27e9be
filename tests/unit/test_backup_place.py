"""How a place of backups is reached of which only the URL is typed."""

from pathlib import Path

import pytest

from keywrap.tables.store import check_store
from scheduler.commands.backup import place_of
from workers.settings import Settings, load

INTERNAL = 'endpoint = "https://s3.internal:9000"\nregion = "eu-west-1"\nprofile = "{profile}"'


def settings(folder: Path, store: str, backup: str = "") -> Settings:
    file = folder / "rewrap.toml"
    file.write_text(f"[store]\n{store}\n{backup}\n")
    return load(str(file), {})


@pytest.mark.parametrize("where", ["[backup.store]", "[store]"])
def test_a_bucket_is_reached_as_the_configuration_reaches_others_of_its_kind(
    tmp_path: Path, where: str
) -> None:
    table = f'url = "s3://live/blobs"\n{INTERNAL.format(profile="live")}'
    backup = f'[backup.store]\nurl = "s3://kept"\n{INTERNAL.format(profile="kept")}'
    found = place_of(
        settings(tmp_path, table, backup if where == "[backup.store]" else ""), "s3://old/rewrap"
    )
    check_store(found)
    assert (found.url, found.endpoint) == ("s3://old/rewrap", "https://s3.internal:9000")
    assert found.profile == ("kept" if where == "[backup.store]" else "live")


def test_a_place_of_another_kind_takes_nothing_from_the_configuration(tmp_path: Path) -> None:
    table = f'url = "s3://live/blobs"\n{INTERNAL.format(profile="live")}'
    found = place_of(settings(tmp_path, table), "file:///mnt/backups")
    check_store(found)
    assert (found.url, found.endpoint, found.profile) == ("file:///mnt/backups", "", "")
