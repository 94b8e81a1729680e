"""Scaled, rotated and factored kinds: bits against rational arithmetic, laws, bodies, bad input."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltavc.delta import kinds
from deltavc.delta.body import blobs_of, from_body
from deltavc.delta.compare import compare, norm
from deltavc.delta.kinds import Delta
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.tensor import DTYPES, Tensor
from deltavc.errors import (
    DeltavcError,
    NonFiniteTensor,
    ObjectCorrupt,
    ShapeMismatch,
    UnsupportedFormat,
)
from deltavc.ids import BlobId, ObjectId

from .scaled_definition import KINDS, Sampler, change, expected  # type: ignore[import-not-found]

seeds = st.integers(0, 2**32)
relaxed = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
ONE = Fraction(1)


def body(delta: Delta) -> memoryview:
    return memoryview(b"".join(bytes(memoryview(part).cast("B")) for part in delta.parts()))


def f32(values: Any) -> Tensor:
    return Tensor.from_array(np.asarray(values, dtype=np.float32))


def rebuilt(base: Tensor, *terms: tuple[Delta, Fraction]) -> list[int]:
    return Rebuild(base, [Term(d, c) for d, c in terms], name="w").tensor().bits.tolist()


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
@relaxed
def test_one_delta_gives_the_bits_of_its_definition(kind: str, seed: int) -> None:
    sampler = Sampler(seed)
    base = sampler.base(kind)
    delta = sampler.delta(kind, base.shape)
    coefficient = sampler.coefficient()
    assert rebuilt(base, (delta, coefficient)) == expected(base, [(delta, coefficient)])


@given(seed=seeds, kinds_=st.lists(st.sampled_from(KINDS), min_size=2, max_size=3))
@settings(relaxed, max_examples=60)
def test_sums_of_kinds_in_any_order(seed: int, kinds_: list[str]) -> None:
    sampler = Sampler(seed)
    base = sampler.base(*kinds_)
    terms = [(sampler.delta(kind, base.shape), sampler.coefficient()) for kind in kinds_]
    wanted = expected(base, terms)
    for order in itertools.islice(itertools.permutations(terms), 2):
        assert rebuilt(base, *order) == wanted


@given(seed=seeds, kind=st.sampled_from(KINDS))
@settings(relaxed, max_examples=30)
def test_what_is_taken_back_leaves_the_base(seed: int, kind: str) -> None:
    sampler = Sampler(seed)
    base = sampler.base(kind)
    delta, other = sampler.delta(kind, base.shape), sampler.delta("dora", base.shape)
    there = [(delta, ONE), (other, Fraction(1, 3)), (delta, Fraction(-1, 3))]
    back = [(other, Fraction(-1, 3)), (delta, Fraction(-2, 3))]
    assert rebuilt(base, *there, *back) == base.bits.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_gives_back_the_delta(kind: str) -> None:
    delta = Sampler(5).delta(kind, (6, 4))
    again = from_body(body(delta))
    assert again.id() == delta.id()
    assert {n: (t.dtype, t.shape, bytes(t.raw())) for n, t in again.tensors().items()} == {
        n: (t.dtype, t.shape, bytes(t.raw())) for n, t in delta.tensors().items()
    }
    assert blobs_of(bytes(body(delta))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_those_of_the_change(kind: str) -> None:
    sampler = Sampler(9)
    base = sampler.gaussian((6, 8))
    delta = sampler.delta(kind, base.shape)
    exact = change(delta, base).astype(np.float64)
    assert norm([(delta, ONE)], base) == pytest.approx(np.linalg.norm(exact), rel=1e-9)
    low = kinds.lowrank(f32(np.ones((6, 1))), f32(np.ones((1, 8))), ONE, shape=(6, 8))
    found = compare([(delta, ONE)], [(low, ONE)], base)
    assert found.norm_diff == pytest.approx(np.linalg.norm(1.0 - exact), rel=1e-9)


def test_a_bias_is_scaled_as_one_column() -> None:
    base, v = f32([1.5, -2.0, 0.25]), f32([2.0, 0.5, -4.0])
    result = Rebuild(base, [Term(kinds.rowscale(v, Fraction(-1), shape=(3,)), ONE)]).tensor()
    assert result.to_float64().tolist() == [3.0, -1.0, -1.0]


def test_scales_of_a_convolutions_input_channels() -> None:
    base = f32(np.arange(1, 13).reshape(2, 3, 2))
    delta = kinds.colscale(f32([[[1.0]], [[2.0]], [[3.0]]]), Fraction(-1), shape=(2, 3, 2))
    result = Rebuild(base, [Term(delta, ONE)]).tensor().to_float64()
    assert np.array_equal(result, base.to_float64() * np.array([1.0, 2.0, 3.0])[None, :, None])


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_agree_with_the_judge_whatever_the_blocks(kind: str, name: str) -> None:
    """Every element of a few tiles, against exact sums; 1 and 2 threads, odd pieces."""
    sampler = Sampler(3)
    shape = (96, 48)
    values = sampler.gaussian(shape, 0.02)
    dtype = DTYPES[name]
    bits = values.bits if name == "F32" else (values.bits >> 16).astype(np.uint16)
    if name == "F16":
        bits = values.to_float64().astype(np.float16).reshape(-1).view(np.uint16)
    base = Tensor(dtype, shape, np.ascontiguousarray(bits, dtype=dtype.bits))
    factors = kinds.lowrank(
        sampler.gaussian((96, 2), 0.1), sampler.gaussian((2, 48)), ONE, shape=shape
    )
    terms = [Term(tame(sampler, kind, shape), Fraction(1, 3)), Term(factors, ONE)]
    for vector in (terms, terms[:1], [Term(terms[0].delta, ONE)]):
        rebuild = Rebuild(base, vector, name="w")
        whole = rebuild.tensor()
        form = rebuild._form
        assert form is not None
        assert np.array_equal(whole.bits, form.settle(np.arange(base.count)))
        assert rebuild.tensor(threads=2).same_bits(whole)
        pieces = np.empty_like(whole.bits)
        for start in range(0, 96, 7):
            stop = min(start + 7, 96)
            rebuild.compute(start, stop, pieces[start * 48 : stop * 48])
        assert np.array_equal(pieces, whole.bits)


def tame(sampler: Sampler, kind: str, shape: tuple[int, int]) -> Delta:
    """A delta of ordinary size."""
    rows, columns = shape
    g = sampler.gaussian
    if kind in ("rowscale", "colscale"):
        count = rows if kind == "rowscale" else columns
        v = f32(1 + g((count,), 0.1).to_float64())
        make = kinds.rowscale if kind == "rowscale" else kinds.colscale
        return make(v, Fraction(-1), shape=shape)
    if kind == "oft":
        return kinds.rightmul("oft", {"r": g((columns // 8, 28), 0.05)}, shape=shape)
    if kind == "boft":
        s = f32(1 + g((rows,), 0.1).to_float64())
        return kinds.rightmul("boft", {"r": g((2, columns // 4, 4, 4), 0.1), "s": s}, shape=shape)
    if kind == "hra":
        return kinds.rightmul("hra", {"u": g((columns, 3))}, shape=shape)
    b, a = g((rows, 3), 0.05), g((3, columns))
    if kind == "lowrank":
        return kinds.lowrank(b, a, Fraction(2), shape=shape)
    if kind == "dora":
        gains = 1 + g((rows,), 0.1).to_float64()
        return kinds.dora(b, a, f32(gains), gains, Fraction(2), shape=shape)
    tensors = {
        "hadamard": {"w1a": b, "w1b": a, "w2a": g((rows, 2)), "w2b": g((2, columns))},
        "adalora": {"b": b, "a": a, "e": g((3, 1))},
        "vera": {"b": b, "a": a, "lambda_b": g((rows,)), "lambda_d": g((3,))},
        "kron": {"w1": g((8, 6)), "w2a": g((12, 2), 0.1), "w2b": g((2, 8), 0.1)},
    }[kind]
    return kinds.product(kind, tensors, Fraction(1, 2), shape=shape)


def test_weights_that_are_not_finite_keep_their_bits_and_count_as_zero() -> None:
    base = f32([[1.0, np.inf, 2.0, 3.0]])
    delta = kinds.rightmul("oft", {"r": f32([[0.5], [0.25]])}, shape=(1, 4))
    with np.errstate(all="ignore"):
        result = Rebuild(base, [Term(delta, ONE)]).tensor()
    assert result.bits.tolist() == expected(base, [(delta, ONE)])
    assert result.to_float64()[0, 1] == np.inf
    assert np.isfinite(result.to_float64()[0, [0, 2, 3]]).all()


# shared tensors ------------------------------------------------------------------


def test_shared_tensors_are_referred_to_and_put_back() -> None:
    shared = {"a": f32(np.arange(12).reshape(2, 6)), "b": f32(np.arange(10).reshape(5, 2))}
    own = {"lambda_b": f32([1, 2, 3]), "lambda_d": f32([1, -1])}
    ids = {"a": BlobId(ObjectId("0" * 63 + "a")), "b": BlobId(ObjectId("0" * 63 + "b"))}
    delta = kinds.product("vera", shared | own, ONE, shape=(3, 4), shared=ids)
    assert {stream.name for stream in delta.streams} == {"lambda_b", "lambda_d"}
    stored = from_body(body(delta))
    assert stored.blobs == ids
    assert sorted(blobs_of(bytes(body(delta)))) == sorted(ids.values())
    with pytest.raises(ObjectCorrupt, match="lacks its stream 'a'"):
        stored.matrices()
    again = stored.with_blobs({name: tensor.raw() for name, tensor in shared.items()})
    base = f32(np.ones((3, 4)))
    assert rebuilt(base, (again, ONE)) == expected(base, [(delta, ONE)])
    with pytest.raises(ObjectCorrupt, match="does not fit its shape"):
        stored.with_blobs({"a": b"\0" * 4, "b": shared["b"].raw()})


# bad input -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_headers_that_do_not_fit_are_refused(kind: str) -> None:
    delta = Sampler(2).delta(kind, (6, 4))
    fields = {name: getattr(delta.header, name) for name in delta.header.__struct_fields__}
    for shape in ((7, 5), (), (-6, -4)):
        wrong = Delta(type(delta.header)(**(fields | {"shape": shape})), delta.streams)
        with pytest.raises(ObjectCorrupt):
            from_body(body(wrong))
    if "tensors" in fields:
        first = min(fields["tensors"])
        for change_ in ({"dtype": "I32"}, {"dtype": "X"}, {"shape": (1, 1, 1, 7)}, {"blob": "zz"}):
            info = fields["tensors"][first]
            parts = {name: getattr(info, name) for name in info.__struct_fields__} | change_
            tensors = fields["tensors"] | {first: type(info)(**parts)}
            wrong = Delta(type(delta.header)(**(fields | {"tensors": tensors})), delta.streams)
            with pytest.raises(ObjectCorrupt):
                from_body(body(wrong))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_is_not_there_or_another(kind: str) -> None:
    delta = Sampler(2).delta(kind, (6, 4))
    for base in (None, f32(np.ones((4, 6)))):
        with pytest.raises(ShapeMismatch):
            Rebuild(base, [Term(delta, ONE)], name="w")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    base = f32(np.ones((2, 2)))
    with pytest.raises(NonFiniteTensor):
        Rebuild(base, [Term(kinds.rowscale(f32([1, bad]), ONE, shape=(2, 2)), ONE)], name="w")
    with pytest.raises(NonFiniteTensor):
        kinds.rightmul("oft", {"r": f32([[bad]])}, shape=(2, 2))
    tensors = {"b": f32([[bad], [1]]), "a": f32([[1, 1]]), "e": f32([[1]])}
    with pytest.raises(NonFiniteTensor):
        kinds.product("adalora", tensors, ONE, shape=(2, 2))


def wide(*shape: int) -> Tensor:
    return Tensor.from_array(np.full(shape, 1 / 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: kinds.product("tucker", {}, ONE, shape=(2, 2)),
        lambda: kinds.rightmul("givens", {"r": f32([[1.0]])}, {"coft": 1}, shape=(2, 2)),
        lambda: kinds.rightmul("oft", {"r": f32([[1.0]])}, {"coft": 1}, shape=(2, 2)),
        lambda: kinds.rightmul("oft", {"r": f32([[1.0]])}, shape=(2, 2), transposed=True),
        lambda: kinds.rightmul("hra", {"u": f32([[0.0], [0.0]])}, shape=(2, 2)),
        lambda: kinds.rightmul("oft", {"r": f32([[1e20]])}, {"terms": 3}, shape=(2, 2)),
        lambda: kinds.product(
            "adalora", {"b": wide(2, 1), "a": wide(1, 2), "e": wide(1, 1)}, ONE, shape=(2, 2)
        ),
        lambda: kinds.product(
            "kron", {"w1": f32([[1.0]]), "w2": f32([[1.0]])}, ONE, shape=(1, 1), transposed=True
        ),
    ],
)  # fmt: skip
def test_what_has_no_compact_form_is_refused_with_a_hint(make: Any) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        make()
    assert caught.value.hint


@pytest.mark.parametrize("form", ["hadamard", "vera", "adalora", "kron"])
def test_tensors_of_another_form_are_refused(form: str) -> None:
    with pytest.raises(DeltavcError):
        kinds.product(form, {"x": f32([[1.0]])}, ONE, shape=(1, 1))
