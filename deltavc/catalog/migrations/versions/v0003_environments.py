"""What is live: environments, deployments, requests, approvals; data, signatures, machines.

Revision: 0003
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from deltavc.catalog.migrations.versions.v0001_first_schema import _with_iso

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KINDS: dict[str, sa.types.TypeEngine[Any]] = {
    "int": sa.Integer(),
    "big": sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    "real": sa.Double().with_variant(sa.REAL(), "sqlite"),
    "text": sa.Text(),
}
STRICT = {"sqlite_strict": True}
STRICT_WITHOUT_ROWID = {"sqlite_strict": True, "sqlite_with_rowid": False}
OLD_TABLES = (
    "latest_measurements", "measurements", "tags", "labels", "parents", "commits",
    "bases", "refs", "ref_changes", "events",
)  # fmt: skip


def upgrade() -> None:
    """Adds tables and views, and empties the others.

    What earlier events brought is read again from the files: commits have rows now that
    they did not have, and the catalog is an index that can be made anew at will.
    """
    for table in OLD_TABLES:
        op.execute(sa.table(table).delete())
    meta = sa.table("meta", *map(sa.column, ("applied_number", "applied_hash")))
    op.execute(meta.update().values(applied_number=0, applied_hash="0" * 64))
    for name in ("host", "user"):
        op.add_column("events", sa.Column(name, sa.Text(), nullable=True))
    _commit_data()
    _environments()
    _deployments()
    _verdicts()
    _requests()
    _signatures()
    op.execute("DROP VIEW v_events")
    for view in VIEWS:
        op.execute(_with_iso(view))


def _table(name: str, columns: str, *constraints: Any, rowid: bool = False) -> None:
    """Makes a table from ``NAME KIND`` pairs; a question mark stands for NULL allowed."""
    made: list[Any] = []
    for item in columns.split(","):
        column, kind = item.split()
        made.append(sa.Column(column, KINDS[kind.rstrip("?")], nullable=kind.endswith("?")))
    op.create_table(name, *made, *constraints, **(STRICT if rowid else STRICT_WITHOUT_ROWID))


def _key(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=op.f(f"pk_{table}"))


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    other = to.partition(".")[0]
    return sa.ForeignKeyConstraint([column], [to], name=op.f(f"fk_{table}_{column}_{other}"))


def _flag(table: str, column: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN (0, 1)", name=op.f(f"ck_{table}_{column}"))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def _commit_data() -> None:
    table = "commit_data"
    _table(
        table,
        "commit_key big, position int, name text, size big, sha256 text",
        _key(table, "commit_key", "position"),
        _refers(table, "commit_key", "commits.key"),
    )
    _index(table, "sha256")


def _environments() -> None:
    table = "environments"
    _table(
        table,
        "name text, definition text, after text?, gates text, approvals int, target text?,"
        "keep int, form text, hook text?, protect int, event_number big",
        _key(table, "name"),
        _flag(table, "protect"),
        _refers(table, "event_number", "events.number"),
    )


def _deployments() -> None:
    table = "deployments"
    _table(
        table,
        "event_number big, id text, environment text, commit_key big?, action text, actor text,"
        "time big, previous text?, definition text, reason text?, gate_verdict text?,"
        "overridden int, evidence text?, request text?, approvals int, needed int,"
        "idempotency_key text?, promoted_from text?, folder text?, receipt text?, late int",
        _key(table, "event_number"),
        _flag(table, "overridden"),
        _flag(table, "late"),
        _refers(table, "event_number", "events.number"),
        sa.UniqueConstraint("id", name=op.f(f"uq_{table}_id")),
        _refers(table, "commit_key", "commits.key"),
        rowid=True,
    )
    _index(table, "environment", "event_number")
    _index(table, "commit_key")
    _index(table, "request")
    _index(table, "environment", "idempotency_key")


def _verdicts() -> None:
    table = "verdicts"
    _table(
        table,
        "event_number big, position int, gate text, gate_verdict text, policy text,"
        "overridden int, compared_with text?, rule text?, verdict text?, sentence text?,"
        "kpi text?, value real?, baseline real?, low real?, high real?, samples big?,"
        "method text?, measurement text?, baseline_measurement text?",
        _key(table, "event_number", "position"),
        _flag(table, "overridden"),
        _refers(table, "event_number", "events.number"),
    )


def _requests() -> None:
    table = "requests"
    _table(
        table,
        "event_number big, id text, environment text, commit_key big, actor text, time big,"
        "definition text, evidence text, needed int, gate_verdict text?, reason text?,"
        "idempotency_key text?, promoted_from text?",
        _key(table, "event_number"),
        _refers(table, "event_number", "events.number"),
        sa.UniqueConstraint("id", name=op.f(f"uq_{table}_id")),
        _refers(table, "commit_key", "commits.key"),
        rowid=True,
    )
    _index(table, "environment", "commit_key")
    table = "approvals"
    _table(
        table,
        "id text, request text, environment text, commit_key big, evidence text, actor text,"
        "time big, reason text?, event_number big",
        _key(table, "id"),
        _refers(table, "commit_key", "commits.key"),
        _refers(table, "event_number", "events.number"),
    )
    _index(table, "request")


def _signatures() -> None:
    table = "signatures"
    _table(
        table,
        "id text, object text, kind text, signer text, key text, time big, event_number big",
        _key(table, "id"),
        _refers(table, "event_number", "events.number"),
    )
    _index(table, "object")


VIEWS = (
    """CREATE VIEW v_events AS
