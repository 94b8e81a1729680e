"""The tables as those who write rows see them: names, columns, statements.

Rows go in through the standard library's sqlite3: 4 us each in bulk, where SQLAlchemy
takes ten times that, and a command that records something need not import it. The models
say the same with types and constraints; a test holds the two together.
"""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["COLUMNS", "Row", "insert_into", "ordered"]

Row = tuple[Any, ...]
"""Values in the order of a table's columns."""

COLUMNS: dict[str, tuple[str, ...]] = {
    name: tuple(columns.split())
    for name, columns in {
        "events": (
            "number hash time actor command summary tool reason undoes redoes objects detail"
            " host user"
        ),
        "ref_changes": "event_number position name before after",
        "refs": "name value event_number",
        "commits": (
            "key id manifest base author time message tool run source branch generation exact"
            " max_error params stored_bytes event_number"
        ),
        "parents": "child_key position parent_key",
        "labels": "commit_key name value",
        "commit_data": "commit_key position name size sha256",
        "tags": "id name commit_key tagger time message event_number",
        "bases": "name source_id fingerprint path source copied event_number",
        "measurements": (
            "key id commit_key kpi value is_nan samples dataset source actor time event_number"
            " place stderr values_id dataset_sha256 slice tool seed supersedes reason"
        ),
        "latest_measurements": "commit_key kpi measurement_key value",
        "environments": (
            "name definition after gates approvals target keep form hook protect event_number"
        ),
        "deployments": (
            "event_number id environment commit_key action actor time previous definition reason"
            " gate_verdict overridden evidence request approvals needed idempotency_key"
            " promoted_from folder receipt late"
        ),
        "requests": (
            "event_number id environment commit_key actor time definition evidence needed"
            " gate_verdict reason idempotency_key promoted_from"
        ),
        "approvals": ("id request environment commit_key evidence actor time reason event_number"),
        "verdicts": (
            "event_number position gate gate_verdict policy overridden compared_with rule verdict"
            " sentence kpi value baseline low high samples method measurement"
            " baseline_measurement"
        ),
        "signatures": "id object kind signer key time event_number",
    }.items()
}
"""Columns that rows are given for, by table, in an order in which tables can be filled."""


@cache
def insert_into(table: str, columns: int | None = None) -> str:
    """Returns the statement that adds a row to a table.

    Args:
        table: The table.
        columns: How many of its columns are given, from the first on; default: all.
    """
    names = COLUMNS[table][:columns]
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608


def ordered(table: str, row: dict[str, Any]) -> Row:
    """Returns the values of a row in the order of the columns; those left out are NULL."""
    return tuple(map(row.get, COLUMNS[table]))
