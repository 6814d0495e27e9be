"""One key file and several processes: what only real ones show."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keywrap.datakey import DataKey
from keywrap.keyfile import KeyFile
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import DeniedError
from keywrap.providers.local import FIRST_BLOCK, LocalKeyProvider, create_key_file

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = {"blob_id": "a"}

WORKER = """
import random, sys
from pathlib import Path
from keywrap.datakey import DataKey
from keywrap.providers.local import LocalKeyProvider

path, seed, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dice = random.Random(seed)
provider = LocalKeyProvider("blobs", path)
print("ready", flush=True)
for _ in range(turns):
    if dice.random() < 0.2:
        provider.create_version()
    count = dice.randrange(1, 600)
    wraps = provider.wrap_many([(DataKey(bytes(32)), {"blob_id": "a"})] * count)
    numbers = {wrap.key_version.version for wrap in wraps}
    assert len(numbers) == 1
    print(numbers.pop(), count, wraps[-1].ciphertext.hex(), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "k.json", "blobs")
    return tmp_path / "k.json"


def worker(path: Path, seed: str, turns: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), seed, str(turns)],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )


def check(path: Path, said: str) -> dict[str, int]:
    """See that every wrap that was printed opens; return the number made under each version."""
    provider = LocalKeyProvider("blobs", path)
    made: dict[str, int] = {}
    for line in said.splitlines():
        if line != "ready" and line.count(" ") == 2 and len(line.split()[2]) == 120:
            version, count, text = line.split()
            made[version] = made.get(version, 0) + int(count)
            wrapped = WrappedKey(KeyVersion("local:blobs", version), bytes.fromhex(text))
            assert provider.unwrap(wrapped, CONTEXT) == DataKey(bytes(32))
    return made


def see_that_all_are_counted(path: Path, made: dict[str, int]) -> None:
    file = KeyFile.parse(path.read_bytes())
    for version in file.versions:
        assert version.wraps >= made.get(file.name_of(version).version, 0)


def test_processes_that_wrap_and_rotate_at_once_lose_no_version_and_no_count(path: Path) -> None:
    workers = [worker(path, str(seed), 40) for seed in range(4)]
    made: dict[str, int] = {}
    for each in workers:
        said, _ = each.communicate(timeout=60)
        assert each.returncode == 0
        for version, count in check(path, said).items():
            made[version] = made.get(version, 0) + count
    dice = [random.Random(str(seed)) for seed in range(4)]
    rotations = sum(_rotations(each, 40) for each in dice)
    assert len(KeyFile.parse(path.read_bytes()).versions) == 1 + rotations
    see_that_all_are_counted(path, made)


def _rotations(dice: random.Random, turns: int) -> int:
    count = 0
    for _ in range(turns):
        count += dice.random() < 0.2
        dice.randrange(1, 600)
    return count


def test_a_process_killed_anywhere_leaves_a_whole_file_and_wraps_that_open(path: Path) -> None:
    made: dict[str, int] = {}
    dice = random.Random("kills")
    for turn in range(25):
        before = len(KeyFile.parse(path.read_bytes()).versions)
        victim = worker(path, f"kill-{turn}", 1000)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0, 0.05))
        victim.send_signal(signal.SIGKILL)
        said, _ = victim.communicate(timeout=30)
        for version, count in check(path, said).items():
            made[version] = made.get(version, 0) + count
        see_that_all_are_counted(path, made)
        assert len(KeyFile.parse(path.read_bytes()).versions) >= before
    assert made, "no victim lived long enough to wrap"
    assert LocalKeyProvider("blobs", path).create_version()


def in_child(act: Callable[[], object], user: int | None = None) -> object:
    """Do something in a fork of this process, as another user where one is named."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if user is not None:
                os.setuid(user)
            answer = act()
        except BaseException as error:  # noqa: BLE001 - it is the answer
            answer = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    return answer


def test_a_forked_process_does_not_use_up_what_its_parent_reserved(path: Path) -> None:
    provider = LocalKeyProvider("blobs", path)

    def wrap(count: int) -> int:
        return len(provider.wrap_many([(DataKey(bytes(32)), CONTEXT)] * count))

    made = wrap(1)
    answer = in_child(lambda: wrap(FIRST_BLOCK - 1))
    assert answer == FIRST_BLOCK - 1
    made += FIRST_BLOCK - 1 + wrap(FIRST_BLOCK - 1)
    assert provider.wraps_reserved(provider.current_version()) >= made


def test_a_running_process_wraps_under_a_version_that_another_one_made(path: Path) -> None:
    provider = LocalKeyProvider("blobs", path)
    first = provider.wrap(DataKey(bytes(32)), CONTEXT).key_version
    other = worker(path, "7", 30)
    other.communicate(timeout=30)
    file = KeyFile.parse(path.read_bytes())
    newest = file.name_of(file.newest)
    assert newest != first
    assert provider.wrap(DataKey(bytes(32)), CONTEXT).key_version == newest


def test_where_the_file_cannot_be_written_wraps_open_and_new_ones_say_why(path: Path) -> None:
    wrapped = LocalKeyProvider("blobs", path).wrap(DataKey(bytes(32)), CONTEXT)
    user = None
    if os.geteuid() == 0:  # root writes anywhere
        user = 65534
        os.chown(path, user, -1)
        os.chown(path.parent, user, -1)
        (path.parent / f".{path.name}.lock").unlink()
        for folder in path.parents[1:-1]:
            folder.chmod(folder.stat().st_mode | 0o011)
    path.parent.chmod(0o500)

    def act() -> list[str]:
        provider = LocalKeyProvider("blobs", path)
        assert provider.unwrap(wrapped, CONTEXT) == DataKey(bytes(32))
        assert provider.current_version() == wrapped.key_version
        answers = []
        for deed in (lambda: provider.wrap(DataKey.generate(), CONTEXT), provider.create_version):
            with pytest.raises(DeniedError) as refused:
                deed()
            answers.append(refused.value.reason_code)
        assert "cannot be written" in str(refused.value)
        return answers

    try:
        assert in_child(act, user) == ["key_file_read_only"] * 2
    finally:
        path.parent.chmod(0o700)
