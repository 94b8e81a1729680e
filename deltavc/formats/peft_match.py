"""Finding an adapter's modules in a base: all of them, or none.

An adapter names modules as the model class did that it was trained on, a file
names tensors as the class that wrote it: one may have a wrapper's name in
front (``bert.``, ``model.``, ``transformer.``) and the other not. One such
prefix is dropped or added, the same for all modules, and only if every trained
module is then found with a fitting shape. An adapter that fits in part would
serve a model that nobody trained, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from deltavc.delta.blas import one_blas_thread
from deltavc.delta.kinds import Delta, dense
from deltavc.delta.kinds import replace as replace_values
from deltavc.delta.rounding import round_sticky
from deltavc.delta.tensor import DType, Tensor
from deltavc.errors import BaseMismatch, NonFiniteTensor, ShapeMismatch, UnsupportedFormat
from deltavc.formats.files import shown
from deltavc.formats.peft import Adapter
from deltavc.formats.peft_experts import resolve
from deltavc.formats.peft_items import AdapterItem, Change, Place, Rows, Whole
from deltavc.formats.peft_orient import Orientations

__all__ = ["Matched", "computed", "match", "own_name"]

Entries = Mapping[str, tuple[DType, tuple[int, ...]]]
DROPPED = "-"
MAX_SHOWN_NAMES = 5
MAX_CANDIDATES = 64
COMPARE_STEP = 1 << 20


@dataclass
class Matched:
    """An adapter as changes of a base's parameters.

    Attributes:
        params: Deltas by base parameter: changes that add up, or replaced rows.
        computed: Changes without a form as a delta, by base parameter, to be computed there.
        replaced: Base parameters that the adapter brings whole; they may have
            another dtype and another first dimension.
        new: Parameters that the base lacks, under the adapter's own names.
        prefix: What the adapter's names have in front of the base's; with
            ``-`` in front, what the base's have in front of the adapter's. See
            :func:`own_name`.
        names: Name in the adapter to name in the base, of everything above.
        ties: Adapter names that stand for another tensor of the base, since
            the two are tied: a change of one is a change of both.
        copies: Base parameters of which the adapter holds a copy beside its
            factors.
        held: Where the tensors of the adapter's file are: for each key the base
            parameter, and the tensor of its delta, or "" for the parameter itself.
    """

    params: dict[str, list[Delta]] = field(default_factory=dict)
    computed: dict[str, tuple[Change, Place]] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)
    new: dict[str, Delta] = field(default_factory=dict)
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    copies: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, tuple[str, str]] = field(default_factory=dict)


def own_name(name: str, prefix: str) -> str:
    """Returns the adapter's name of a base parameter; undoes :attr:`Matched.prefix`."""
    if prefix.startswith(DROPPED):
        return name.removeprefix(prefix.removeprefix(DROPPED))
    return prefix + name


def match(
    adapter: Adapter,
    base_entries: Entries,
    tied: Mapping[str, str],
    *,
    read: Callable[[str], Tensor] | None = None,
    threads: int = 1,
) -> Matched:
    """Finds the base parameters that an adapter changes.

    Args:
        adapter: The adapter.
        base_entries: The base's tensors: dtype and shape by name.
        tied: Names that stand for another tensor of the base.
        read: Reads a base tensor. With it, the adapter's copies of base
            tensors are compared with the base; without it, they are left to
            the caller in :attr:`Matched.copies`.
        threads: How many threads make deltas, where that takes reading the base.

    Returns:
        The changes.

    Raises:
        BaseMismatch: Modules that the base lacks, or that it has under several
            names, or whose copy in the adapter has other values.
        ShapeMismatch: All names are there, with other shapes.
        UnsupportedFormat: A quantised base, or two changes of tied weights.
    """
    base = _Base(base_entries, tied)
    if not adapter.items:
        return Matched()
    items = resolve(adapter.items, base_entries)
    trained = [i for i in items if isinstance(i, Change | Rows) and not _is_optional(i)]
    scheme = _find_scheme(base, trained or items)
    matched = Matched(prefix=scheme.prefix)
    orientations = Orientations(base_entries, adapter.settings.fan_in_fan_out)
    shared: set[str] = set()
    for item in items:
        found = scheme.find(item.name)
        if isinstance(item, Change) and found is not None:
            orientations.note(item, base_entries[found][1])
            shared |= {item.module} if item.optional else set()
    lost: list[str] = []
    changes: list[tuple[Change, str, Place]] = []
    for item in items:
        found = scheme.find(item.name)
        if found is not None:
            _note(matched, base, item, found, scheme.apply(item.name))
            _check_fit(base, item, found)
        if isinstance(item, Change) and found is not None:
            shape = base_entries[found][1]
            there = Place(
                shape, orientations.of(item, found, shape), partial(read or _unread, found)
            )
            changes.append((item.sharing() if item.module in shared else item, found, there))
        elif found is not None:
            _place(matched, base, item, found)
        elif isinstance(item, Whole) and item.saved:
            delta = dense if item.values.dtype.arithmetic else replace_values
            matched.new[item.name] = delta(item.values)
            matched.names[item.name] = item.name
            matched.held[item.key] = (item.name, "")
        elif not (isinstance(item, Change) and item.optional):
            lost.append(item.name)
    if lost:
        raise _mismatch(lost, len(items))
    _enter(matched, changes, threads)
    if read is not None:
        _check_copies(matched, read)
    return matched


