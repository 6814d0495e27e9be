"""Runs the migrations on the connection that `ledger.schema` hands over."""

import re

from alembic import context

from ledger import alert_tables, requests  # noqa: F401 - their tables belong to the schema
from ledger.tables import metadata

_PARTITION = re.compile(r"(inventory|outcome)_\d+|listed_[0-9a-f]{32}")


def _is_schema(_object, name, kind, _reflected, _compared):
    return not (kind == "table" and _PARTITION.fullmatch(name or ""))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_object=_is_schema,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
