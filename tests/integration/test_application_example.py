"""The example of docs/application.md is run, behind a real server and on a real key service."""

import json
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.serving import make_server

from embedded import OpenBao
from keywrap.config import TABLES, KeywrapConfig
from keywrap.contents import content_format
from keywrap.datakey import DataKey

PAGE = (Path(__file__).parents[2] / "docs/application.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def folder(
    tmp_path: Path, openbao: OpenBao, transit_key: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    (tmp_path / "blobs").mkdir()
    legacy = secrets.token_hex(32)
    monkeypatch.setenv("BLOB_KEY", legacy)
    token = tmp_path / "token"
    token.write_text(openbao.token)
    token.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewrap.toml").write_text(
        f"""
[store]
url = "{(tmp_path / "blobs").as_uri()}"
legacy_default = "env:BLOB_KEY"
legacy_content = "records-v1"

[keys]
primary = "hcvault://transit/{transit_key}"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.vault."transit/{transit_key}"]
address = "{openbao.address}"
token_file = "{token}"

[workers]
concurrency = 1

{block("toml")}"""
    )
    content = content_format("records-v1").seal(DataKey(bytes.fromhex(legacy)), b"old" * 5000)
    (tmp_path / "blobs" / "legacy").write_bytes(content)
    return tmp_path


@pytest.fixture
def example(folder: Path) -> Iterator[dict[str, Any]]:
    assert folder.is_dir()
    names: dict[str, Any] = {"__name__": "example"}
    exec(block("python"), names)  # noqa: S102 - our own page
    yield names
    names["blobs"].audit.close()


@pytest.fixture
def address(example: dict[str, Any]) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, example["app"], threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/blobs/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _as_root(openbao: OpenBao, path: str, body: dict[str, str]) -> Any:
    headers = {"X-Vault-Token": openbao.token}
    answer = requests.post(f"{openbao.address}/v1/{path}", json=body, headers=headers, timeout=30)
    assert answer.ok, answer.text
    return answer.json() if answer.content else None


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "keys.jsonl").read_text().splitlines()]


def test_a_client_writes_and_reads_blobs_of_every_size(folder: Path, address: str) -> None:
    for size in (0, 5, 300_000, 9 * 1024 * 1024):
        text = secrets.token_bytes(size)
        assert requests.put(f"{address}a/{size}", data=text, timeout=30).status_code == 204
        answer = requests.get(f"{address}a/{size}", timeout=30)
        assert answer.status_code == 200
        assert answer.content == text
    assert {event["outcome"] for event in events(folder)} == {"ok"}
    assert (folder / "keys.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_client_reads_what_the_application_wrote_before(address: str) -> None:
    assert requests.get(f"{address}legacy", timeout=30).content == b"old" * 5000


def test_a_client_is_told_that_there_is_no_such_blob(address: str) -> None:
    assert requests.get(f"{address}missing", timeout=30).status_code == 404


def test_a_client_that_breaks_off_leaves_the_old_blob(address: str, folder: Path) -> None:
    requests.put(f"{address}a", data=b"old", timeout=30)
    before = sorted(path.name for path in (folder / "blobs").iterdir())

    def half() -> Iterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        requests.put(f"{address}a", data=half(), timeout=30)
    assert requests.get(f"{address}a", timeout=30).content == b"old"
    assert sorted(path.name for path in (folder / "blobs").iterdir()) == before


def test_a_content_that_was_cut_never_looks_whole_to_a_client(address: str, folder: Path) -> None:
    requests.put(f"{address}a", data=bytes(300_000), timeout=30)
    (file,) = (folder / "blobs").glob("a.~*")
    file.write_bytes(file.read_bytes()[: 72 + 3 * 65_552])
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"{address}a", timeout=30)
    assert events(folder)[-1]["event"] == "alert"


def test_where_the_applications_right_is_revoked_writes_block_and_nothing_changes(
    address: str, folder: Path, openbao: OpenBao
) -> None:
    own = _as_root(openbao, "auth/token/create", {"ttl": "10m"})["auth"]["client_token"]
    (folder / "token").write_text(own)
    requests.put(f"{address}a", data=b"old", timeout=30)
    before = sorted(path.name for path in (folder / "blobs").iterdir())
    _as_root(openbao, "auth/token/revoke", {"token": own})
    answer = requests.put(f"{address}a", data=b"new", timeout=30)
    assert answer.status_code == 503
    assert answer.text == "permission_denied\n"
    assert events(folder)[-1]["reason_code"] == "permission_denied"
    assert sorted(path.name for path in (folder / "blobs").iterdir()) == before
    (folder / "token").write_text(openbao.token)
    assert requests.get(f"{address}a", timeout=30).content == b"old"


def test_the_cache_of_the_page_is_configured_and_used(
    folder: Path, address: str, example: dict[str, Any]
) -> None:
    requests.put(f"{address}a", data=b"text", timeout=30)
    for _ in range(2):
        requests.get(f"{address}a", timeout=30)
    assert [e["cached"] for e in events(folder) if e["event"] == "unwrap"] == [False, True]
    assert len(example["blobs"].cache) == 1


@pytest.mark.parametrize(
    "table", [{}, {"max_keys": 1}, {"max_keys": 0, "max_age_s": 1, "max_uses": 1}, []]
)
def test_a_cache_without_all_its_bounds_is_no_configuration(table: object) -> None:
    from keywrap.config import ConfigError  # noqa: PLC0415

    assert "cache" in TABLES
    with pytest.raises(ConfigError, match=r"\[cache\]"):
        KeywrapConfig.from_table({"store": {"url": "file:///srv/blobs"}, "cache": table})
