import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import psutil

from embedded import locks
from tests.nodes import Node, processes_of, until
from tests.roads import Road
from tests.sites import run
from workers.settings import load

SERVICES = ("scheduler", "worker-1", "worker-2", "flower")


def test_init_writes_a_configuration_that_loads_and_never_overwrites_one(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    assert run(["init"], environment, tmp_path).code == 0
    file = tmp_path / "rewrap.toml"
    written = file.read_bytes()
    settings = load(str(file), {})
    assert settings.keywrap.keys.primary in settings.keywrap.keys.uris()
    again = run(["init"], environment, tmp_path)
    assert (again.code, again.out) == (4, "")
    assert "already_there" in again.err
    assert file.read_bytes() == written
    assert list(tmp_path.iterdir()) == [file]


def test_only_workers_have_the_keys_and_no_command_line_has_any(acceptance: Node) -> None:
    site = acceptance.site
    sign_in = (site.state / "flower-sign-in").read_text()
    family = {
        name: acceptance.family(name) for name in ("scheduler", "flower", "redis", "postgres")
    }
    workers = [p for name in ("worker-1", "worker-2") for p in acceptance.family(name)]
    assert len(workers) >= 4  # with the processes of their pools
    for process in workers:
        environment = process.environ()
        assert {name: environment.get(name) for name in site.secrets} == site.secrets
        assert "REWRAP_FLOWER_BASIC_AUTH" not in environment
    for name, processes in family.items():
        for process in processes:
            text = of_process(process, "environ")
            for variable, secret in site.secrets.items():
                assert f"{variable}=" not in text, name
                assert secret not in text, name
            assert sign_in not in text or name == "flower"
    assert sign_in in of_process(acceptance.process("flower"), "environ")
    everyone = [*workers, *(p for processes in family.values() for p in processes)]
    for process in everyone:
        line = of_process(process, "cmdline")
        assert not any(secret in line for secret in (*site.secrets.values(), sign_in)), line


def of_process(process: psutil.Process, file: str) -> str:
    """Read a file of /proc; empty where the process has just ended."""
    try:
        return Path(f"/proc/{process.pid}/{file}").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_nothing_of_a_node_listens_beyond_the_loopback(acceptance: Node) -> None:
    where = re.compile(r"^metrics of \S+: http://127\.0\.0\.1:(\d+)/", re.MULTILINE)
    said = where.findall(acceptance.out.read_text())
    ports = {acceptance.site.flower_port, *map(int, said[-3:])}
    assert len(ports) == 4
    until(lambda: len(listening(acceptance)) == len(ports), "all listen", 20)
    assert listening(acceptance) == {("127.0.0.1", port) for port in ports}


def listening(node: Node) -> set[tuple[str, int]]:
    found = set()
    for process in psutil.Process(node.up.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a connection's process of PostgreSQL
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((connection.laddr.ip, connection.laddr.port))
    return found


def test_a_second_node_in_the_same_place_is_refused(acceptance: Node) -> None:
    ran = acceptance.site.rewrap("up", "--workers", "1")
    assert ran.code == 4, ran
    assert "already_up" in ran.err
    assert "next: rewrap status" in ran.err
    assert acceptance.up.poll() is None


def test_ctrl_c_in_mid_campaign_ends_everything_and_the_next_up_goes_on(
    acceptance: Node, road: Road
) -> None:
    site = acceptance.site
    ids = site.make(400, "stop/")
    road.delay_s = 0.4
    campaign_id = site.campaign("migrate", "--prefix", "stop/")
    acceptance.reach(campaign_id, "running")
    started = time.monotonic()
    os.killpg(acceptance.up.pid, signal.SIGINT)  # as a terminal does
    assert acceptance.up.wait(45) == 0
    assert time.monotonic() - started < 35
    assert not processes_of(site.directory)
    files = [f for f in site.state.rglob("*") if f.suffix in {".lock", ".owner"}]
    assert len(files) >= 5
    assert [f for f in files if locks.is_held(f)] == []
    killed = [line for line in acceptance.out.read_text().splitlines() if "killed" in line]
    assert killed == [], {name: acceptance.log(name)[-2000:] for name in SERVICES}
    for name in SERVICES:
        assert [json.loads(line)["service"] for line in acceptance.log(name).splitlines()], name
    assert site.wrong(ids) == []
    road.delay_s = 0.0
    acceptance.ensure_up()
    document = acceptance.reach(campaign_id, "complete")
    assert document["counts"]["rewrapped"] == len(ids)
    assert site.wrong(ids) == []
