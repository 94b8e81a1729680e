"""Versions as vectors: formal linear combinations of deltas, added and subtracted exactly.

A version maps each parameter to {delta id: rational coefficient}. Equal ids
cancel exactly and a zero coefficient leaves the map, so taking something away
gives back precisely what was there before. What is not a parameter (files,
removed tensors, the name prefix, attachments) has no sum; it follows the
three-way rule: changed on one side, take that side; changed differently on
both, a conflict (but for attachments, which only tell where a version came from).

Nothing here looks at a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from deltavc.errors import BaseMismatch, MergeConflict, ObjectCorrupt
from deltavc.ids import BaseId, BlobId, DeltaId, ObjectId, short
from deltavc.records.model import Manifest, fraction_from_text, fraction_to_text

__all__ = [
    "ATTACHMENT",
    "FILE",
    "PREFIX",
    "REMOVED",
    "SHAPE",
    "Terms",
    "Vector",
    "add_terms",
    "form_from_text",
    "form_to_text",
    "shift",
]

Terms = Mapping[DeltaId, Fraction]

FILE, REMOVED, ATTACHMENT, SHAPE, PREFIX = "file:", "removed:", "attachment:", "shape:", "prefix"


@dataclass(frozen=True)
class Vector:
    """A version as a vector over one base.

    Attributes:
        base: The base's fingerprint.
        params: Parameter to terms; no zero coefficient and no empty map.
        meta: What does not add up, under flat keys: ``file:PATH``,
            ``shape:NAME``, ``removed:NAME``, ``attachment:NAME``, ``prefix``.
    """

    base: BaseId
    params: Mapping[str, Terms] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Vector:
        """Returns the vector that a manifest writes down.

        Args:
            manifest: The manifest.

        Returns:
            The vector.

        Raises:
            ObjectCorrupt: A coefficient is not a non-zero rational in lowest terms.
        """
        try:
            params = {
                name: {oid: fraction_from_text(text) for oid, text in terms.items()}
                for name, terms in manifest.params.items()
            }
        except (ValueError, ZeroDivisionError) as error:
            raise ObjectCorrupt(f"a manifest holds a malformed coefficient: {error}") from error
        if not all(terms and all(terms.values()) for terms in params.values()):
            raise ObjectCorrupt("a manifest holds a zero coefficient or an empty parameter")
        meta = {FILE + path: blob for path, blob in manifest.files.items()}
        meta |= {SHAPE + name: form for name, form in manifest.shapes.items()}
        meta |= {REMOVED + name: "1" for name in manifest.removed}
        meta |= {ATTACHMENT + name: blob for name, blob in manifest.attachments.items()}
        if manifest.prefix:
            meta[PREFIX] = manifest.prefix
        return cls(manifest.base, params, meta)

    def to_manifest(self) -> Manifest:
        """Returns the manifest that writes this vector down; equal vectors give equal manifests."""
        part = _parts(self.meta)
        return Manifest(
            base=self.base,
            params={
                name: {oid: fraction_to_text(c) for oid, c in terms.items()}
                for name, terms in self.params.items()
            },
            shapes=part[SHAPE],
            removed=tuple(sorted(part[REMOVED])),
            files=part[FILE],
            prefix=self.meta.get(PREFIX, ""),
            attachments={n: BlobId(ObjectId(b)) for n, b in part[ATTACHMENT].items()},
        )

    def deltas(self) -> set[DeltaId]:
        """Returns the ids of all deltas that this version needs."""
        return {oid for terms in self.params.values() for oid in terms}

    def changed(self, other: Vector) -> list[str]:
        """Returns the sorted names of the parameters whose terms differ."""
        names = set(self.params) | set(other.params)
        return sorted(n for n in names if self.params.get(n) != other.params.get(n))


def form_to_text(dtype: str, shape: tuple[int, ...]) -> str:
    """Returns the written form of a dtype and shape: ``F32:2,384``."""
    return f"{dtype}:{','.join(map(str, shape))}"


def form_from_text(text: str) -> tuple[str, tuple[int, ...]]:
    """Reads a dtype and shape in their written form.

    Args:
        text: ``DTYPE:D0,D1,…``; a scalar has no dimension.

    Returns:
        Dtype name and shape.

    Raises:
        ObjectCorrupt: Not that form.
    """
    dtype, colon, dims = text.partition(":")
    try:
        shape = tuple(int(dim) for dim in dims.split(",")) if dims else ()
    except ValueError:
        colon = ""
    if not colon or form_to_text(dtype, shape) != text or any(dim < 0 for dim in shape):
        raise ObjectCorrupt(f"'{text[:40]}' is not a dtype and shape")
    return dtype, shape


def _parts(meta: Mapping[str, str]) -> dict[str, dict[str, str]]:
    parts: dict[str, dict[str, str]] = {FILE: {}, REMOVED: {}, ATTACHMENT: {}, SHAPE: {}}
    for key, value in meta.items():
        for kind, items in parts.items():
            if key.startswith(kind):
                items[key[len(kind) :]] = value
    return parts


def add_terms(*weighted: tuple[Fraction | int, Terms]) -> dict[DeltaId, Fraction]:
    """Returns Σ weight · terms; equal ids add up and zeros vanish.

    Args:
        *weighted: Pairs of weight and terms.

    Returns:
        The sum, in ascending order of ids so that equal sums look equal.
    """
    total: dict[DeltaId, Fraction] = {}
    for weight, terms in weighted:
        for oid, coefficient in terms.items():
            total[oid] = total.get(oid, Fraction(0)) + weight * coefficient
    return {oid: total[oid] for oid in sorted(total) if total[oid]}


def shift(head: Vector, before: Vector, after: Vector) -> Vector:
    """Returns head + (after − before), exactly.

    With ``before`` a commit and ``after`` its parent this is *revert*; the
    other way round it is *cherry-pick*.

    Args:
        head: Where to start.
        before: What is taken away.
        after: What is put in its place.

    Returns:
        The new vector.

    Raises:
        BaseMismatch: The three do not stand on one base.
        MergeConflict: A file, shape, removed tensor or prefix changed
            differently on both sides.
    """
    for other in (before, after):
        if other.base != head.base:
            raise BaseMismatch(
                f"the change was made on base {short(other.base)}, not on {short(head.base)}",
                expected=head.base,
                found=other.base,
            )
    params = dict(head.params)
    for name in before.changed(after):
        terms = add_terms(
            (1, head.params.get(name, {})),
            (-1, before.params.get(name, {})),
            (1, after.params.get(name, {})),
        )
        if terms:
            params[name] = terms
        else:
            params.pop(name, None)
    meta = _three_way(*(_unshaped(v) for v in (head, before, after)))
    return Vector(head.base, params, meta | _shapes(params, head, after, before))


def _unshaped(vector: Vector) -> dict[str, str]:
    return {key: value for key, value in vector.meta.items() if not key.startswith(SHAPE)}


def _shapes(params: Mapping[str, Terms], *vectors: Vector) -> dict[str, str]:
    """Returns the shapes that remaining parameters need; all that have one must agree on it."""
    shapes: dict[str, str] = {}
    for name in params:
        found = [v.meta[SHAPE + name] for v in vectors if SHAPE + name in v.meta]
        holders = [v for v in vectors if name in v.params]
        if found and len(set(found)) > 1:
            raise MergeConflict(
                f"'{name}' has another shape or dtype in what is taken away or put in its place",
                conflicts=[name],
                forms=sorted(set(found)),
            )
        if found and any(SHAPE + name in v.meta for v in holders):
            shapes[SHAPE + name] = found[0]
    return shapes


def _three_way(
    ours: Mapping[str, str], base: Mapping[str, str], theirs: Mapping[str, str]
) -> dict[str, str]:
    merged: dict[str, str] = {}
    conflicts: list[str] = []
    for key in _keys(ours, base, theirs):
        mine, old, new = ours.get(key), base.get(key), theirs.get(key)
        if new == old or mine == new:
            chosen = mine
        elif mine == old:
            chosen = new
        elif key.startswith(ATTACHMENT):
            chosen = mine  # provenance, not part of what the model is: HEAD's own stays
        else:
            conflicts.append(key)
            continue
        if chosen is not None:
            merged[key] = chosen
    if conflicts:
        shown = ", ".join(conflicts[:5]) + (" …" if len(conflicts) > 5 else "")
        raise MergeConflict(f"changed on both sides: {shown}", conflicts=conflicts)
    return merged


def _keys(*maps: Mapping[str, str]) -> Iterable[str]:
    return sorted({key for one in maps for key in one})
