"""What each call of ours needs to be allowed, by key service: the tables of `rewrap policy`.

A call that is in no table fails a test (tests/unit/test_permissions.py).
"""

from keywrap.permissions.roles import (
    ON_EVERY_KEY,
    ON_TARGETS,
    STORE_POWERS,
    Permission,
    Power,
    Role,
    StorePower,
    powers_of,
)

__all__ = [
    "ON_EVERY_KEY",
    "ON_TARGETS",
    "STORE_POWERS",
    "Permission",
    "Power",
    "Role",
    "StorePower",
    "powers_of",
]
