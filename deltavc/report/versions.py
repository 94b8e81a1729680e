"""Naming revisions: each is read once, however often the report names it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deltavc.ids import CommitId, ObjectId
from deltavc.report.data import Version

if TYPE_CHECKING:
    from deltavc.catalog.reader import CatalogReader
    from deltavc.ledger.state import State

__all__ = ["Versions"]

BRANCH = "branch:"


class Versions:
    """Revisions by id, as the report names them.

    Args:
        reader: The catalog.
        state: The refs, for the names of branches.
    """

    def __init__(self, reader: CatalogReader, state: State) -> None:
        self._reader = reader
        self._read: dict[str, Version] = {}
        self.branches: dict[str, list[str]] = {}
        self.tags: dict[str, list[str]] = {}
        for ref, value in sorted(state.refs.items()):
            if ref.startswith(BRANCH) and value:
                self.branches.setdefault(value, []).append(ref.removeprefix(BRANCH))
        for tag in reader.tags():
            self.tags.setdefault(tag.commit, []).append(tag.name)

    def read(self, ids: Iterable[str]) -> None:
        """Reads revisions, in one query for those that are new."""
        wanted = [CommitId(ObjectId(oid)) for oid in dict.fromkeys(ids) if oid not in self._read]
        for oid, row in self._reader.commits(wanted).items() if wanted else ():
            self._read[oid] = Version(
                id=oid,
                subject=row.message.partition("\n")[0],
                author=row.author,
                time=row.time,
                branches=tuple(self.branches.get(oid, ())),
                tags=tuple(self.tags.get(oid, ())),
                exact=row.exact,
                max_error=row.max_error,
            )

    def __getitem__(self, oid: str) -> Version:
        """Returns a revision; one that the catalog does not hold has an id only."""
        if oid not in self._read:
            self.read([oid])
        return self._read.setdefault(oid, Version(oid, "", "", 0))
