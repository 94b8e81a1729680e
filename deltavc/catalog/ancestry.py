"""Walks over the commit graph, as pure functions of "what are the parents of this key".

Keys are given so that a commit's key is greater than the keys of all its
ancestors. Taking the greatest key from a heap therefore visits every commit after
all its descendants: what a walk knows of a commit then is all there is to know,
and clocks that ran wrong cannot disturb the order. A walk costs one look-up for
each commit that it visits, and it stops as soon as the answer is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

__all__ = ["Parents", "is_ancestor", "merge_bases", "walk"]

Parents = Callable[[int], Iterable[int]]

_OURS, _THEIRS, _COMMON = 1, 2, 4  # marks of a commit: reachable from a, from b, below a merge base


def walk(starts: Iterable[int], excluded: Iterable[int], parents: Parents) -> Iterator[int]:
    """Yields the starts and their ancestors, newest first, without what is excluded.

    Args:
        starts: Keys to begin at.
        excluded: Keys that are left out together with their ancestors.
        parents: Looks parents up.

    Yields:
        Keys, a child always before its parents.
    """
    hidden = set(excluded)
    queued = set(starts) | hidden
    visible = len(queued - hidden)  # how many of those in the heap are still to be yielded
    heap = [-key for key in queued]
    heapify(heap)
    while visible:
        key = -heappop(heap)
        hide = key in hidden
        if not hide:
            visible -= 1
            yield key
        for parent in parents(key):
            if parent not in queued:
                queued.add(parent)
                heappush(heap, -parent)
                if hide:
                    hidden.add(parent)
                else:
                    visible += 1
            elif hide and parent not in hidden:
                hidden.add(parent)
                visible -= 1


def is_ancestor(ancestor: int, key: int, parents: Parents) -> bool:
    """Tells whether a commit is another one, or among its ancestors.

    Args:
        ancestor: The key looked for.
        key: The key whose history is searched.
        parents: Looks parents up.

    Returns:
        Whether it is.
    """
    queued = {key}
    heap = [-key]
    while heap:
        found = -heappop(heap)
        if found <= ancestor:  # all that is left lies below
            return found == ancestor
        for parent in parents(found):
            if parent >= ancestor and parent not in queued:
                queued.add(parent)
                heappush(heap, -parent)
    return False


def merge_bases(ours: int, theirs: int, parents: Parents) -> list[int]:
    """Returns the common ancestors that are not ancestors of another common ancestor.

    Args:
        ours: One key.
        theirs: The other key.
        parents: Looks parents up.

    Returns:
        Keys, newest first; none for unrelated histories, several for criss-cross merges.
    """
    marks = {ours: _OURS}
    marks[theirs] = marks.get(theirs, 0) | _THEIRS
    heap = [-key for key in marks]
    heapify(heap)
    waiting = [0] * 8  # how many in the heap have each combination of marks
    for mark in marks.values():
        waiting[mark] += 1
    found: list[int] = []
    # A merge base is still possible while a commit of both waits, or one of either side.
    while waiting[_OURS | _THEIRS] or (waiting[_OURS] and waiting[_THEIRS]):
        key = -heappop(heap)
        mark = marks[key]
        waiting[mark] -= 1
        if mark == _OURS | _THEIRS:
            found.append(key)
            mark |= _COMMON
        for parent in parents(key):
            before = marks.get(parent)
            after = mark | (before or 0)
            marks[parent] = after
            waiting[after] += 1
            if before is None:
                heappush(heap, -parent)
            else:
                waiting[before] -= 1
    return found
