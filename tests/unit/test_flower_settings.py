"""`[flower]`: what an environment may change, and what it may not."""

from pathlib import Path

import pytest

from keywrap.config import ConfigError
from scheduler.pages.acting import _is_elsewhere, _user
from workers.settings import Settings, load


def read(folder: Path, table: str, **environ: str) -> Settings:
    config = folder / "rewrap.toml"
    config.write_text(f'[store]\nurl = "file:///nowhere"\n\n[flower]\n{table}\n')
    return load(str(config), environ)


def test_actions_are_off_and_no_variable_turns_them_on(tmp_path: Path) -> None:
    assert not read(tmp_path, "").flower.actions
    assert not read(tmp_path, "", REWRAP_FLOWER_ACTIONS="true").flower.actions
    on = read(tmp_path, "actions = true", REWRAP_FLOWER_ACTIONS="false", REWRAP_FLOWER_PORT="99")
    assert (on.flower.actions, on.flower.port) == (True, 99)
    with pytest.raises(ConfigError):
        read(tmp_path, 'actions = "true"')


@pytest.mark.parametrize("prefix", ["flower", "/flower", "ops/flower-2", "", "/a_b/c"])
def test_a_prefix_is_a_path(tmp_path: Path, prefix: str) -> None:
    assert read(tmp_path, f'url_prefix = "{prefix}"').flower.url_prefix == prefix
    assert read(tmp_path, "", REWRAP_FLOWER_URL_PREFIX=prefix).flower.url_prefix == prefix


@pytest.mark.parametrize("prefix", ["//evil.example", "a//b", "a/", "a b", "../x", "a?b", "a\\nb"])
def test_what_is_no_path_is_no_prefix(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, f'url_prefix = "{prefix}"')


@pytest.mark.parametrize(
    ("headers", "is_elsewhere"),
    [
        ({}, False),  # no browser: it would say at least one of these
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://here:1"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://here:1"}, False),
        ({"Origin": "http://here:2"}, True),
        ({"Origin": "http://here:1.evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
    ],
)
def test_what_comes_from_another_site_is_told_by_its_headers(
    headers: dict[str, str], *, is_elsewhere: bool
) -> None:
    assert _is_elsewhere(headers, "here:1") is is_elsewhere


@pytest.mark.parametrize(
    ("header", "user"),
    [
        ("Basic YW5uOnA6cQ==", "ann"),
        ("Basic w6k6cA==", "é"),
        ("Bearer YW5uOnA=", ""),
        ("Basic YW5u", ""),
        ("Basic %%%", ""),
        ("Basic /w==", ""),
        ("", ""),
    ],
)
def test_who_signs_in_is_named_by_what_they_signed_in_with(header: str, user: str) -> None:
    assert _user(header) == user
