"""The revisions from one to another, held in memory, to be narrowed down again and again.

By keys: a commit's key is greater than those of its ancestors (see
:mod:`deltavc.catalog.ancestry`), so one pass over the parents in falling order marks
everything, and a byte for each key is all that it needs. A pass over 100,000 commits
takes 0.1 s; a heap and a look-up for each, twice that and more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from deltavc.catalog.readonly import ReadOnly
from deltavc.ids import CommitId

__all__ = ["Line", "ParentLookup", "marked_ancestors"]

_BAD, _GOOD = 1, 2  # marks: among the ancestors of the later end, of the earlier one
_PARENTS = (
    "SELECT child_key, parent_key FROM parents WHERE child_key <= ?"
    " ORDER BY child_key DESC, position DESC"
)


def marked_ancestors(db: ReadOnly, key: int) -> bytearray:
    """Returns a byte for each key up to one: whether it is that commit, or an ancestor."""
    marks = bytearray(key + 1)
    marks[key] = 1
    for child, parent in db.each(_PARENTS, key):
        if marks[child]:
            marks[parent] = 1
    return marks


class Line:
    """What the later of two revisions came from and the earlier one did not.

    Attributes:
        connected: Whether the earlier one is among the ancestors of the later one.
        keys: Keys of the revisions, the one recorded last first: the later end and its
            ancestors, without the earlier end and its ancestors.
    """

    def __init__(self, db: ReadOnly, early: int, late: int) -> None:
        self._db = db
        self._parents: dict[int, list[int]] = {}
        marks = bytearray(max(early, late) + 1)
        marks[late] = _BAD
        marks[early] |= _GOOD
        self._mark(marks, late)
        self.connected = marks[early] == _BAD | _GOOD and early != late
        self.keys = _marked(marks)

    def _mark(self, marks: bytearray, late: int) -> None:
        """Marks ancestors until none is left that only the later end has."""
        waiting, before = 1, 0  # how many keys have the one mark and are still to be passed
        for child, parent in self._db.each(_PARENTS, late):
            mark = marks[child]
            if not mark:
                continue
            if child != before:
                if not waiting:
                    return
                before = child
                waiting -= mark == _BAD
            if mark == _BAD:
                self._parents.setdefault(child, []).append(parent)
            old = marks[parent]
            new = old | mark
            if new != old:
                marks[parent] = new
                waiting += (new == _BAD) - (old == _BAD)

    def leave_ancestors(self, key: int) -> None:
        """Keeps one of the revisions and what came before it."""
        kept: list[int] = []
        reached = {key}
        for one in self.keys:
            if one in reached:
                kept.append(one)
                reached.update(self._parents.get(one, ()))
        self.keys = kept

    def drop_ancestors(self, key: int) -> None:
        """Takes out one of the revisions and what came before it."""
        kept: list[int] = []
        reached = {key}
        for one in self.keys:
            if one in reached:
                reached.update(self._parents.get(one, ()))
            else:
                kept.append(one)
        self.keys = kept

    def ids(self, keys: Iterable[int]) -> list[CommitId]:
        """Returns the ids of keys, the one recorded last first."""
        return [
            row[0]
            for row in self._db.rows(
                "SELECT id FROM commits WHERE key IN (SELECT value FROM json_each(?))"
                " ORDER BY key DESC",
                json.dumps(list(keys)),
            )
        ]

    def values(self, series: str) -> dict[int, float]:
        """Returns the values that count of a series, of all revisions, without NaN, by key."""
        return dict(
            self._db.rows(
                "SELECT commit_key, value FROM latest_measurements"
                " WHERE kpi = ? AND value IS NOT NULL",
                series,
            )
        )


def _marked(marks: bytearray) -> list[int]:
    """Returns the keys that only the later end has, the greatest first."""
    found: list[int] = []
    at = marks.find(_BAD)
    while at >= 0:
        found.append(at)
        at = marks.find(_BAD, at + 1)
    return found[::-1]


class ParentLookup:
    """Looks parents up one by one at first, and by the thousand once walks turn out long."""

    POINT_LOOKUPS = 64
    BLOCK = 2048

    def __init__(self, db: ReadOnly) -> None:
        self._db = db
        self._found: dict[int, list[int]] = {}
        self._lookups = 0
        self._blocks: set[int] = set()

    def __call__(self, key: int) -> Sequence[int]:
        """Returns the keys of a commit's parents, first parent first."""
        found = self._found.get(key)
        if found is not None:
            return found
        block = key // self.BLOCK
        if self._lookups < self.POINT_LOOKUPS or block in self._blocks:  # a root, or a new commit
            self._lookups += 1
            return [
                row[0]
                for row in self._db.rows(
                    "SELECT parent_key FROM parents WHERE child_key = ? ORDER BY position", key
                )
            ]
        self._blocks.add(block)
        for child, parent in self._db.rows(
            "SELECT child_key, parent_key FROM parents"
            " WHERE child_key BETWEEN ? AND ? ORDER BY child_key, position",
            block * self.BLOCK,
            (block + 1) * self.BLOCK - 1,
        ):
            self._found.setdefault(child, []).append(parent)
        return self._found.get(key, [])
