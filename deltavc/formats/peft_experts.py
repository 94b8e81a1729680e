"""Which parameters of the base an adapter of fused experts means.

The adapter's file names the module, and how deep PEFT wrapped it: once for each
of its parameters, in the order in which the module registered them. No file
tells that order, so the shapes must: an assignment is taken if it is the only
one that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

from deltavc.delta.tensor import DType
from deltavc.errors import UnsupportedFormat
from deltavc.formats.files import shown
from deltavc.formats.peft_items import AdapterItem
from deltavc.formats.peft_kinds.lora import Experts

__all__ = ["resolve"]

Entries = Mapping[str, tuple[DType, tuple[int, ...]]]
MAX_PARAMETERS = 5  # of one module; 120 ways to assign them


def resolve(items: Sequence[AdapterItem], entries: Entries) -> list[AdapterItem]:
    """Gives each expert item the parameter that it changes.

    Args:
        items: The adapter's items.
        entries: The base's tensors.

    Returns:
        The items; those of modules without such a parameter are their weights' own.

    Raises:
        UnsupportedFormat: The shapes do not tell.
    """
    modules: dict[str, list[Experts]] = {}
    for item in items:
        if isinstance(item, Experts):
            modules.setdefault(item.module, []).append(item)
    if not modules:
        return list(items)
    leaves: dict[str, list[str]] = {}
    for name in entries:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    found: dict[tuple[str, int], AdapterItem] = {}
    for module, group in modules.items():
        for item, chosen in zip(group, _assigned(module, group, leaves, entries), strict=True):
            found[module, item.depth] = chosen
    return [found[i.module, i.depth] if isinstance(i, Experts) else i for i in items]


def _assigned(
    module: str, group: Sequence[Experts], leaves: Mapping[str, Sequence[str]], entries: Entries
) -> Sequence[AdapterItem]:
    """Returns a module's items with their parameters."""
    shapes = {}
    for leaf in group[0].names:
        name = f".{module}.{leaf}"
        # either may have a wrapper's name in front that the other lacks
        known = [
            n for n in leaves.get(leaf, ()) if f".{n}".endswith(name) or name.endswith(f".{n}")
        ]
        if known:
            shapes[leaf] = entries[known[0]][1]
    if not shapes and len(group) == 1:
        return [group[0].plain]
    ways = [
        way
        for way in permutations(list(shapes)[:MAX_PARAMETERS], len(group))
        if all(i.orientations(shapes[leaf]) for i, leaf in zip(group, way, strict=True))
    ]
    if len(ways) > 1:
        raise UnsupportedFormat(
            f"the shapes do not tell which parameters of '{shown(module)}' are meant: {len(ways)}"
            " ways fit",
            hint="merge the adapter with PEFT, then commit the full model",
            module=shown(module),
        )
    if not ways:  # named and refused with its shape where it is looked for
        return [replace(i, suffix=i.names[k % len(i.names)]) for k, i in enumerate(group)]
    named = [replace(item, suffix=leaf) for item, leaf in zip(group, ways[0], strict=True)]
    return _oriented(module, named, [shapes[leaf] for leaf in ways[0]])


def _oriented(
    module: str, items: Sequence[Experts], shapes: Sequence[tuple[int, ...]]
) -> Sequence[AdapterItem]:
    """Tells square parameters which way round they lie: as the others of their module."""
    possible = [i.orientations(shape) for i, shape in zip(items, shapes, strict=True)]
    told = {ways[0] for ways in possible if len(ways) == 1}
    if all(len(ways) == 1 for ways in possible):
        return items
    if len(told) != 1:
        raise UnsupportedFormat(
            f"nothing tells whether the experts of '{shown(module)}' are stored transposed",
            hint="merge the adapter with PEFT, then commit the full model",
            module=shown(module),
        )
    return [replace(item, turned=next(iter(told))) for item in items]
