"""What is merged piece by piece: replaced rows of a parameter, and keys of a JSON file.

Both follow the three-way table one level down: a row or a key that one side
changed is taken, one that several changed equally once, and one that they
changed differently is a conflict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from deltavc.delta.kinds import Delta, replace_rows
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import DeltavcError
from deltavc.records.canonical import loads_strict

__all__ = ["MAX_JSON", "merge_json", "merge_rows"]

MAX_JSON = 4 << 20
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def _by_key(
    before: Mapping[_K, _V], sides: Sequence[Mapping[_K, _V]], same: Callable[[Any, Any], bool]
) -> tuple[dict[_K, _V], list[_K]]:
    """Returns what keys come to, in the order in which they turn up, and those in conflict."""
    merged: dict[_K, _V] = {}
    conflicts: list[_K] = []
    for key in dict.fromkeys(k for side in (*sides, before) for k in side):
        old = before.get(key)
        changed = [side.get(key) for side in sides if not same(side.get(key), old)]
        if any(not same(value, changed[0]) for value in changed[1:]):
            conflicts.append(key)
            continue
        value = changed[0] if changed else old
        if value is not None:
            merged[key] = value
    return merged, conflicts


def merge_rows(
    before: Sequence[Delta], sides: Sequence[Sequence[Delta]]
) -> tuple[Delta | None, list[int]]:
    """Merges replaced rows of one parameter.

    Args:
        before: The row replacements in the merge base.
        sides: Those on each side.

    Returns:
        The merged replacement, None where no row stays replaced, and the rows that the
        sides changed in different ways.

    Raises:
        ValueError: The replacements do not agree on shape and dtype.
    """
    every = [delta for deltas in (before, *sides) for delta in deltas]
    forms = {(delta.shape, delta.header.dtype) for delta in every}
    if len(forms) != 1:
        raise ValueError("replaced rows of different shapes or dtypes")
    shape, name = forms.pop()
    merged, conflicts = _by_key(_rows(before), [_rows(side) for side in sides], _equal)
    if conflicts or not merged:
        return None, sorted(conflicts)
    index = sorted(merged)
    data = b"".join(merged[row] for row in index)
    values = Tensor.from_buffer(DTYPES[name], (len(index), *shape[1:]), data)
    return replace_rows(np.array(index, dtype=np.uint64), values, shape), []


def _rows(deltas: Sequence[Delta]) -> dict[int, bytes]:
    rows: dict[int, bytes] = {}
    for delta in deltas:
        index = delta.row_index().tolist()
        data = bytes(delta.values().raw())
        width = len(data) // len(index)
        rows |= {row: data[at * width : (at + 1) * width] for at, row in enumerate(index)}
    return rows


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def merge_json(before: bytes, sides: Sequence[bytes]) -> tuple[bytes | None, list[str]]:
    """Merges the top-level keys of JSON files.

    Args:
        before: The file in the merge base; empty where it had none.
        sides: The file on each side; empty where it was removed.

    Returns:
        The merged file, written as Hugging Face writes its own, and the keys that the
        sides changed in different ways; None and no keys where one is no JSON object.
    """
    parsed = [_object(data) if data else None for data in (before, *sides)]
    if any(one is None for one in parsed[1:]) or (before and parsed[0] is None):
        return None, []
    old = parsed[0] or {}
    merged, conflicts = _by_key(old, [one or {} for one in parsed[1:]], _same_value)
    if conflicts:
        return None, [str(key) for key in conflicts]
    return (json.dumps(merged, indent=2, ensure_ascii=False) + "\n").encode(), []


def _same_value(one: Any, other: Any) -> bool:
    """Tells whether two values are written alike: 1, 1.0 and true are not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = loads_strict(data, "a JSON file", max_bytes=MAX_JSON)
    except DeltavcError:
        return None
    return found if isinstance(found, dict) else None
