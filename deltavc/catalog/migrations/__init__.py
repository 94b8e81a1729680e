"""Migrations of the catalog's tables, forward only, run in code and within one transaction.

Each file in ``versions`` is one step and stays as it is once released. Alembic is
imported when this package is, so only when tables are absent or old.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

__all__ = ["upgrade"]


def upgrade(connection: Connection) -> None:
    """Brings the tables of a connection's database to the current schema.

    Args:
        connection: In a transaction, which the caller commits.
    """
    config = Config()
    # Alembic fills in %(…)s; a folder's name may hold a percent sign.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
