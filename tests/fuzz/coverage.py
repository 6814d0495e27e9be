"""The same targets under `atheris` (libFuzzer), which goes by what code an input reaches.

`pip install atheris` first: it is not in the locks, since it has wheels for few Pythons only.
"""

import sys
from pathlib import Path

import atheris
import click

with atheris.instrument_imports(include=["keywrap", "json"]):
    from tests.fuzz.targets import targets


@click.command(help=__doc__)
@click.option("--runs", default=1_000_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--target", "name", default="sidecar", type=click.Choice(list(targets())))
@click.argument("corpus", type=click.Path(path_type=Path, file_okay=False))
def main(*, runs: int, seed: int, name: str, corpus: Path) -> None:
    """Fuzz one target; what reaches new code is kept in CORPUS."""
    target = targets()[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(data)

    def judge(data: bytes) -> None:
        target.check(data)

    options = [f"-runs={runs}", f"-seed={seed}", "-max_len=4096", str(corpus)]
    atheris.Setup([sys.argv[0], *options], judge)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
