"""What `make dist` makes: the library's wheel and sdist, and the service's bill of materials."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from keywrap import __version__

ROOT = Path(__file__).resolve().parents[2]
DATED = {"PATH": os.defpath, "SOURCE_DATE_EPOCH": "1700000000"}
SERVICE = ("celery", "sqlalchemy", "redis", "psycopg", "click", "scheduler", "ledger")

USE = """\
import importlib.util, pathlib, sys
from keywrap.datakey import DataKey
from keywrap.providers.local import LocalKeyProvider, create_key_file

for name in sys.argv[2:]:
    assert importlib.util.find_spec(name) is None, name
file = pathlib.Path(sys.argv[1])
create_key_file(file, "blobs")
kek = LocalKeyProvider("blobs", file)
data_key, context = DataKey.generate(), {"blob_id": "invoice-7"}
wrapped = kek.wrap(data_key, context)
assert kek.unwrap(wrapped, context) == data_key
print(wrapped.key_version)
"""

TYPED = """\
from pathlib import Path
from keywrap.providers.local import LocalKeyProvider

reveal_type(LocalKeyProvider("blobs", Path("f")).requests)
LocalKeyProvider(7, Path("f"))
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make dist`, with the virtual environment of these tests."""
    directory = tmp_path_factory.mktemp("dist")
    words = ["make", "-C", str(ROOT), "dist", "-o", "venv", f"DIST={directory}"]
    given = [f"VENV={sys.prefix}"]
    subprocess.run([*words, *given], check=True, capture_output=True, env=os.environ | DATED)
    return directory


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return dist / f"keywrap-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    return dist / f"keywrap-{__version__}.tar.gz"


def _needed(requirements: list[str]) -> Iterator[Path]:
    """Find what these requirements are installed as here, with all that they need themselves."""
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = distribution(requirement.name)
        assert found.version in requirement.specifier
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        yield from (Path(str(found.locate_file(top))) for top in tops)
        yield from _needed(found.requires or [])


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of a new environment with the wheel and what its metadata asks for, no more."""
    place = tmp_path_factory.mktemp("clean")
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)  # noqa: S202 - the wheel that was just built
        metadata = archive.read(f"keywrap-{__version__}.dist-info/METADATA")
    requirements = message_from_bytes(metadata).get_all("Requires-Dist") or []
    for path in set(_needed(requirements)):
        (packages / path.name).symlink_to(path)
    yield place / "bin" / "python"
    shutil.rmtree(place)


def test_it_wraps_and_opens_in_an_environment_that_has_nothing_of_the_service(
    clean: Path, tmp_path: Path
) -> None:
    words = [clean, "-I", "-W", "error", "-c", USE, tmp_path / "blobs.key.json", *SERVICE]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("local:blobs")


def test_its_types_are_seen_by_whoever_uses_it(clean: Path, tmp_path: Path) -> None:
    use = tmp_path / "use.py"
    use.write_text(TYPED)
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    given = [f"--python-executable={clean}", f"--cache-dir={os.devnull}", use]
    environment = {"PATH": os.defpath}
    done = subprocess.run(
        [*words, *given], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert 'Revealed type is "int"' in done.stdout.replace("builtins.", "")
    assert 'Argument 1 to "LocalKeyProvider" has incompatible type "int"' in done.stdout
    assert "Found 1 error" in done.stdout


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    information = f"keywrap-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"keywrap", information}
    assert {"keywrap/py.typed", f"{information}/licenses/LICENSE"} <= set(names)
    assert not [name for name in names if name.endswith(".pyc")]
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "keywrap").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_built_again_from_the_sdist_alone_it_is_the_same_to_the_byte(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert {path.name for path in source.iterdir()} == {
        *("keywrap", "pyproject.toml", "PKG-INFO", ".gitignore"),
        *("README.md", "CHANGELOG.md", "LICENSE"),
    }
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", tmp_path],
        cwd=source,
        check=True,
        capture_output=True,
        env=DATED,
    )
    for built in (wheel, sdist):
        assert (tmp_path / built.name).read_bytes() == built.read_bytes()


def test_the_bill_of_materials_names_each_locked_package_and_comes_out_the_same(
    dist: Path, tmp_path: Path
) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", lock, re.MULTILINE))
    text = (dist / "rewrap.cdx.json").read_text()
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX"
    assert {(each["name"], each["version"]) for each in document["components"]} == locked
    assert all(each["externalReferences"][0]["hashes"] for each in document["components"])
    again = tmp_path / "again.json"
    tool = Path(sys.prefix) / "bin" / "cyclonedx-py"
    words = [tool, "requirements", "--output-reproducible", "--no-validate", "--output-file", again]
    subprocess.run(
        [*words, "requirements.lock"], cwd=ROOT, check=True, capture_output=True, env=DATED
    )
    assert again.read_text() == text


def test_one_version_stands_in_one_place_and_all_else_agrees() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert f"image: rewrap:{__version__}\n" in (ROOT / "docker-compose.yml").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == __version__
