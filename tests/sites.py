"""A site: a folder of legacy blobs, a configuration, keys made at run time, and `rewrap` for it."""

import atexit
import base64
import functools
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac

from embedded import OpenBao
from embedded.places import free_port
from keywrap.backups.bundle import create_identity
from keywrap.keys import KeyVersion
from keywrap.layout import Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from tests.commands import Terminal
from tests.readers import OldApplication, PlainReader, Watch

ROOT = Path(__file__).resolve().parent.parent

CONFIG = """\
[store]
url = "{store}"
blob_suffix = ".blob"
sidecar_suffix = ".blob.meta"
{legacy_default}legacy_content = "records-v1"

[keys]
primary = "hcvault://transit/{kek}"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.env.BLOB_WRAP_KEY]
encoding = "base64"
scheme = "aes-gcm"

[keys.vault."transit/{kek}"]
address = "{address}"
{token}
timeout_s = 2

[workers]
lease_s = 3
batch = {batch}
threads = 4

[scheduler]
tick_s = 0.2
claim_s = 2
scan_parts = 4

[flower]
port = {port}

[metrics]
port = {metrics_port}
"""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What stands on stdout, which is one JSON document and nothing else."""
        return json.loads(self.out)


class PlainFiles:
    """A folder that an application writes to by itself, without our locks and flushes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)


