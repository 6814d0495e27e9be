"""What a command line and its environment may not talk the operator's desk into."""

import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from ledger.queues import QUEUE
from ledger.shards import Offer
from ledger.states import ShardKind
from scheduler.desk import USAGE, Desk, DeskError, operator
from scheduler.loop import sender

KEK = "hcvault://transit/blob-kek"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    config = tmp_path / "rewrap.toml"
    config.write_text(
        f'[store]\nurl = "{tmp_path.as_uri()}"\n[keys]\nprimary = "{KEK}"\n'
        f'[keys.vault."transit/blob-kek"]\naddress = "http://127.0.0.1:1"\n'
        'token_env = "KEK_TOKEN"\n'
    )
    return Desk(str(config))


@pytest.mark.parametrize("version", ["1", "2", "99"])
def test_a_campaign_to_a_version_of_a_key_is_refused_since_it_moves_to_the_newest(
    desk: Desk, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEK_TOKEN", "s.notarealtoken")
    assert desk.kek(KEK).key == KEK
    with pytest.raises(DeskError, match="names a version: give the key alone") as refused:
        desk.kek(f"{KEK}?version={version}")
    assert refused.value.exit_code == USAGE == 2
    assert "nothing was changed" in str(refused.value)


def test_who_asks_is_not_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert operator().startswith(f"{pwd.getpwuid(os.getuid()).pw_name}@")


def test_a_message_does_not_expire_by_the_clocks_of_other_hosts() -> None:
    sent: list[dict[str, Any]] = []
    app = SimpleNamespace(send_task=lambda *_name, **options: sent.append(options))
    sender(app)(Offer(uuid4(), ShardKind.REWRAP, QUEUE, 1, 2))
    assert len(sent) == 1
    assert "expires" not in sent[0]
