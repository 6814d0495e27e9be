"""The page of all settings is what the settings classes say."""

import msgspec

from scheduler import confdoc
from workers.settings import Settings


def test_the_page_is_what_the_settings_say() -> None:
    assert confdoc.PAGE.read_text(encoding="utf-8") == confdoc.page(), (
        "run: python -m scheduler.confdoc > docs/configuration.md"
    )


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in confdoc.page().splitlines() if line.startswith("| `")]

    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_table_has_a_section() -> None:
    page = confdoc.page()

    tables = {field.encode_name for field in msgspec.structs.fields(Settings)}
    for name in tables - {"keywrap", "state_dir"} | {"store", "keys", "control", "cache"}:
        assert f"## `[{name}" in page


def test_no_rule_of_safety_has_an_environment_variable() -> None:
    sections = confdoc.page().split("\n## ")

    for section in sections:
        if section.startswith(("`[gates", "`[approvals", "`[keys", "`[control", "`[backup")):
            assert "REWRAP_" not in section
    assert "`REWRAP_LEDGER_URL`" in confdoc.page()
    assert "REWRAP_FLOWER_ACTIONS" not in confdoc.page()