class Premises:
    """A folder with a configuration, and what an operator there would type.

    Args:
        directory: everything lies below it; made if it is not there.
        config: the configuration.
        secrets: the environment variables that it names.
    """

    def __init__(self, directory: Path, config: str, secrets: Mapping[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.state = directory / ".rewrap-state"
        self.config = directory / "rewrap.toml"
        self.identity = directory / "backup.key"
        identity, recipient = create_identity()
        self.identity.write_text(identity)
        if "[backup]" not in config:
            config += f'\n[backup]\nrecipients = ["{recipient}"]\n'
        self.config.write_text(config)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "REWRAP_CONFIG": str(self.config),
            **secrets,
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Type a command and do not wait for its end."""
        return subprocess.Popen(
            command(*arguments),
            env=self.environment | environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def rewrap(self, *arguments: str, timeout_s: float = 90, **environment: str) -> Ran:
        """Type a command, without a terminal, and wait for its end."""
        return run(arguments, self.environment | environment, self.directory, timeout_s)

    def ask(self, *arguments: str) -> Any:
        """Type a reading command; return its JSON document."""
        ran = self.rewrap(*arguments, "--json")
        assert ran.code == 0, ran
        return ran.document

    def control(self, max_age_s: int) -> str:
        """Make a key for the control file and configure its table, as it is printed.

        Returns:
            What `rewrap control-key` printed.
        """
        made = self.rewrap("control-key", "--out", str(self.directory / "control.key"))
        assert made.code == 0, made
        table = f"{made.out}\nmax_age_s = {max_age_s}\n"
        self.config.write_text(f"{self.config.read_text()}\n{table}")
        return made.out

    def campaign(self, *arguments: str) -> int:
        """Open a campaign; return its id."""
        ran = self.rewrap("start", *arguments, "--yes")
        assert ran.code == 0, ran
        return campaign_in(ran.out)


class Site(Premises):
    """Where a test's blobs lie, and what an operator there would type.

    Args:
        directory: everything of the site lies below it.
        bao: the server that has its KEK.
        kek: the name of a derived Transit key.
        address: how the service reaches the server; the reader goes there directly.
        batch: blobs that a worker takes through the steps at once.
        token: the line of the configuration that says where the token is.
        legacy_default: the line that says which key wraps blobs that name none.
        has_flower: whether its node has Flower.
    """

    def __init__(
        self,
        directory: Path,
        bao: OpenBao,
        kek: str,
        *,
        address: str = "",
        batch: int = 100,
        token: str = 'token_env = "BAO_TOKEN"',
        legacy_default: str = 'legacy_default = "env:BLOB_KEY"\n',
        has_flower: bool = False,
    ) -> None:
        self.store = directory / "blobs"
        self.store.mkdir(parents=True)
        self.bao = bao
        self.kek = kek
        self.flower_port = free_port() if has_flower else 0
        config = CONFIG.format(
            store=self.store.as_uri(),
            kek=kek,
            address=address or bao.address,
            token=token,
            legacy_default=legacy_default,
            batch=batch,
            port=self.flower_port,
            metrics_port=free_port(),
        )
        self.secrets = {
            "BLOB_KEY": secrets.token_hex(32),
            "BLOB_WRAP_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
            "BAO_TOKEN": bao.token,
        }
        super().__init__(directory, config, self.secrets)
        self._legacy = self._maker()

    def _maker(self) -> LegacyBlobs:
        files: Any = PlainFiles(self.store)
        layout = Layout(".blob", ".blob.meta")
        return LegacyBlobs(
            SidecarReader(files, layout, KeyVersion("env:BLOB_KEY")),
            EnvKeyProvider.from_text(
                "BLOB_KEY", self.secrets["BLOB_KEY"].encode(), "hex", "direct"
            ),
            EnvKeyProvider.from_text(
                "BLOB_WRAP_KEY", self.secrets["BLOB_WRAP_KEY"].encode(), "base64", "aes-gcm"
            ),
            seed=self.kek,
        )

    def make(self, count: int, folder: str = "") -> list[str]:
        """Make legacy blobs of all kinds in turn; return their ids."""
        return self.make_named(self._legacy.ids(count, folder))

    def make_named(self, blob_ids: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(2) as pool:
            return list(self._legacy.make(blob_ids, pool))

    def remove(self, folder: str) -> None:
        """Delete a folder of blobs, so that campaigns over the whole store do not meet it."""
        shutil.rmtree(self.store / folder)

    def original(self, blob_id: str) -> bytes:
        return self._legacy.original(blob_id)

    def reader(self) -> PlainReader:
        return PlainReader(self.store, self.environment, self.bao.address, self.bao.token)

    def watch(self, blob_ids: Sequence[str], reader: OldApplication | None = None) -> Watch:
        """Make an independent reader of blobs that nobody writes; or let an application read."""
        return Watch(
            reader or self.reader(),
            blob_ids,
            lambda blob_id, plain, _: plain == self.original(blob_id),
        )

    def old_application(self) -> OldApplication:
        return OldApplication(self.store, self.environment)

    def wrong(self, blob_ids: Sequence[str]) -> list[str]:
        """Return the ids of the blobs that do not open to their originals."""
        reader = self.reader()
        try:
            return reader.wrong(blob_ids, self.original)
        finally:
            reader.close()

    def key_ids(self, blob_ids: Sequence[str]) -> set[str]:
        """Return the keys that wrap these blobs."""
        reader = self.reader()
        try:
            return {reader.sidecar(blob_id).get("key_id", "") for blob_id in blob_ids}
        finally:
            reader.close()

    def version(self, number: int) -> str:
        return f"hcvault://transit/{self.kek}?version={number}"

    @property
    def latest_version(self) -> int:
        """The KEK's latest version, as OpenBao itself has it."""
        client = hvac.Client(url=self.bao.address, token=self.bao.token, timeout=5)
        try:
            answer = client.secrets.transit.read_key(self.kek)
        finally:
            client.adapter.close()
        return int(answer["data"]["latest_version"])

    def fingerprint(self, folder: str = "") -> dict[str, tuple[int, int, str]]:
        """Return inode, modification time and digest of every file of the store's folder."""
        found = {}
        for path in sorted((self.store / folder).rglob("*")):
            if path.is_file() and not path.is_symlink() and ".rewrap" not in path.parts:
                status = path.stat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = (status.st_ino, status.st_mtime_ns, digest)
        return found


@functools.cache
def terminal() -> Terminal:
    """Return the terminal of this test run."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    opened = Terminal(environment)
    atexit.register(opened.close)
    return opened


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "scheduler", *arguments]


def campaign_in(out: str) -> int:
    """Read the id that a starting command prints."""
    line = next(line for line in out.splitlines() if line.startswith("campaign "))
    return int(line.split()[1])


def run(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, timeout_s: float = 90
) -> Ran:
    """Type a command, without a terminal, and wait for its end."""
    return Ran(*terminal().run(arguments, environment, cwd, timeout_s))
