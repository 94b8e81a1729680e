"""Saved queries: questions that auditors ask, as SQL on the views, one file each.

A file begins with comments: its first line says what is asked; then, each on a line
of its own, ``question:`` (of the twenty), ``param NAME KIND: meaning`` with ``= DEFAULT``
behind the kind where the parameter may be left out, and ``expect: nothing`` for a query
that finds what should not be.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, cast

from deltavc.errors import InternalError

__all__ = ["Kind", "Param", "SavedQuery", "names", "saved"]

Kind = Literal["TEXT", "REVISION", "TIME"]
_PARAM = re.compile(r"param (\w+) (TEXT|REVISION|TIME)(?: = ?([^:]*))?: (.+)\Z")
_FOLDER = Path(__file__).parent


class Param(NamedTuple):
    """What a saved query wants to know.

    Attributes:
        name: Its name.
        kind: ``TEXT``; ``REVISION``, the name of one, which becomes its id; ``TIME``.
        about: Its meaning, in a few words.
        default: What it is when nobody says; None for one that must be said.
    """

    name: str
    kind: Kind
    about: str
    default: str | None


class SavedQuery(NamedTuple):
    """A query with a name.

    Attributes:
        name: Its name.
        title: What it answers, in a sentence.
        question: Which of the twenty questions of an auditor it belongs to, such as ``Q8``.
        params: What it wants to know.
        expects_nothing: Whether any row is bad news.
        sql: The statement.
    """

    name: str
    title: str
    question: str
    params: tuple[Param, ...]
    expects_nothing: bool
    sql: str


@cache
def names() -> tuple[str, ...]:
    """Returns the names of the saved queries, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.sql")))


def saved(name: str) -> SavedQuery:
    """Returns a saved query.

    Args:
        name: One of :func:`names`.

    Returns:
        The query.

    Raises:
        InternalError: Its file is not written as it should be.
    """
    text = (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
    lines = text.splitlines()
    head = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    params: list[Param] = []
    question, expects_nothing = "", False
    for line in head[1:]:
        if found := _PARAM.match(line):
            default = None if found[3] is None else found[3].strip()
            params.append(Param(found[1], cast("Kind", found[2]), found[4], default))
        elif line.startswith("question: "):
            question = line.removeprefix("question: ")
        elif line == "expect: nothing":
            expects_nothing = True
        else:
            raise InternalError(f"the saved query '{name}' says '{line}'")
    sql = "\n".join(line for line in lines if not line.startswith("-- "))
    return SavedQuery(name, head[0], question, tuple(params), expects_nothing, sql)
