"""A real Flower on a real ledger and broker, and someone who has signed in to it."""

import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from embedded.launching import end_with_parent
from embedded.places import free_port
from tests.nodes import until
from tests.sites import ROOT, command

CONFIG = """\
[store]
url = "{store}"

[keys]
primary = "local:blob-kek"

[keys.local.blob-kek]
file = "{folder}/kek.json"

[backup]
required = false

[flower]
port = {port}
{more}
"""

CANARY = f"canary-{secrets.token_hex(16)}"
"""A secret in the environment that nothing may show."""


class Flower:
    """`rewrap flower` as a process, and a person who has signed in.

    Args:
        folder: where its configuration and log lie.
        ledger_url: the ledger.
        broker_url: the broker.
        more: more lines of its table `[flower]`, and tables after it.
        environment: more variables.
    """

    def __init__(
        self,
        folder: Path,
        ledger_url: str,
        broker_url: str,
        more: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.user, self.password = "ann", secrets.token_urlsafe(12)
        self.prefix = ""
        (folder / "blobs").mkdir(exist_ok=True)
        self.config = folder / "rewrap.toml"
        store = (folder / "blobs").as_uri()
        self.config.write_text(CONFIG.format(store=store, folder=folder, port=self.port, more=more))
        self.log = folder / "flower.log"
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "REWRAP_CONFIG": str(self.config),
            "REWRAP_LEDGER_URL": ledger_url,
            "REWRAP_BROKER_URL": broker_url,
            "REWRAP_FLOWER_BASIC_AUTH": f"{self.user}:{self.password}",
            "BLOB_KEY": CANARY,
            **(environment or {}),
        }
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = (self.user, self.password)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["Flower"]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command("flower"),
                env=self.environment,
                cwd=self.config.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls only
            )
        try:
            until(lambda: self._answers(process), "Flower answers", 60)
            yield self
        finally:
            self.session.close()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, self.log.read_text()
        try:
            return self.get("/healthcheck").ok
        except requests.ConnectionError:
            return False

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(f"{self.origin}{self.prefix}{path}", timeout=20, **options)

    def document(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.ok, answer.text
        return answer.json()


def until_document(flower: Flower, path: str, is_so: Any, timeout_s: float = 15) -> Any:
    """Wait until a document of JSON is as it should be; return it."""

    def look() -> Any:
        document = flower.get(path).json()
        return document if is_so(document) else None

    return until(look, path, timeout_s)
