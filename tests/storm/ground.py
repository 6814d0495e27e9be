"""Where a storm rages: a folder of legacy blobs, a key file, and what everybody must find there."""

import ctypes
import json
import random
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Self

from keywrap.blobs import EncryptedBlobs
from keywrap.config import KeywrapConfig, open_keys, open_reader
from keywrap.keyring import KeyRing
from keywrap.providers.env import EnvKeyProvider
from keywrap.providers.local import create_key_file
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from tests.storm.plainreader import PlainFiles

Board = ctypes.Array[ctypes.c_int64]
"""Numbers that processes share. Each is stored at once: whoever reads sees no half of it, and a
SIGKILL leaves none, as it may with what `struct` packs into a `mmap`."""


def board(count: int) -> Board:
    """Make a board of so many numbers, all 0."""
    return RawArray(ctypes.c_int64, count)


def config_of(folder: Path) -> KeywrapConfig:
    """Return what an installation in a storm's folder lists."""
    return KeywrapConfig.from_table(
        {
            "store": {
                "url": f"file://{folder / 'blobs'}",
                "legacy_default": "env:BLOB_KEY",
                "legacy_content": "records-v1",
            },
            "keys": {
                "primary": "local:kek",
                "local": {"kek": {"file": str(folder / "kek.json")}},
                "env": {
                    "BLOB_KEY": {"encoding": "hex", "scheme": "direct"},
                    "OLD_KEK": {"encoding": "hex", "scheme": "aes-gcm"},
                },
            },
        }
    )


@dataclass(frozen=True)
class Ground:
    """The storm's place.

    Attributes:
        folder: holds everything.
        config: what the installation lists.
        environment: the legacy keys, made at run time.
        blob_ids: all blobs.
        begun: by the place of a blob, the newest edition that an application began to write.
        done: likewise, the newest that it was told is written.
    """

    folder: Path
    config: KeywrapConfig
    environment: Mapping[str, str] = field(repr=False)
    blob_ids: tuple[str, ...]
    begun: Board
    done: Board

    @classmethod
    def make(cls, folder: Path, blobs: int) -> Self:
        """Make it, with every blob in its legacy state."""
        (folder / "blobs").mkdir()
        create_key_file(folder / "kek.json", "kek")
        environment = {name: secrets.token_hex(32) for name in ("BLOB_KEY", "OLD_KEK")}
        config = config_of(folder)
        reader, keys = open_reader(config), open_keys(config, environment)
        direct, wrapping = (keys.provider(f"env:{name}") for name in ("BLOB_KEY", "OLD_KEK"))
        assert isinstance(direct, EnvKeyProvider)
        assert isinstance(wrapping, EnvKeyProvider)
        legacy = LegacyBlobs(reader, direct, wrapping)
        ids = tuple(legacy.ids(blobs))
        with ThreadPoolExecutor(1) as pool:
            list(legacy.make(ids, pool))
        # What each was is kept beside them: the storm's own readers ask nobody.
        originals = {blob_id: legacy.original(blob_id).hex() for blob_id in ids}
        (folder / "originals.json").write_text(json.dumps(originals))
        return cls(folder, config, environment, ids, board(blobs), board(blobs))

    def open(self) -> tuple[SidecarReader, KeyRing, EncryptedBlobs]:
        """Open store and keys anew, as a process does after its fork."""
        reader, keys = open_reader(self.config), open_keys(self.config, self.environment)
        return reader, keys, EncryptedBlobs(reader, keys, self.config.store.legacy_content)

    def edition(self, place: int, number: int) -> bytes:
        """Return the plaintext of a blob's n-th edition."""
        return f"edition {number} of {self.blob_ids[place]} ".encode() * 30

    def reader(self) -> "Checker":
        """Return the storm's independent reader."""
        plain = PlainFiles(self.folder / "blobs", self.folder / "kek.json", self.environment)
        originals = json.loads((self.folder / "originals.json").read_text())
        return Checker(self, plain, {name: bytes.fromhex(text) for name, text in originals.items()})


@dataclass(frozen=True)
class Checker:
    """Sees that a blob opens, and that no edition that was written is lost."""

    ground: Ground
    plain: PlainFiles
    originals: Mapping[str, bytes]

    def fault(self, place: int) -> str | None:
        """Open a blob; return what is wrong with it, or None."""
        ground, blob_id = self.ground, self.ground.blob_ids[place]
        floor = ground.done[place]
        try:
            got = self.plain.open(blob_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the blob did not open
            return f"{blob_id}: {error!r}"
        if got == self.originals[blob_id]:
            number = 0
        else:
            number = int(got.split()[1]) if got.startswith(b"edition ") else -1
            if number < 0 or got != ground.edition(place, number):
                return f"{blob_id}: another content"
        if not floor <= number <= ground.begun[place]:
            return f"{blob_id}: edition {number}, where {floor} was written already"
        return None

    def faults(self) -> list[str]:
        """Open every blob; return what is wrong."""
        places = list(range(len(self.ground.blob_ids)))
        random.shuffle(places)
        return [fault for place in places if (fault := self.fault(place)) is not None]
