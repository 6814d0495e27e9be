"""The marks of stores, so that an empty mount point is not taken for one."""

from sqlalchemy import Connection, text


def known(connection: Connection, store: str) -> str | None:
    """Return the mark that a store bears, or None where none is known yet."""
    mark: str | None = connection.scalar(
        text("SELECT mark FROM store_mark WHERE store = :store"), {"store": store}
    )
    return mark


def learn(connection: Connection, store: str, mark: str) -> str:
    """Note the mark of a store, and return the one that counts: the first that was noted."""
    connection.execute(
        text("INSERT INTO store_mark (store, mark) VALUES (:store, :mark) ON CONFLICT DO NOTHING"),
        {"store": store, "mark": mark},
    )
    return known(connection, store) or mark
