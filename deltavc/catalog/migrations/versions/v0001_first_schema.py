"""The first schema: tables as an index over event log and objects, and the public views.

Revision: 0001
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
STRICT = {"sqlite_strict": True}
STRICT_WITHOUT_ROWID = {"sqlite_strict": True, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Makes tables, views and the row of ``meta``."""
    _events()
    _commits()
    _measurements()
    for view in VIEWS:
        op.execute(_with_iso(view))
    meta = sa.table("meta", *map(sa.column, ("id", "schema", "applied_number", "applied_hash")))
    op.execute(meta.insert().values(id=1, schema=1, applied_number=0, applied_hash="0" * 64))


def _events() -> None:
    """Events and what they say of refs."""
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("schema", sa.Integer(), nullable=False),
        sa.Column("applied_number", BIG, nullable=False),
        sa.Column("applied_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_meta")),
        sa.CheckConstraint("id = 1", name=op.f("ck_meta_one_row")),
        **STRICT,
    )
    op.create_table(
        "events",
        sa.Column("number", BIG, nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("time", BIG, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("undoes", BIG, nullable=True),
        sa.Column("redoes", BIG, nullable=True),
        sa.Column("objects", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
        sa.CheckConstraint("number > 0", name=op.f("ck_events_number")),
        sa.UniqueConstraint("hash", name=op.f("uq_events_hash")),
        **STRICT,
    )
    op.create_table(
        "ref_changes",
        sa.Column("event_number", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("event_number", "position", name=op.f("pk_ref_changes")),
        sa.ForeignKeyConstraint(
            ["event_number"], ["events.number"], name=op.f("fk_ref_changes_event_number_events")
        ),
        **STRICT_WITHOUT_ROWID,
    )
    op.create_index(
        op.f("ix_ref_changes_name_event_number"), "ref_changes", ["name", "event_number"]
    )
    op.create_table(
        "refs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("event_number", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_refs")),
        sa.ForeignKeyConstraint(
            ["event_number"], ["events.number"], name=op.f("fk_refs_event_number_events")
        ),
        **STRICT_WITHOUT_ROWID,
    )


def _commits() -> None:
    """Commits, their parents and their labels."""
    op.create_table(
        "commits",
        sa.Column("key", BIG, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("time", BIG, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("branch", sa.Text(), nullable=True),
        sa.Column("generation", BIG, nullable=False),
        sa.Column("exact", sa.Integer(), nullable=False),
        sa.Column("max_error", REAL, nullable=True),
        sa.Column("params", BIG, nullable=True),
        sa.Column("stored_bytes", BIG, nullable=True),
        sa.Column("event_number", BIG, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_commits")),
        sa.CheckConstraint("generation > 0", name=op.f("ck_commits_generation")),
        sa.CheckConstraint("exact IN (0, 1)", name=op.f("ck_commits_exact")),
        sa.CheckConstraint("length(id) = 64", name=op.f("ck_commits_id")),
        sa.UniqueConstraint("id", name=op.f("uq_commits_id")),
        sa.ForeignKeyConstraint(
            ["event_number"], ["events.number"], name=op.f("fk_commits_event_number_events")
        ),
        **STRICT,
    )
    op.create_index(op.f("ix_commits_base"), "commits", ["base"])
    op.create_table(
        "parents",
        sa.Column("child_key", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("parent_key", BIG, nullable=False),
        sa.PrimaryKeyConstraint("child_key", "position", name=op.f("pk_parents")),
        sa.CheckConstraint("parent_key < child_key", name=op.f("ck_parents_order")),
        sa.ForeignKeyConstraint(
            ["child_key"], ["commits.key"], name=op.f("fk_parents_child_key_commits")
        ),
        sa.ForeignKeyConstraint(
            ["parent_key"], ["commits.key"], name=op.f("fk_parents_parent_key_commits")
        ),
        **STRICT_WITHOUT_ROWID,
    )
    op.create_index(op.f("ix_parents_parent_key"), "parents", ["parent_key"])
    op.create_table(
        "labels",
        sa.Column("commit_key", BIG, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("commit_key", "name", name=op.f("pk_labels")),
        sa.ForeignKeyConstraint(
            ["commit_key"], ["commits.key"], name=op.f("fk_labels_commit_key_commits")
        ),
        **STRICT_WITHOUT_ROWID,
    )
    op.create_index(op.f("ix_labels_name_value"), "labels", ["name", "value"])


def _measurements() -> None:
    """What hangs on commits, and the bases."""
    op.create_table(
        "tags",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("commit_key", BIG, nullable=False),
        sa.Column("tagger", sa.Text(), nullable=False),
        sa.Column("time", BIG, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("event_number", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tags")),
        sa.ForeignKeyConstraint(
            ["commit_key"], ["commits.key"], name=op.f("fk_tags_commit_key_commits")
        ),
        sa.ForeignKeyConstraint(
            ["event_number"], ["events.number"], name=op.f("fk_tags_event_number_events")
        ),
        **STRICT_WITHOUT_ROWID,
    )
    op.create_table(
        "bases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("copied", sa.Integer(), nullable=False),
        sa.Column("event_number", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_bases")),
        sa.CheckConstraint("copied IN (0, 1)", name=op.f("ck_bases_copied")),
        sa.ForeignKeyConstraint(
            ["event_number"], ["events.number"], name=op.f("fk_bases_event_number_events")
        ),
        **STRICT_WITHOUT_ROWID,
    )
    op.create_index(op.f("ix_bases_fingerprint"), "bases", ["fingerprint"])
    op.create_table(
        "measurements",
        sa.Column("key", BIG, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("commit_key", BIG, nullable=False),
        sa.Column("kpi", sa.Text(), nullable=False),
        sa.Column("value", REAL, nullable=True),
        sa.Column("is_nan", sa.Integer(), nullable=False),
        sa.Column("samples", BIG, nullable=True),
        sa.Column("dataset", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("time", BIG, nullable=False),
        sa.Column("event_number", BIG, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_measurements")),
        sa.CheckConstraint(
            "is_nan IN (0, 1) AND (value IS NULL) = (is_nan = 1)",
            name=op.f("ck_measurements_is_nan"),
        ),
        sa.UniqueConstraint("id", name=op.f("uq_measurements_id")),
        sa.ForeignKeyConstraint(
            ["commit_key"], ["commits.key"], name=op.f("fk_measurements_commit_key_commits")
        ),
        sa.ForeignKeyConstraint(
            ["event_number"], ["events.number"], name=op.f("fk_measurements_event_number_events")
        ),
        **STRICT,
    )
    op.create_index(op.f("ix_measurements_commit_key_kpi"), "measurements", ["commit_key", "kpi"])
    op.create_table(
        "latest_measurements",
        sa.Column("commit_key", BIG, nullable=False),
        sa.Column("kpi", sa.Text(), nullable=False),
        sa.Column("measurement_key", BIG, nullable=False),
        sa.Column("value", REAL, nullable=True),
        sa.PrimaryKeyConstraint("commit_key", "kpi", name=op.f("pk_latest_measurements")),
        sa.ForeignKeyConstraint(
            ["commit_key"], ["commits.key"], name=op.f("fk_latest_measurements_commit_key_commits")
        ),
        sa.ForeignKeyConstraint(
            ["measurement_key"],
            ["measurements.key"],
            name=op.f("fk_latest_measurements_measurement_key_measurements"),
        ),
        **STRICT_WITHOUT_ROWID,
    )
    op.create_index(
        op.f("ix_latest_measurements_kpi_value_commit_key"),
        "latest_measurements",
        ["kpi", "value", "commit_key"],
    )


def _with_iso(view: str) -> str:
    """Writes out ``ISO(column)``: milliseconds since 1970 as ISO 8601 in UTC."""
    millis = r"((\1 % 1000) + 1000) % 1000"  # also right before 1970, where % is negative
    return re.sub(
        r"ISO\(([a-z.]+)\)",
        rf"strftime('%Y-%m-%dT%H:%M:%S', (\1 - {millis}) / 1000, 'unixepoch')"
        rf" || printf('.%03dZ', {millis})",
        view,
    )


VIEWS = (
    """CREATE VIEW v_commits AS
SELECT c.id AS id, ISO(c.time) AS time, c.author AS author, c.message AS message,
  c.base AS base, c.manifest AS manifest, c.generation AS generation, c.branch AS branch,
  c.source AS source, c.run AS run, c.tool AS tool, c.exact AS exact, c.max_error AS max_error,
  c.params AS params, c.stored_bytes AS stored_bytes, c.event_number AS event
FROM commits c""",
    """CREATE VIEW v_lineage AS
SELECT child.id AS child, p.position AS position, parent.id AS parent
FROM parents p
JOIN commits child ON child.key = p.child_key
JOIN commits parent ON parent.key = p.parent_key""",
    """CREATE VIEW v_measurements AS
SELECT m.id AS id, c.id AS revision, m.kpi AS kpi, m.value AS value, m.is_nan AS is_nan,
  m.samples AS samples, m.dataset AS dataset, m.source AS source, m.actor AS actor,
  ISO(m.time) AS time, l.measurement_key IS NOT NULL AS is_latest, m.event_number AS event
FROM measurements m
JOIN commits c ON c.key = m.commit_key
LEFT JOIN latest_measurements l
  ON l.commit_key = m.commit_key AND l.kpi = m.kpi AND l.measurement_key = m.key""",
    """CREATE VIEW v_events AS
SELECT e.number AS number, e.hash AS hash, ISO(e.time) AS time, e.actor AS actor,
  e.command AS command, e.summary AS summary, e.reason AS reason, e.tool AS tool,
  e.undoes AS undoes, e.redoes AS redoes,
  (SELECT json_group_array(json_object('name', r.name, 'before', r.before, 'after', r.after))
   FROM ref_changes r WHERE r.event_number = e.number) AS refs,
  e.objects AS objects, e.detail AS detail
FROM events e""",
)