def _unread(name: str) -> Tensor:
    raise BaseMismatch(f"the values of '{shown(name)}' are needed, and the base is not at hand")


def _is_optional(item: AdapterItem) -> bool:
    return isinstance(item, Change) and item.optional


class _Base:
    """The base's names with their aliases."""

    def __init__(self, entries: Entries, tied: Mapping[str, str]) -> None:
        self.entries = entries
        self.tied = {alias: name for alias, name in tied.items() if name in entries}

    def find(self, name: str) -> str | None:
        """Returns the tensor that a name stands for."""
        found = self.tied.get(name, name)
        return found if found in self.entries else None


@dataclass(frozen=True)
class _Scheme:
    """One way to read an adapter's names as the base's: drop a prefix, or add one."""

    base: _Base
    drop: str = ""
    add: str = ""

    @property
    def prefix(self) -> str:
        return self.drop or (DROPPED + self.add if self.add else "")

    def apply(self, name: str) -> str:
        """Returns the name that the base should have."""
        if self.drop and name.startswith(self.drop):
            return name.removeprefix(self.drop)
        if self.add and self.base.find(self.add + name) is not None:
            return self.add + name
        return name

    def find(self, name: str) -> str | None:
        """Returns the base tensor of an adapter's name.

        A head stands beside the wrapped encoder, not in it, so a name without
        the prefix is taken as it is.
        """
        return self.base.find(self.apply(name))


def _find_scheme(base: _Base, items: Sequence[AdapterItem]) -> _Scheme:
    """Returns the one scheme under which every item is found with a fitting shape."""
    plain = _Scheme(base)
    candidates = [plain, *_other_schemes(base, items)]
    scores = [_score(base, scheme, items) for scheme in candidates]
    if scores[0] == (len(items), len(items)):
        return plain
    complete = [c for c, s in zip(candidates, scores, strict=True) if s == (len(items),) * 2]
    if len(complete) == 1:
        return complete[0]
    if complete:
        names = [complete_one.apply(items[0].name) for complete_one in complete]
        raise BaseMismatch(
            f"the adapter's '{shown(items[0].name)}' could be {_listed(names)} of the base",
            hint="give a base that holds one such model",
            candidates=names,
        )
    best = candidates[max(range(len(scores)), key=lambda i: scores[i])]
    missing = [item.name for item in items if best.find(item.name) is None]
    if missing:
        raise _mismatch(missing, len(items))
    wrong = [item for item in items if not _found_fit(base, best, item)[1]]
    raise _misfit(wrong, base.entries[best.find(wrong[0].name) or ""][1], len(items))


def _other_schemes(base: _Base, items: Sequence[AdapterItem]) -> list[_Scheme]:
    """Returns the schemes under which the first name that the base lacks is found."""
    pivot = next((i.name for i in items if not _found_fit(base, _Scheme(base), i)[1]), None)
    if pivot is None:
        return []
    parts = pivot.split(".")
    drops = [".".join(parts[:i]) + "." for i in range(1, len(parts))]
    schemes = [_Scheme(base, drop=d) for d in drops if base.find(pivot.removeprefix(d))]
    for name in (*base.entries, *base.tied):
        if name.endswith("." + pivot) and len(schemes) < MAX_CANDIDATES:
            schemes.append(_Scheme(base, add=name.removesuffix(pivot)))
    return schemes


