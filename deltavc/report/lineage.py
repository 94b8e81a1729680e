"""From a history of any length to the rows that people want to see.

Kept are the revisions that have a name or were deployed, and those where lines of
descent meet; between them a line says how many revisions it passes over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

__all__ = ["MOST_NODES", "reduced"]

MOST_NODES = 80
"""Named or deployed revisions that are drawn: two or three printed pages."""

Parents = Mapping[int, Sequence[int]]


def reduced(
    wanted: Collection[int], parents: Parents, allowed: Collection[int] | None = None
) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """Reduces a history to some revisions and the lines between them.

    Args:
        wanted: Keys of the revisions to keep; a child's key is greater than its parents'.
        parents: Key to the keys of the parents, first parent first.
        allowed: Only these revisions; default: all.

    Returns:
        The kept revisions, newest first, each with its edges: the key of the older
        revision, or -1 for a line that leaves what is allowed or ends at a first
        revision, and the number of revisions that the line passes over. Lines follow
        first parents, but for those of a kept merge.

    Cost:
        Linear in the number of revisions that the lines pass over.
    """
    walk = _Walk(parents, allowed)
    kept = set(wanted) if allowed is None else {key for key in wanted if key in allowed}
    kept |= walk.junctions(kept)
    return [(key, walk.edges(key, kept)) for key in sorted(kept, reverse=True)]


class _Walk:
    def __init__(self, parents: Parents, allowed: Collection[int] | None) -> None:
        self.parents = parents
        self.allowed = allowed

    def up(self, key: int) -> list[int]:
        """Returns the parents that may be listed."""
        found = self.parents.get(key, ())
        return [p for p in found if self.allowed is None or p in self.allowed]

    def junctions(self, kept: set[int]) -> set[int]:
        """Returns the revisions at which lines from kept ones meet."""
        passed: set[int] = set()
        met: set[int] = set()
        begins = [parent for start in kept for parent in self.up(start)]
        while begins:
            key: int | None = begins.pop()
            while key is not None and key not in kept and key not in met:
                if key in passed:
                    met.add(key)
                    begins += self.up(key)[1:]  # its first parents have been passed already
                    break
                passed.add(key)
                key = next(iter(self.up(key)), None)
        return met

    def edges(self, start: int, kept: set[int]) -> tuple[tuple[int, int], ...]:
        found = []
        for parent in self.up(start):
            key, skipped = parent, 0
            while key not in kept:
                skipped += 1
                above = self.up(key)
                if not above:
                    key = -1
                    break
                key = above[0]
            found.append((key, skipped))
        if not found and self.parents.get(start):
            found = [(-1, 0)]  # it has parents, but none that may be listed
        return tuple(dict.fromkeys(found))
