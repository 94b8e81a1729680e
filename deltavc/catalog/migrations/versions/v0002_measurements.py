"""Measurements say more, and can be corrected.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from deltavc.catalog.migrations.versions.v0001_first_schema import _with_iso

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    """Adds columns to the measurements, and to their view."""
    for name, kind in (
        ("stderr", REAL),
        ("values_id", sa.Text()),
        ("dataset_sha256", sa.Text()),
        ("slice", sa.Text()),
        ("tool", sa.Text()),
        ("seed", BIG),
        ("supersedes", sa.Text()),
        ("reason", sa.Text()),
        ("place", BIG),
        ("superseded_by", BIG),
    ):
        op.add_column("measurements", sa.Column(name, kind, nullable=True))
    op.execute("UPDATE measurements SET place = key")
    op.execute("DROP VIEW v_measurements")
    op.execute(_with_iso(VIEW))


VIEW = """CREATE VIEW v_measurements AS
SELECT m.id AS id, c.id AS revision, m.kpi AS kpi, m.value AS value, m.is_nan AS is_nan,
  m.samples AS samples, m.dataset AS dataset, m.source AS source, m.actor AS actor,
  ISO(m.time) AS time, l.measurement_key IS NOT NULL AS is_latest, m.event_number AS event,
  m.slice AS slice, m.stderr AS stderr, m.values_id AS values_id,
  m.dataset_sha256 AS dataset_sha256, m.tool AS tool, m.seed AS seed,
  m.supersedes AS supersedes, m.reason AS reason,
  (SELECT s.id FROM measurements s WHERE s.key = m.superseded_by) AS superseded_by
FROM measurements m
JOIN commits c ON c.key = m.commit_key
LEFT JOIN latest_measurements l
  ON l.commit_key = m.commit_key
  AND l.kpi = m.kpi || CASE WHEN m.slice IS NULL THEN '' ELSE '[' || m.slice || ']' END
  AND l.measurement_key = m.key"""
