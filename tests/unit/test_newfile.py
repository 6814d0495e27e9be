import os
import stat
from pathlib import Path

import pytest

from keywrap import newfile
from scheduler.__main__ import main


def test_a_file_is_there_whole_with_its_mode_and_its_folder_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), real(fd)))
    file = tmp_path / "a.key"
    newfile.create(file, b"all of it", 0o600)
    assert file.read_bytes() == b"all of it"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert synced == [file.stat().st_ino, tmp_path.stat().st_ino]


def test_what_has_that_name_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    file.write_bytes(b"the only copy")
    with pytest.raises(FileExistsError):
        newfile.create(file, b"another")
    assert file.read_bytes() == b"the only copy"


def test_no_half_of_a_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        newfile.create(tmp_path / "a.key", b"all of it")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("--config", "{}/no/rewrap.toml", "init"), 3, "file_not_writable"),
        (("backup-key", "--out", "{}/no/backup.key"), 2, "backup_key_not_made"),
    ],
)
def test_a_folder_that_is_not_there_is_told_in_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    reason: str,
) -> None:
    assert main([word.format(tmp_path) for word in words]) == code
    assert f"[{reason}]" in capsys.readouterr().err
