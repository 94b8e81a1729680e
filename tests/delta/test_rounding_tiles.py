"""The fast path at size: samples against Fraction arithmetic, crowds of halfway cases, state."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from deltavc.delta import kinds
from deltavc.delta.exact import code, finish, residual
from deltavc.delta.predict import Same
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.rounding_arithmetic import flushes_subnormals, plain_arithmetic
from deltavc.delta.rounding_form import Factors, LinearForm, Plane
from deltavc.delta.rounding_tiles import TileKernel
from deltavc.delta.tensor import DTYPES, Tensor

LIMITS = {"BF16": (8, -126), "F16": (11, -14), "F32": (24, -126)}
Array = np.ndarray[Any, Any]


def nearest(value: Fraction, name: str) -> float:
    """The nearest number of a dtype; values here are far from overflow."""
    digits, smallest = LIMITS[name]
    exponent = smallest
    if value:
        exponent = max(math.frexp(float(value))[1] - 1, smallest)
    step = Fraction(2) ** (exponent - digits + 1)
    return float(round(value / step) * step)


def cast(values: Array, name: str) -> Tensor:
    """Values in a dtype, rounded by torch."""
    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[name]
    narrow = torch.from_numpy(np.ascontiguousarray(values, np.float64)).to(kind)
    size = DTYPES[name].size
    bits = narrow.view({2: torch.int16, 4: torch.int32}[size]).numpy().reshape(-1)
    return Tensor(DTYPES[name], values.shape, bits.view(DTYPES[name].bits))


def form(base: Tensor, terms: list[tuple[Fraction, Array, Array]]) -> LinearForm:
    return LinearForm(
        base, [Plane(Fraction(1), base)], [Factors(c, b, a, tame=True) for c, b, a in terms]
    )


def low_rank(b: Tensor, a: Tensor, scale: Fraction) -> kinds.Delta:
    return kinds.lowrank(b, a, scale, shape=(b.shape[0], a.shape[1]))


@pytest.mark.parametrize(
    ("name", "factors"),
    [("BF16", "BF16"), ("BF16", "F32"), ("F16", "F32"), ("F32", "F32"), ("F32", "BF16")],
)
def test_random_weights_and_what_float32_would_have_made_of_them(name: str, factors: str) -> None:
    random = np.random.default_rng(11)
    rows, columns, rank = 1024, 1000, 16
    base = cast(random.normal(0, 0.02, (rows, columns)), name)
    b = cast(random.normal(0, 0.02, (rows, rank)), factors)
    a = cast(random.normal(0, 0.02, (rank, columns)), factors)
    scale = Fraction(5, 3)
    result = Rebuild(base, [Term(low_rank(b, a, scale), Fraction(1))]).tensor()

    w, left, right = base.to_float64(), b.to_float64(), a.to_float64()
    plain = (left * (5 / 3)).astype(np.float32) @ right.astype(np.float32) + w.astype(np.float32)
    single = cast(plain.astype(np.float64), name)
    differs = np.flatnonzero(single.bits != result.bits)
    # Rounding twice, or accumulating in float32, goes wrong somewhere among a million elements.
    assert differs.size > 0
    values = result.to_float64().reshape(-1)
    sample = np.concatenate([random.integers(0, rows * columns, 1500), differs[:500]])
    for element in sample.tolist():
        i, j = divmod(element, columns)
        pairs = zip(left[i].tolist(), right[:, j].tolist(), strict=True)
        change = scale * sum(Fraction(x) * Fraction(y) for x, y in pairs)
        assert values[element] == nearest(Fraction(float(w[i, j])) + change, name)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_a_crowd_of_halfway_cases_is_not_settled_one_by_one(name: str) -> None:
    """Short numbers: one sum in nine is a tie, and all of them are exact in float64."""
    random = np.random.default_rng(12)
    digits = LIMITS[name][0]
    rows, columns = 512, 1024
    whole = random.integers(2 ** (digits - 1), 2**digits, (rows, columns)).astype(np.float64)
    base = cast(whole, name)
    b = np.repeat(random.integers(0, 2, (rows, 1)).astype(np.float64), 2, axis=1)
    a = random.choice([0.25, -0.25, 2.0**-20], (2, columns))
    out = np.empty(rows * columns, base.dtype.bits)
    with plain_arithmetic():
        settled = TileKernel(form(base, [(Fraction(1), b, a)])).compute(0, rows, out)
    assert settled < rows * columns / 1000
    exact = base.to_float64() + b @ a  # integers below 2**24 and multiples of 2**-20: exact
    found = Tensor(base.dtype, base.shape, out).to_float64()
    above = np.where(exact < 2.0**digits, 1.0, 2.0)
    step = np.where(exact < 2.0 ** (digits - 1), 0.5, above)
    assert np.array_equal(found, np.round(exact / step) * step)  # NumPy rounds ties to even
    assert np.count_nonzero(np.abs(exact - found) == step / 2) > rows * columns / 10


def test_many_true_ties_that_float64_cannot_hold_take_seconds() -> None:
    """Thirds of multiples of three: each sum is a tie, and no float64 term says so exactly."""
    rows, columns = 500, 400
    random = np.random.default_rng(13)
    base = cast(random.integers(128, 256, (rows, columns)).astype(np.float64), "BF16")
    b = cast(random.choice([1.5, 4.5], (rows, 1)), "BF16")
    ones = cast(np.ones((1, columns)), "BF16")
    started = time.process_time()
    result = Rebuild(base, [Term(low_rank(b, ones, Fraction(1)), Fraction(1, 3))]).tensor()
    # 200,000 ties; integers alone would take 10 s, so this is far from a race with the clock.
    assert time.process_time() - started < 5
    exact = base.to_float64() + b.to_float64() / 3
    step = np.where(exact < 256, 1.0, 2.0)
    assert np.array_equal(result.to_float64(), np.round(exact / step) * step)


@pytest.mark.parametrize("name", ["BF16", "F16", "F32"])
def test_averages_of_checkpoints(name: str) -> None:
    random = np.random.default_rng(14)
    tensors = [cast(random.normal(0, 0.02, (300, 700)), name) for _ in range(3)]
    base, first, second = tensors
    same = Same(base.dtype)
    terms = [
        Term(finish(code(base, same, residual(base, new, same)), new, "0" * 64), Fraction(1, 2))
        for new in (first, second)
    ]
    result = Rebuild(base, terms).tensor()
    mean = (first.to_float64() + second.to_float64()) / 2  # exact: exponents are close
    assert result.same_bits(cast_exactly(mean, name))


def cast_exactly(values: Array, name: str) -> Tensor:
    """Rounds float64 once, by multiples of the local step."""
    digits, smallest = LIMITS[name]
    exponent = np.maximum(np.frexp(values)[1] - 1, smallest)
    step = np.ldexp(1.0, exponent - digits + 1)
    return cast(np.round(values / step) * step, name)


# the state of the thread ---------------------------------------------------------------


@pytest.fixture
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.fail("this processor cannot flush subnormal numbers")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def subnormal_case() -> tuple[Tensor, list[Term]]:
    base = Tensor(DTYPES["F32"], (1, 3), np.array([1, 0x007FFFFF, 0x80000003], "<u4"))
    b = Tensor.from_array(np.array([[2.0**-75]], np.float32))
    a = Tensor.from_array(np.array([[2.0**-74, 2.0**-75, 2.0**-74]], np.float32))
    return base, [Term(low_rank(b, a, Fraction(1)), Fraction(1))]


@pytest.mark.usefixtures("flushing")
def test_subnormals_survive_a_thread_that_flushes_them() -> None:
    assert flushes_subnormals()
    base, terms = subnormal_case()
    result = Rebuild(base, terms).tensor()
    assert result.bits.tolist() == [2, 0x00800000, 0x80000002]
    assert flushes_subnormals(), "the caller's own setting is put back"
    with plain_arithmetic():
        assert not flushes_subnormals()


@pytest.mark.parametrize("outside", [1, 2, 3])
def test_torch_threads_are_put_back(outside: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(outside)
    seen: list[int] = []
    try:
        base, terms = subnormal_case()
        entered, leave = threading.Barrier(3), threading.Event()

        def work() -> None:
            with plain_arithmetic():
                seen.append(torch.get_num_threads())
                entered.wait()
                leave.wait()

        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        entered.wait()
        Rebuild(base, terms).tensor(threads=2)
        leave.set()
        for worker in workers:
            worker.join()
        assert seen == [1, 1]
        assert torch.get_num_threads() == outside
        fresh: list[int] = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert fresh == [outside], "threads that start later are not left with one"
    finally:
        torch.set_num_threads(before)
