"""`python -m tests.storm.once FOLDER BLOB…`: migrates blobs of a storm's folder, in one thread.

A process of its own, so that a tracer can let any of its calls of the system fail. Prints what
became of each blob as JSON; the legacy keys are in the environment.
"""

import json
import os
import sys
from pathlib import Path

from keywrap.config import open_keys, open_reader
from keywrap.moves import Goal, Prove, Selection
from keywrap.rewrapping import Rewrapper
from tests.storm.ground import config_of
from tests.worlds import InlineExecutor


def migrate(folder: Path, blob_ids: list[str]) -> dict[str, str]:
    """Migrate blobs; return the outcome of each that was decided."""
    config = config_of(folder)
    reader, keys = open_reader(config), open_keys(config, os.environ)
    assert keys.primary is not None
    goal = Goal(keys.primary.current_version(), Selection.LEGACY, Prove.ALL)
    rewrapper = Rewrapper(reader, keys, config.store.legacy_content, InlineExecutor())
    report = rewrapper.rewrap(blob_ids, goal)
    return {result.blob_id: str(result.outcome) for result in report.results}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(migrate(Path(sys.argv[1]), sys.argv[2:])))
