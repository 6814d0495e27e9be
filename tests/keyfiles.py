"""Looking into key files, and changing them, as tests of local keys do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keywrap.keyfile import KeyFile
from keywrap.keys import KeyVersion
from keywrap.kms import DeniedError


def document(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_bytes())
    return read


def named(path: Path, number: int) -> KeyVersion:
    """Return a version as wraps name it."""
    file = KeyFile.parse(path.read_bytes())
    return file.name_of(file.versions[number - 1])


def edit(path: Path, number: int, **fields: object) -> None:
    """Change a version as an operator with an editor would."""
    record = document(path)
    record["versions"][number - 1] |= fields
    path.write_text(json.dumps(record))


def denied(act: Callable[[], object], reason_code: str) -> DeniedError:
    with pytest.raises(DeniedError) as refused:
        act()
    assert refused.value.reason_code == reason_code
    assert refused.value.key == "local:blobs"
    return refused.value
