"""Making the tables of a catalog, or bringing them to the current schema."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from deltavc.catalog import files, migrations
from deltavc.catalog.engine import make_engine
from deltavc.catalog.models import Meta

__all__ = ["migrate"]


def migrate(path: Path, busy_seconds: float) -> None:
    """Brings the tables of a catalog to the current schema, and marks the file.

    Args:
        path: The database's file; made where it is missing.
        busy_seconds: How long to wait for other writers.

    Raises:
        CatalogUnusable: Damaged, locked or unwritable.
    """
    engine = make_engine(path, "rwc", busy_seconds)
    try:
        with engine.begin() as connection:
            migrations.upgrade(connection)
            connection.execute(update(Meta).values(schema=files.SCHEMA))
            connection.exec_driver_sql(f"PRAGMA application_id = {files.APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {files.SCHEMA}")
        files.sync_path(path.parent)
    except (DBAPIError, *files.FAILURES) as error:
        raise files.unusable(_cause(error), path) from error
    finally:
        engine.dispose()


def _cause(error: BaseException) -> BaseException:
    """Returns SQLite's own error, which knows its name, from SQLAlchemy's."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
