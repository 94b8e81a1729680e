"""Laws of three-way merging on vectors alone, over random versions."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from deltavc.delta.threeway import EQUAL, Standing, side_name, split, sum_terms
from deltavc.delta.vector import Vector, add_terms
from deltavc.ids import BaseId, DeltaId, ObjectId

BASE = BaseId(ObjectId("b" * 64))
IDS = [DeltaId(ObjectId(digit * 64)) for digit in "123456"]
A, B, C, X, Y, Z = IDS
coefficients = st.fractions(-3, 3, max_denominator=5).filter(bool)
terms = st.dictionaries(st.sampled_from(IDS), coefficients, max_size=3)


def vectors(names: str = "pqrs") -> st.SearchStrategy[Vector]:
    params = st.dictionaries(
        st.sampled_from(names),
        st.dictionaries(st.sampled_from(IDS), coefficients, min_size=1, max_size=3),
        max_size=4,
    )
    return st.builds(lambda p: Vector(BASE, dict(sorted(p.items()))), params)


def one(**params: DeltaId | tuple[DeltaId, ...]) -> Vector:
    """A vector with coefficient 1 for each delta named."""
    return Vector(
        BASE,
        {
            name: dict.fromkeys((ids,) if isinstance(ids, str) else ids, Fraction(1))
            for name, ids in params.items()
        },
    )


def merged(base: Vector, *sides: Vector) -> Vector:
    """The merge, conflicts by sum."""
    found = split(base, sides)
    params = {n: dict(s.terms) for n, s in found.standings.items() if s.terms}
    for name in found.conflicts:
        total = sum_terms(base.params.get(name, {}), [s.params.get(name, {}) for s in sides])
        if total:
            params[name] = total
    return Vector(BASE, dict(sorted(params.items())))


@settings(max_examples=60, deadline=None)
@given(vectors(), vectors(), vectors())
def test_the_table(base: Vector, ours: Vector, theirs: Vector) -> None:
    assert split(base, [ours, ours]).conflicts == []
    assert merged(base, ours, ours) == ours  # changed equally: once
    assert merged(base, ours, base) == ours  # changed on one side: that side, at full strength
    assert merged(base, base, theirs) == theirs
    assert merged(base, ours, theirs) == merged(base, theirs, ours)
    found = split(base, [ours, theirs])
    for name in found.conflicts:  # each conflict is one: three different values
        stands = {Standing.of(v, name) for v in (base, ours, theirs)}
        assert len(stands) == 3


@settings(max_examples=60, deadline=None)
@given(vectors("pq"), vectors("pq"), vectors("rs"))
def test_disjoint_changes_commute_and_associate(base: Vector, ours: Vector, other: Vector) -> None:
    theirs = Vector(BASE, {**base.params, **other.params})
    third = Vector(BASE, {**base.params, "t": {A: Fraction(1)}})
    assert split(base, [ours, theirs, third]).conflicts == []
    every = {
        str(merged(base, merged(base, a, b), c)) for a, b, c in permutations((ours, theirs, third))
    } | {str(merged(base, *order)) for order in permutations((ours, theirs, third))}
    assert len(every) == 1


@settings(max_examples=80, deadline=None)
@given(terms, st.lists(terms, min_size=2, max_size=4))
def test_sums_do_not_depend_on_order(base, sides) -> None:  # type: ignore[no-untyped-def]
    sums = {tuple(sorted(sum_terms(base, order).items())) for order in permutations(sides)}
    assert len(sums) == 1


@settings(max_examples=60, deadline=None)
@given(terms, terms, terms)
def test_unshared_changes_add_up(base, one_change, other) -> None:  # type: ignore[no-untyped-def]
    mine = {oid: c for oid, c in one_change.items() if oid in IDS[:3]}
    yours = {oid: c for oid, c in other.items() if oid in IDS[3:]}
    ours, theirs = add_terms((1, base), (1, mine)), add_terms((1, base), (1, yours))
    if (set(ours) & set(base) and set(theirs) & set(base)) or not base:
        assert sum_terms(base, [ours, theirs]) == add_terms((1, base), (1, mine), (1, yours))


def test_what_reached_both_sides_counts_once() -> None:
    base, picked = one(p=X), one(p=(X, A))
    assert merged(base, picked, one(p=(X, A, B))) == one(p=(X, A, B))
    assert split(base, [picked, one(p=(X, A, B))]).outcomes == {"p": "theirs"}
    assert merged(base, one(p=(X, A, C)), one(p=(X, A, B))) == one(p=(X, A, B, C))
    assert split(base, [picked, picked]).outcomes == {"p": EQUAL}


def test_both_committed_anew_share_what_they_were_trained_from() -> None:
    """Checkpoints trained further from X hold X: A + B would count it twice."""
    found = sum_terms(*(v.params["p"] if i == 0 else [w.params["p"] for w in v]
                        for i, v in enumerate((one(p=X), (one(p=A), one(p=B))))))  # fmt: skip
    assert found == {A: 1, B: 1, X: -1}
    three = sum_terms({X: Fraction(1)}, [{A: Fraction(1)}, {B: Fraction(1)}, {C: Fraction(1)}])
    assert three == {A: 1, B: 1, C: 1, X: -2}
    stacked = sum_terms({X: Fraction(1)}, [{A: Fraction(1)}, {X: Fraction(1), B: Fraction(1)}])
    assert stacked == {A: 1, B: 1}
    first = sum_terms({X: Fraction(1)}, [{A: Fraction(1)}, {B: Fraction(1)}])
    assert sum_terms({X: Fraction(1)}, [first, {C: Fraction(1)}]) == three


def test_both_take_the_same_back() -> None:
    base = one(p=(X, Y))
    assert merged(base, one(p=Y), one(p=(Y, B))) == one(p=(Y, B))
    assert merged(base, one(), one()) == one()
    assert merged(base, one(), one(p=(X, Y, Z))) == one(p=Z)


def test_names_of_sides() -> None:
    assert [side_name(i, 2) for i in range(2)] == ["ours", "theirs"]
    assert [side_name(i, 3) for i in range(3)] == ["ours", "theirs:1", "theirs:2"]


def test_files_removed_tensors_and_shapes() -> None:
    base = Vector(BASE, {}, {"file:a": "1", "file:b": "1", "attachment:x": "1"})
    ours = Vector(BASE, {}, {"file:a": "2", "file:b": "2", "attachment:x": "2", "removed:p": "1"})
    theirs = Vector(
        BASE, {"p": {A: Fraction(1)}}, {"file:a": "1", "file:b": "3", "attachment:x": "3"}
    )
    found = split(base, [ours, theirs])
    assert found.meta == {"file:a": "2", "attachment:x": "2"}
    assert found.meta_conflicts == ["file:b"]
    assert found.conflicts == ["p"]  # removed on one side, changed on the other
    shaped = Vector(BASE, {"p": {B: Fraction(1)}}, {"shape:p": "F32:2,2"})
    found = split(Vector(BASE), [shaped, Vector(BASE)])
    assert found.standings["p"].shape == "F32:2,2"