SELECT e.number AS number, e.hash AS hash, ISO(e.time) AS time, e.actor AS actor,
  e.command AS command, e.summary AS summary, e.reason AS reason, e.tool AS tool,
  e.undoes AS undoes, e.redoes AS redoes,
  (SELECT json_group_array(json_object('name', r.name, 'before', r.before, 'after', r.after))
   FROM ref_changes r WHERE r.event_number = e.number) AS refs,
  e.objects AS objects, e.detail AS detail, e.host AS host, e.user AS user
FROM events e""",
    """CREATE VIEW v_refs AS
SELECT r.name AS name, r.value AS value, r.event_number AS event FROM refs r""",
    """CREATE VIEW v_labels AS
SELECT c.id AS revision, l.name AS name, l.value AS value
FROM labels l JOIN commits c ON c.key = l.commit_key""",
    """CREATE VIEW v_data AS
SELECT c.id AS revision, d.name AS name, d.size AS size, d.sha256 AS sha256
FROM commit_data d JOIN commits c ON c.key = d.commit_key""",
    """CREATE VIEW v_environments AS
SELECT e.name AS name, e.after AS after, e.gates AS gates, e.approvals AS approvals,
  e.target AS target, e.keep AS keep, e.form AS form, e.hook AS hook, e.protect AS protect,
  e.event_number AS event
FROM environments e""",
    """CREATE VIEW v_deployments AS
SELECT printf('d-%06d', d.event_number) AS deployment, d.event_number AS event, d.id AS id,
  d.environment AS environment, c.id AS revision, d.action AS action, d.actor AS actor,
  ISO(d.time) AS time, ISO(next.time) AS until, next.event_number AS until_event,
  d.reason AS reason, d.gate_verdict AS gate_verdict, d.overridden AS overridden,
  d.approvals AS approvals, d.needed AS approvals_needed,
  (SELECT printf('r-%06d', q.event_number) FROM requests q WHERE q.id = d.request) AS request,
  d.promoted_from AS promoted_from,
  (SELECT printf('d-%06d', p.event_number) FROM deployments p WHERE p.id = d.previous)
    AS previous,
  d.idempotency_key AS key, c.author AS commit_author, c.message AS message, c.base AS base,
  d.folder AS folder, d.receipt AS receipt, d.late AS late
FROM deployments d
LEFT JOIN commits c ON c.key = d.commit_key
LEFT JOIN deployments next ON next.event_number =
  (SELECT min(n.event_number) FROM deployments n
   WHERE n.environment = d.environment AND n.event_number > d.event_number)""",
    """CREATE VIEW v_verdicts AS
SELECT CASE WHEN d.event_number IS NULL THEN NULL ELSE printf('d-%06d', v.event_number) END
    AS deployment,
  CASE WHEN q.event_number IS NULL THEN NULL ELSE printf('r-%06d', v.event_number) END
    AS request,
  v.event_number AS event, coalesce(d.environment, q.environment) AS environment,
  c.id AS revision, v.gate AS gate, v.gate_verdict AS gate_verdict, v.policy AS policy,
  v.overridden AS overridden, v.compared_with AS compared_with, v.rule AS rule,
  v.verdict AS verdict, v.sentence AS sentence, v.kpi AS kpi, v.value AS value,
  v.baseline AS baseline, v.low AS low, v.high AS high, v.samples AS samples,
  v.method AS method, v.measurement AS measurement,
  v.baseline_measurement AS baseline_measurement
FROM verdicts v
LEFT JOIN deployments d ON d.event_number = v.event_number
LEFT JOIN requests q ON q.event_number = v.event_number
LEFT JOIN commits c ON c.key = coalesce(d.commit_key, q.commit_key)""",
    """CREATE VIEW v_approvals AS
SELECT printf('r-%06d', q.event_number) AS request, q.environment AS environment,
  c.id AS revision, q.actor AS requested_by, ISO(q.time) AS requested_at, q.needed AS needed,
  q.gate_verdict AS gate_verdict, q.evidence AS evidence, a.actor AS approver,
  ISO(a.time) AS approved_at, a.reason AS reason, c.author AS commit_author,
  a.event_number AS event,
  (SELECT printf('d-%06d', d.event_number) FROM deployments d WHERE d.request = q.id
   ORDER BY d.event_number LIMIT 1) AS deployment
FROM requests q
JOIN commits c ON c.key = q.commit_key
LEFT JOIN approvals a ON a.request = q.id""",
    """CREATE VIEW v_signatures AS
SELECT s.id AS id, s.object AS object, s.kind AS kind, s.signer AS signer, s.key AS key,
  ISO(s.time) AS time, s.event_number AS event
FROM signatures s""",
)