def _score(base: _Base, scheme: _Scheme, items: Sequence[AdapterItem]) -> tuple[int, int]:
    """Returns how many items are found, and how many of them fit."""
    outcomes = [_found_fit(base, scheme, item) for item in items]
    return sum(found for found, _ in outcomes), sum(fit for _, fit in outcomes)


def _found_fit(base: _Base, scheme: _Scheme, item: AdapterItem) -> tuple[bool, bool]:
    name = scheme.find(item.name)
    if name is None:
        return False, False
    return True, _fits(item, base.entries[name][1])


def _fits(item: AdapterItem, shape: tuple[int, ...]) -> bool:
    if isinstance(item, Change):
        return bool(item.orientations(shape))
    if isinstance(item, Rows):
        return shape[1:] == item.values.shape[1:] and int(item.index[-1]) < shape[0]
    assert isinstance(item, Whole)
    given = item.values.shape
    if given == shape:
        return True
    # A head may have another number of classes and an embedding other rows, but not other inputs.
    resized = len(given) == 2 or (item.saved and item.suffix == "bias")
    return resized and not item.copied and len(given) == len(shape) and given[1:] == shape[1:]


def _misfit(wrong: Sequence[AdapterItem], shape: tuple[int, ...], total: int) -> ShapeMismatch:
    return ShapeMismatch(
        f"{len(wrong)} of the adapter's {total} parameters do not fit the base's shapes, such as"
        f" '{shown(wrong[0].name)}': {_shape(wrong[0])} for {shape}",
        parameters=[shown(item.name) for item in wrong],
        expected=list(shape),
    )


def _shape(item: AdapterItem) -> str:
    if isinstance(item, Change):
        return item.told
    if isinstance(item, Rows):
        return f"rows {item.values.shape} up to {int(item.index[-1])}"
    return str(item.values.shape) if isinstance(item, Whole) else ""


def _mismatch(names: list[str], total: int) -> BaseMismatch:
    how_many = "none" if len(names) == total else f"{total - len(names)}"
    return BaseMismatch(
        f"the base has {how_many} of the adapter's {total} parameters: {_listed(names)}"
        f" {'is' if len(names) == 1 else 'are'} missing",
        hint="commit it on the base that it was trained on: deltavc base list",
        missing=[shown(name) for name in names],
        count=len(names),
        total=total,
    )


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(f"'{shown(name)}'" for name in names[:MAX_SHOWN_NAMES])
    more = len(names) - MAX_SHOWN_NAMES
    return f"{first} and {more} more" if more > 0 else first


def _note(matched: Matched, base: _Base, item: AdapterItem, found: str, meant: str) -> None:
    matched.names[item.name] = found
    if base.tied.get(meant) == found:
        matched.ties[item.name] = found


def _check_fit(base: _Base, item: AdapterItem, found: str) -> None:
    """Refuses an item that does not fit the parameter that was found for it."""
    dtype, shape = base.entries[found]
    if not _fits(item, shape):
        raise _misfit([item], shape, 1)
    if not isinstance(item, Whole) and not dtype.arithmetic:
        raise UnsupportedFormat(
            f"the base's '{shown(found)}' is {dtype.name}, and an adapter cannot be added to it",
            hint="take the base in bf16, fp16 or fp32 that it was quantised from",
            parameter=found,
        )


def _place(matched: Matched, base: _Base, item: AdapterItem, found: str) -> None:
    """Enters what stands instead of a base parameter, or of its rows."""
    dtype, shape = base.entries[found]
    if isinstance(item, Whole):
        known = matched.copies if item.copied else matched.replaced
        if found in known and not known[found].same_bits(item.values):
            raise _torn(found)
        if found in matched.params and not item.copied:
            raise _torn(found)
        known[found] = item.values
        if not item.copied:
            matched.held[item.key] = (found, "")
        return
    assert isinstance(item, Rows)
    if found in matched.replaced:
        raise _torn(found)
    matched.held[item.key] = (found, "")
    _add(matched, found, item.delta(shape, _in_dtype(item, dtype)))


def _enter(matched: Matched, changes: Sequence[tuple[Change, str, Place]], threads: int) -> None:
    """Makes the deltas of changes and enters them under their parameters."""
    with one_blas_thread(), ThreadPoolExecutor(max(threads, 1)) as pool:
        deltas = list(pool.map(lambda change: _delta(change[0], change[2]), changes))
    for (item, found, place), delta in zip(changes, deltas, strict=True):
        matched.held |= {key: (found, part) for part, key in item.keys.items()}
        torn = found in matched.replaced or found in matched.computed
        if torn or (delta is None and found in matched.params):
            raise _torn(found)
        if delta is None:
            matched.computed[found] = (item, place)
        else:
            _add(matched, found, delta)


