import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keywrap.filestore import FileStore
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.layout import Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from scheduler.story import Story
from tests.nodes import processes_of
from tests.sites import ROOT, run
from tests.worlds import spoilt


def test_the_demo_ends_well_and_leaves_nothing_behind(
    server_directory: Path, tmp_path: Path
) -> None:
    place = server_directory / "demo"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = run(["demo", "--blobs", "200", "--dir", str(place)], environment, tmp_path, 280)
    assert ran.code == 0, ran.out + ran.err
    assert "every blob decrypts to its original, and the counts balance" in ran.out
    assert ran.out.count("200 blobs, each is its original") == 3
    assert "no live wrap needs any key but hcvault://transit/blob-kek?version=2" in ran.out
    for phase in ("make", "migrate", "decrypt all", "rotate", "decrypt all again"):
        assert any(line.strip().startswith(phase) for line in ran.out.splitlines()), phase
    assert not processes_of(place)
    again = run(["demo", "--dir", str(place)], environment, tmp_path)
    assert (again.code, "not_empty" in again.err) == (4, True), again


@pytest.mark.parametrize("fault", ["damaged", "of another blob", "gone"])
def test_the_demo_does_not_end_well_where_one_blob_is_not_its_original(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    direct = EnvKeyProvider.from_text("K", secrets.token_hex(32).encode(), "hex", "direct")
    wrapping = EnvKeyProvider.from_text("W", secrets.token_hex(32).encode(), "hex", "aes-gcm")
    layout = Layout(".blob", ".blob.meta")
    reader = SidecarReader(FileStore(tmp_path), layout, KeyVersion("env:K"))
    legacy = LegacyBlobs(reader, direct, wrapping)
    ids = legacy.ids(20)
    with ThreadPoolExecutor(1) as pool:
        list(legacy.make(ids, pool))
    story = Story(tmp_path, {}, KeyRing([direct, wrapping]), legacy, ids)
    story.check("decrypt")
    assert story.summary() == 0
    content = tmp_path / f"{ids[2]}.blob"
    if fault == "damaged":
        content.write_bytes(spoilt(content.read_bytes()))
    elif fault == "gone":
        content.unlink()
    else:
        (tmp_path / f"{ids[0]}.blob").write_bytes((tmp_path / f"{ids[5]}.blob").read_bytes())
    story.check("decrypt again")
    assert story.summary() == 1
    assert "decrypt again: 1 blobs are not their originals" in capsys.readouterr().out
