"""The verb ``audit query``: the views of the catalog, asked in SQL, and the saved queries."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from deltavc.catalog import query as engine
from deltavc.catalog.queries import Param, SavedQuery, names, saved
from deltavc.catalog.query import LIMITS, Limits
from deltavc.catalog.query_functions import Value
from deltavc.errors import UsageError
from deltavc.repo.audit import require_whole_history
from deltavc.repo.results_audit import QueryAnswer, SavedRow, ViewRow

if TYPE_CHECKING:
    from deltavc.repo.repository import Repository

__all__ = ["LIMITS", "Limits", "Value", "query", "run_saved", "saved_queries", "views"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def query(
    repo: Repository,
    sql: str,
    values: Mapping[str, Value] | None = None,
    *,
    limits: Limits = LIMITS,
) -> QueryAnswer:
    """Runs one SELECT on the views, reading only.

    Args:
        repo: The repository; its catalog is brought in step first.
        sql: The statement; ``:name`` stands for a value.
        values: The values by name.
        limits: Time, rows and memory that it may take.

    Returns:
        The rows.

    Raises:
        UsageError: The statement is not allowed, makes no sense, lacks a value, or takes
            too long.
        CatalogUnusable: There is no catalog, and none can be made.
    """
    require_whole_history(repo, "audit query")
    values = dict(values or {})
    with repo.reader() as reader:
        path = reader.path
    answer = engine.run(path, sql, values, limits=limits)
    return QueryAnswer(
        columns=list(answer.columns),
        rows=[dict(zip(answer.columns, row, strict=True)) for row in answer.rows],
        cut=answer.cut,
        params=values,
    )


def saved_queries() -> list[SavedRow]:
    """Returns the saved queries, by name."""
    return [
        SavedRow(
            name=found.name,
            title=found.title,
            question=found.question,
            params=[param._asdict() for param in found.params],
            expects_nothing=found.expects_nothing,
        )
        for found in map(saved, names())
    ]


def find_saved(name: str) -> SavedQuery:
    """Returns a saved query.

    Args:
        name: Its name.

    Returns:
        The query.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        raise UsageError(
            f"there is no saved query '{name}'",
            hint=f"did you mean '{near[0]}'" if near else "list them: deltavc audit query --saved",
            name=name,
        )
    return saved(name)


def run_saved(
    repo: Repository,
    name: str,
    params: Mapping[str, str | int] | None = None,
    *,
    limits: Limits = LIMITS,
) -> QueryAnswer:
    """Runs a saved query.

    Args:
        repo: The repository.
        name: The query's name.
        params: What it wants to know: names of revisions, texts, and times as ISO 8601 or
            as milliseconds since 1970.
        limits: Time, rows and memory that it may take.

    Returns:
        The rows; ``expects_nothing`` says whether any is bad news.

    Raises:
        UsageError: There is no such query, or a parameter is missing, unknown or wrong.
        UnknownRevision: A revision cannot be found.
    """
    found = find_saved(name)
    given = dict(params or {})
    known = {param.name for param in found.params}
    if unknown := sorted(given.keys() - known):
        raise UsageError(
            f"the saved query '{name}' has no parameter '{unknown[0]}'",
            hint=_usage(found),
            parameter=unknown[0],
        )
    values = {
        param.name: _bind(repo, found, param, given.get(param.name)) for param in found.params
    }
    answer = query(repo, found.sql, values, limits=limits)
    return QueryAnswer(
        columns=answer.columns,
        rows=answer.rows,
        cut=answer.cut,
        saved=name,
        expects_nothing=found.expects_nothing,
        params=values,
    )


def _bind(repo: Repository, found: SavedQuery, param: Param, given: str | int | None) -> Value:
    value = param.default if given is None else given
    if value is None:
        raise UsageError(
            f"the saved query '{found.name}' needs '{param.name}': {param.about}",
            hint=_usage(found),
            parameter=param.name,
        )
    if param.kind == "REVISION":
        from deltavc.repo.revisions import resolve

        return resolve(repo, str(value))
    if param.kind == "TIME":
        return _time(value, param, repo.session.clock)
    return str(value)


def _time(value: str | int, param: Param, clock: object) -> str:
    """Returns a time as the views write it."""
    if value == "now" and callable(clock):
        value = int(clock())
    try:
        if isinstance(value, int):
            moment = _EPOCH + timedelta(milliseconds=value)
        else:
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"'{value}' for '{param.name}' is not a time",
            hint="write it as 2026-10-01 or 2026-10-01T12:00Z",
            parameter=param.name,
        ) from error
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _usage(found: SavedQuery) -> str:
    words = [
        f"--param {p.name}={p.kind}" if p.default is None else f"[--param {p.name}={p.kind}]"
        for p in found.params
    ]
    return " ".join(["deltavc audit query --saved", found.name, *words])


def views() -> list[ViewRow]:
    """Returns the columns of the views, with their meanings."""
    from deltavc.catalog import views as meanings

    return [
        ViewRow(view=view, column=column, meaning=meaning)
        for view, columns in meanings.views().items()
        for column, meaning in columns.columns.items()
    ]