def _add(matched: Matched, found: str, delta: Delta) -> None:
    others = matched.params.setdefault(found, [])
    if not all(_same_change(delta, other) for other in others):
        raise _torn(found)
    if not others:
        others.append(delta)


def computed(name: str, change: Change, place: Place) -> Tensor:
    """Returns a parameter as a change makes it that has no form as a delta.

    Args:
        name: The parameter.
        change: The change.
        place: Where it is made.

    Returns:
        The values in the parameter's dtype, rounded to nearest once they were
        computed in float64.

    Raises:
        NonFiniteTensor: They are too large for it.
        UnsupportedFormat: The change cannot be computed.
    """
    dtype = place.origin().dtype
    found = [_rounded(Tensor.from_array(piece), dtype).bits for piece in change.pieces(place)]
    rounded = Tensor(dtype, place.shape, np.concatenate(found))
    if not rounded.is_finite():
        raise NonFiniteTensor(
            f"the adapter makes '{shown(name)}' too large for {dtype.name}", tensor=shown(name)
        )
    return rounded


def _delta(item: Change, place: Place) -> Delta | None:
    """Returns the delta of a change; None where it has no exact form as one."""
    try:
        return item.delta(place)
    except UnsupportedFormat:
        return None


def _torn(name: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"the adapter changes '{shown(name)}' in two ways, and the base has it once: tied weights",
        hint="merge it with PEFT into an untied model, then commit the full model",
        parameter=name,
    )


def _same_change(one: Delta, other: Delta) -> bool:
    """Tells whether two deltas of one parameter are the same, seen from either side of a tie.

    PEFT keeps an embedding and a tied head equal by giving the head the
    embedding's factors transposed and swapped.
    """
    if one.kind != "lowrank" or other.kind != "lowrank":
        return one.id() == other.id()
    if one.scale != other.scale or one.rank != other.rank:
        return False
    pairs = zip(one.matrices(), other.matrices(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _in_dtype(item: Rows, dtype: DType) -> Tensor | None:
    """Returns rows rounded to the parameter's dtype; PEFT saves them in float32."""
    values = item.values
    if values.dtype is dtype:
        return None
    rounded = _rounded(values, dtype)
    if not rounded.is_finite():
        raise NonFiniteTensor(
            f"the adapter's rows of '{shown(item.name)}' are too large for {dtype.name}",
            tensor=shown(item.name),
        )
    return rounded


def _check_copies(matched: Matched, read: Callable[[str], Tensor]) -> None:
    """Refuses an adapter that was trained on other values of the weights that it copied."""
    for name, copy in matched.copies.items():
        if not _same_values(copy, read(name)):
            raise BaseMismatch(
                f"the adapter holds '{shown(name)}' of its base, with other values than this base",
                hint="commit it on the base that it was trained on: deltavc base list",
                parameter=name,
            )


def _same_values(copy: Tensor, base: Tensor) -> bool:
    """Tells whether a copy has the base's values, perhaps rounded to the dtype loaded."""
    if copy.shape != base.shape:
        return False
    if copy.dtype is base.dtype:
        return copy.same_bits(base)
    if not (copy.dtype.arithmetic and base.dtype.arithmetic and base.is_finite()):
        return False
    narrower = (
        copy.dtype.mantissa < base.dtype.mantissa or copy.dtype.exponent < base.dtype.exponent
    )
    for at in range(0, copy.count, COMPARE_STEP):
        part = slice(at, at + COMPARE_STEP)
        expected = Tensor(base.dtype, (base.bits[part].size,), base.bits[part])
        if narrower:
            expected = _rounded(expected, copy.dtype)
        found = Tensor(copy.dtype, expected.shape, copy.bits[part])
        if not np.array_equal(found.to_float64(), expected.to_float64()):
            return False
    return True


def _rounded(tensor: Tensor, dtype: DType) -> Tensor:
    """Returns a finite tensor rounded to a dtype, to nearest, ties to even."""
    numbers = tensor.to_float64().reshape(-1)
    if dtype.name == "F64":
        return Tensor(dtype, tensor.shape, numbers.view(dtype.bits))
    return Tensor(dtype, tensor.shape, round_sticky(numbers, np.zeros_like(numbers), dtype))
