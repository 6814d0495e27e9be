"""Tables of their own for what one campaign or list holds, so that it is dropped in no time."""

from uuid import UUID

from sqlalchemy import Connection, text


def create(connection: Connection, table: str, value: int | UUID) -> None:
    """Create a partition that is not part of its table yet.

    Args:
        connection: the transaction.
        table: the partitioned table.
        value: the campaign or list that its rows are of.
    """
    connection.execute(
        text(
            f"CREATE TABLE {_name(table, value)} (LIKE {table} INCLUDING CONSTRAINTS"
            " INCLUDING INDEXES)"
        )
    )


def attach(connection: Connection, table: str, value: int | UUID) -> None:
    """Make a partition part of its table."""
    # Creating it in place would lock out everybody else.
    connection.execute(
        text(
            f"ALTER TABLE {table} ATTACH PARTITION {_name(table, value)} FOR VALUES IN ('{value}')"
        )
    )


def add(connection: Connection, table: str, value: int | UUID) -> None:
    """Create a partition, and make it part of its table."""
    create(connection, table, value)
    attach(connection, table, value)


def drop(connection: Connection, table: str, value: int | UUID) -> None:
    """Drop a partition with all its rows; nothing happens where there is none."""
    connection.execute(text(f"DROP TABLE IF EXISTS {_name(table, value)}"))


def _name(table: str, value: int | UUID) -> str:
    return f"{table}_{value.hex if isinstance(value, UUID) else format(value, 'd')}"
