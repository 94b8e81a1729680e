"""The tables: made by migrations, as the models say, as they were when released."""

import re
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from deltavc.catalog import files, migrations, models, tables
from deltavc.catalog.engine import make_engine
from deltavc.catalog.writer import Catalog

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reference" / "sql-views.md"
VIEWS = (
    "v_commits",
    "v_lineage",
    "v_measurements",
    "v_events",
    "v_refs",
    "v_labels",
    "v_data",
    "v_environments",
    "v_deployments",
    "v_verdicts",
    "v_approvals",
    "v_signatures",
)


ORDER = ("events", "ref_changes", "refs", "commits", "latest_measurements")
SCHEMA_1_COLUMNS = (
    "key, id, commit_key, kpi, value, is_nan, samples, dataset, source, actor, time, event_number"
)


def make(path, schema):
    """Makes a catalog as an earlier deltavc made it."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    engine = make_engine(path, "rwc", 5)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{schema:04}")
        connection.exec_driver_sql(f"UPDATE meta SET schema = {schema}")
    engine.dispose()


@pytest.fixture
def path(tmp_path):
    Catalog.open_or_create(tmp_path / "catalog.db").close()
    return tmp_path / "catalog.db"


@pytest.fixture
def db(path):
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def statements(connection):
    """What made the tables, indexes and views, without differences in white space."""
    return sorted(
        re.sub(r"\s+", " ", sql).strip()
        for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    )


def test_migrations_make_the_tables_of_the_models(db):
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        models.Record.metadata.create_all(connection)
        made = statements(connection.connection.dbapi_connection)
    engine.dispose()
    migrated = [
        s for s in statements(db) if not s.startswith(("CREATE VIEW", "CREATE TABLE alembic"))
    ]
    assert migrated == made


def test_alembic_sees_no_difference_either(path):
    engine = make_engine(path, "rw", 5)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, models.Record.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("schema", range(1, files.SCHEMA + 1))
def test_a_schema_is_what_it_was_when_it_was_released(tmp_path, schema):
    """A released schema never changes: add a migration, and a file beside these."""
    make(tmp_path / "old.db", schema)
    db = sqlite3.connect(tmp_path / "old.db")
    assert "\n".join(statements(db)) + "\n" == (HERE / f"schema_{schema}.sql").read_text()
    db.close()


def test_a_catalog_of_schema_1_becomes_what_a_new_one_is(tmp_path, history):
    """What it had is read again from the files, since rows say more now than they did."""
    first = history.commit(kpis={"acc": 0.5, "loss": None})
    history.event(measurements=[history.make_measurement(first, "acc", 0.75, samples=10)])
    old, new = tmp_path / "old" / "catalog.db", tmp_path / "new" / "catalog.db"
    for path in (old, new):
        path.parent.mkdir()
        with Catalog.open_or_create(path) as catalog:
            catalog.catch_up(history, history.load)
    db = sqlite3.connect(old)
    kept = db.execute(f"SELECT {SCHEMA_1_COLUMNS} FROM measurements").fetchall()
    rest = {t: db.execute(f"SELECT * FROM {t}").fetchall() for t in ORDER}
    db.close()
    old.unlink()
    make(old, 1)
    db = sqlite3.connect(old)
    for table, rows in rest.items():
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        for row in rows:
            marks = ",".join("?" * len(columns))
            db.execute(f"INSERT INTO {table} VALUES ({marks})", row[: len(columns)])
        if table == "commits":
            marks = ",".join("?" * len(kept[0]))
            db.executemany(f"INSERT INTO measurements ({SCHEMA_1_COLUMNS}) VALUES ({marks})", kept)
    db.execute("UPDATE meta SET applied_number = 2, applied_hash = ?", (history.entries[-1][1],))
    db.execute(f"PRAGMA application_id = {files.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with Catalog.open_or_create(old) as catalog:
        catalog.catch_up(history, history.load)
    for query in (
        "SELECT * FROM measurements",
        "SELECT * FROM v_measurements",
        "SELECT * FROM meta",
    ):
        answers = []
        for path in (old, new):
            db = sqlite3.connect(path)
            answers.append(db.execute(query).fetchall())
            db.close()
        assert answers[0] == answers[1]
        assert answers[0]


def test_every_table_is_strict(db):
    strict = dict(db.execute("SELECT name, strict FROM pragma_table_list WHERE type = 'table'"))
    ours = set(models.Record.metadata.tables)
    assert {name for name in ours if strict[name]} == ours


def test_the_file_is_marked(db):
    assert db.execute("PRAGMA user_version").fetchone() == (files.SCHEMA,)
    assert db.execute("PRAGMA application_id").fetchone() == (files.APPLICATION_ID,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("SELECT schema FROM meta").fetchone() == (files.SCHEMA,)


def test_writers_have_the_settings_that_make_writes_safe(path):
    engine = make_engine(path, "rw", 30)
    with engine.connect() as connection:

        def setting(name):
            return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

        assert setting("foreign_keys") == 1
        assert setting("synchronous") == 2
        assert setting("trusted_schema") == 0
        assert setting("busy_timeout") == 30_000
        assert setting("journal_mode") == "wal"
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")  # reading alone already holds the write lock
        other.close()
    engine.dispose()


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_names_the_columns_of_each_view(db, view):
    text = PAGE.read_text(encoding="utf-8")
    section = re.search(rf"^## `{view}`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{PAGE.name} has no section on {view}"
    documented = re.findall(r"^\| `(\w+)` \|", section.group(1), re.MULTILINE)
    assert documented == [row[1] for row in db.execute(f"PRAGMA table_info({view})")]


def test_the_page_names_no_other_view(db):
    views = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    assert views == set(VIEWS)
    documented = re.findall(r"^## `(v_\w+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(documented) == views


def test_examples_of_the_page_run(db):
    examples = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 3
    for query in examples:
        db.execute(query).fetchall()


@pytest.mark.parametrize(
    ("millis", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_000_000_007, "2026-11-18T11:06:40.007Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (-1000, "1969-12-31T23:59:59.000Z"),
    ],
)
def test_times_are_iso_8601_in_the_views(path, history, millis, text):
    history.commit(time=millis, kpis={"accuracy": 0.5})
    history.event(time=millis)
    with Catalog(path) as catalog:
        catalog.catch_up(history, history.load)
    db = sqlite3.connect(path)
    assert db.execute("SELECT time FROM v_commits").fetchone() == (text,)
    assert db.execute("SELECT time FROM v_events WHERE number = 2").fetchone() == (text,)
    db.close()


def test_the_views_say_what_the_records_say(path, history):
    first = history.commit(message="first\n\nbody", kpis={"acc": 0.5})
    second = history.commit(
        [first], message="second", kpis={"acc": None}, stats={"params": 3, "stored": 99}
    )
    later = history.make_measurement(first, "acc", 0.75, samples=10)
    history.event(measurements=[later])
    with Catalog(path) as catalog:
        catalog.catch_up(history, history.load)
    db = sqlite3.connect(path)
    assert db.execute("SELECT * FROM v_lineage").fetchall() == [(second, 0, first)]
    assert db.execute(
        "SELECT id, branch, params, stored_bytes, exact, event FROM v_commits ORDER BY event"
    ).fetchall() == [(first, "main", None, None, 1, 1), (second, "main", 3, 99, 1, 2)]
    assert db.execute(
        "SELECT revision, value, is_nan, samples, is_latest FROM v_measurements ORDER BY event, id"
    ).fetchall() == [
        (first, 0.5, 0, None, 0),
        (second, None, 1, None, 1),
        (first, 0.75, 0, 10, 1),
    ]
    assert db.execute(
        "SELECT json_extract(refs, '$[0].name'), json_extract(refs, '$[0].before')"
        " FROM v_events WHERE number = 2"
    ).fetchone() == ("branch:main", first)
    db.close()


def test_the_statements_that_add_rows_name_the_columns_of_the_tables(db):
    for table, columns in tables.COLUMNS.items():
        found = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        assert len(set(columns)) == len(columns)
        assert found - set(columns) == ({"superseded_by"} if table == "measurements" else set())
        assert set(columns) <= found
    ours = {t.name for t in models.Record.metadata.tables.values()} - {"meta"}
    assert set(tables.COLUMNS) == ours


def test_tables_are_filled_in_an_order_in_which_no_row_refers_to_a_later_one(db):
    order = list(tables.COLUMNS)
    for table in order:
        for row in db.execute(f"PRAGMA foreign_key_list({table})"):
            assert order.index(row[2]) < order.index(table)
