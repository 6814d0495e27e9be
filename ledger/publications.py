"""What was published in the control files of stores: when, by whom, and from when all obey it.

The control file itself says what counts. This is the record of who changed it, and what a file that
was lost or put back is mended from.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from keywrap.controlfile import Control, Cutover
from keywrap.keys import KeyVersion


@dataclass(frozen=True, slots=True)
class Publication:
    """A control file that was published.

    Attributes:
        control: what it says.
        obeyed_in_s: seconds, by the database's clock, until nobody obeys an older one any more;
            0 where that is so already.
    """

    control: Control
    obeyed_in_s: float


def note(connection: Connection, store_id: str, control: Control) -> None:
    """Note a publication, after it was made or found; one that is known already stays as it is.

    Until everybody obeys it, as long passes as the file before it may be obeyed, counted from now:
    whoever read that one read it before now.
    """
    connection.execute(
        text(
            "INSERT INTO publication (store_id, serial, primary_key, cutover, max_age_s, issued_by,"
            " issued_at, obeyed_at)"
            " SELECT :store, :serial, :primary, :cutover, :age, :by, :at, greatest("
            "   clock_timestamp() + make_interval(secs => greatest(:age, before.max_age_s)),"
            "   before.obeyed_at)"
            " FROM (SELECT) one LEFT JOIN LATERAL ("
            "   SELECT max_age_s, obeyed_at FROM publication"
            "   WHERE store_id = :store AND serial < :serial ORDER BY serial DESC LIMIT 1"
            " ) before ON true"
            " ON CONFLICT DO NOTHING"
        ),
        {
            "store": store_id,
            "serial": control.serial,
            "primary": str(control.primary) if control.primary else None,
            "cutover": control.cutover,
            "age": control.max_age_s,
            "by": control.issued_by,
            "at": control.issued_at,
        },
    )


def recent(connection: Connection, store_id: str, limit: int = 10) -> list[Publication]:
    """Return what was published last for a store, the newest first."""
    rows = connection.execute(
        text(
            "SELECT serial, primary_key, cutover, max_age_s, issued_by, issued_at,"
            " greatest(extract(epoch FROM obeyed_at - clock_timestamp()), 0)::float AS left_s"
            " FROM publication WHERE store_id = :store ORDER BY serial DESC LIMIT :limit"
        ),
        {"store": store_id, "limit": limit},
    )
    return [Publication(_control(row), row.left_s) for row in rows]


def newest(connection: Connection, store_id: str) -> Publication | None:
    """Return what was published last for a store, or None where nothing was."""
    found = recent(connection, store_id, limit=1)
    return found[0] if found else None


def _control(row: Row[Any]) -> Control:
    return Control(
        serial=row.serial,
        primary=KeyVersion.parse(row.primary_key) if row.primary_key else None,
        cutover=Cutover(row.cutover),
        max_age_s=row.max_age_s,
        issued_at=row.issued_at,
        issued_by=row.issued_by,
    )
