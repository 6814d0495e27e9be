"""Searching for secrets where none may be: in files, and in the memory of processes."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_PIECE = 1 << 26
_LONGEST = 200
_STABLE = 4
"""Characters at the ends of a text in base64 that depend on what stands beside it, at most."""


def forms(secret: bytes) -> set[bytes]:
    """Return how a secret may stand somewhere: raw, base64, hex, each whole and in halves."""
    half = len(secret) // 2
    found = set()
    for part in (secret, secret[:half], secret[half:]):
        found |= {part, part.hex().encode(), part.hex().upper().encode()}
        for shift in range(3):
            text = base64.b64encode(bytes(shift) + part).rstrip(b"=")
            stable = text[_STABLE:-_STABLE]
            found |= {stable, stable.replace(b"+", b"-").replace(b"/", b"_")}
    return found


class Canaries:
    """Secrets to search for.

    Args:
        secrets: by a name that may be shown.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._forms = {form: name for name, secret in secrets.items() for form in forms(secret)}
        assert all(len(form) >= 8 for form in self._forms)

    def __len__(self) -> int:
        return len(set(self._forms.values()))

    def in_bytes(self, data: bytes) -> set[str]:
        """Return the names of the secrets that stand in some bytes."""
        return {name for form, name in self._forms.items() if form in data}

    def in_files(self, files: Iterable[Path]) -> dict[str, set[str]]:
        """Return the names of the secrets that stand in files, by the file's name."""
        found = {}
        for file in files:
            names = set[str]()
            with suppress(FileNotFoundError):  # PostgreSQL removes files while it runs
                for piece in _pieces(file):
                    names |= self.in_bytes(piece)
            if names:
                found[file.name] = names
        return found

    def in_memory(self, pid: int) -> set[str]:
        """Return the names of the secrets that stand in a process's memory (Linux, same user)."""
        found = set[str]()
        with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
            for start, end in _writable(pid):
                memory.seek(start)
                try:
                    found |= self.in_bytes(memory.read(end - start))
                except OSError:  # what the kernel keeps for itself
                    continue
        return found


def _pieces(file: Path) -> Iterator[bytes]:
    """Yield a file piece by piece, each with the end of the one before it."""
    end = b""
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            yield end + piece
            end = piece[-_LONGEST:]


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    for line in (
        Path(f"/proc/{pid}/maps").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        place, rights, *_ = line.split()
        if "w" in rights and "r" in rights:
            start, _, end = place.partition("-")
            yield int(start, 16), int(end, 16)
