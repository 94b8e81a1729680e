"""The laws of vectors alone: sums and differences of random versions, without a tensor."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta.vector import Vector, add_terms, shift
from deltavc.errors import BaseMismatch, MergeConflict, ObjectCorrupt
from deltavc.ids import BaseId, DeltaId, ObjectId
from deltavc.records import canonical
from deltavc.records.model import Manifest

BASE = BaseId(ObjectId("b" * 64))
IDS = [DeltaId(ObjectId(digit * 64)) for digit in "123456"]
coefficients = st.fractions(-3, 3, max_denominator=9).filter(bool)
terms = st.dictionaries(st.sampled_from(IDS), coefficients, min_size=1, max_size=4)
vectors = st.builds(
    lambda params: Vector(BASE, dict(sorted(params.items()))),
    st.dictionaries(st.sampled_from("pqrs"), terms, max_size=4),
)
EMPTY = Vector(BASE)


@settings(max_examples=40, deadline=None)
@given(vectors, vectors, vectors, vectors)
def test_sums_and_differences(a: Vector, b: Vector, c: Vector, d: Vector) -> None:
    assert shift(a, a, b) == b  # a revert of what HEAD stands on
    assert shift(a, b, b) == a  # no change is none
    assert shift(shift(a, b, c), c, b) == a  # revert, then pick it again
    assert shift(shift(a, EMPTY, b), EMPTY, c) == shift(shift(a, EMPTY, c), EMPTY, b)
    assert shift(shift(a, b, c), c, d) == shift(a, b, d)  # two changes in a row are one
    assert shift(shift(a, b, c), d, a) == shift(shift(a, d, a), b, c)  # any order


@settings(max_examples=30, deadline=None)
@given(vectors)
def test_a_manifest_writes_a_vector_down(vector: Vector) -> None:
    manifest = vector.to_manifest()
    read = canonical.decode(canonical.encode(manifest), Manifest)
    assert Vector.from_manifest(read) == vector
    assert canonical.encode(Vector.from_manifest(read).to_manifest()) == canonical.encode(manifest)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(coefficients, terms), max_size=4), st.permutations(range(4)))
def test_terms_in_any_order(
    weighted: list[tuple[Fraction, dict[DeltaId, Fraction]]], order
) -> None:  # type: ignore[no-untyped-def]
    mixed = [weighted[i] for i in order if i < len(weighted)]
    total = add_terms(*weighted)
    assert total == add_terms(*mixed)
    assert list(total) == list(add_terms(*mixed))
    assert all(total.values())
    for oid in IDS:
        assert total.get(oid, 0) == sum(w * t.get(oid, 0) for w, t in weighted)


def test_tenths_cancel() -> None:
    tenth = {IDS[0]: Fraction(1, 10)}
    assert add_terms((1, tenth), (2, tenth), (-3, tenth)) == {}


def test_other_bases_and_both_sides() -> None:
    other = Vector(BaseId(ObjectId("c" * 64)))
    with pytest.raises(BaseMismatch):
        shift(EMPTY, EMPTY, other)
    one, two = Vector(BASE, {}, {"file:a": "1"}), Vector(BASE, {}, {"file:a": "2"})
    with pytest.raises(MergeConflict, match="file:a"):
        shift(one, EMPTY, two)
    assert shift(one, EMPTY, one) == one
    kept = shift(
        Vector(BASE, {}, {"attachment:x": "1"}), EMPTY, Vector(BASE, {}, {"attachment:x": "2"})
    )
    assert kept.meta == {"attachment:x": "1"}


@pytest.mark.parametrize("text", ["0", "2/4", "1/0", "0.5", "", "1/1", "+1", "x"])
def test_a_malformed_coefficient_is_corruption(text: str) -> None:
    with pytest.raises(ObjectCorrupt):
        Vector.from_manifest(Manifest(BASE, {"p": {IDS[0]: text}}))
