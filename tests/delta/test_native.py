"""The kernel in C: its bits against Fraction arithmetic and the torch tiles, at every level."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deltavc.delta.native.build as native_build
from deltavc.delta import kinds, native
from deltavc.delta.rebuild import Rebuild, Term
from deltavc.delta.rounding_arithmetic import flushes_subnormals, plain_arithmetic
from deltavc.delta.rounding_form import Factors, LinearForm, Plane
from deltavc.delta.rounding_native import native_kernel, native_level
from deltavc.delta.rounding_tiles import TileKernel
from deltavc.delta.tensor import DTYPES, DType, Tensor

ROOT = Path(__file__).parents[2]
NAMES = ["BF16", "F16", "F32"]
# Without a C compiler there is one way only, and the same must hold for it: -1 is torch.
BEST = native_level()
LEVELS = [-1] if BEST is None else list(range(BEST + 1))
Array = np.ndarray[Any, Any]


def computed(form: LinearForm, level: int, blocks: list[int] | None = None) -> Array:
    """All rows by one kernel, in blocks of the given lengths."""
    kernel: Any = TileKernel(form) if level < 0 else native_kernel(form, level)
    assert kernel is not None
    out = np.empty(form.rows * form.columns, form.dtype.bits)
    row, lengths = 0, blocks or [form.rows]
    while row < form.rows:
        stop = min(row + lengths[0], form.rows)
        lengths = [*lengths[1:], lengths[0]]
        with plain_arithmetic():
            kernel.compute(row, stop, out[row * form.columns : stop * form.columns])
        row = stop
    return out


def sum_of(base: Tensor, *terms: tuple[Fraction, Array, Array]) -> LinearForm:
    planes = [Plane(Fraction(1), base)]
    return LinearForm(base, planes, [Factors(c, b, a, tame=True) for c, b, a in terms])


# the definition, independent of the code --------------------------------------------


def value(bits: int, dtype: DType) -> float:
    if dtype.name == "F16":
        return float(struct.unpack("<e", struct.pack("<H", bits))[0])
    wide = bits << 16 if dtype.name == "BF16" else bits
    return float(struct.unpack("<f", struct.pack("<I", wide))[0])


def nearest(exact: Fraction, dtype: DType) -> int:
    """The pattern nearest to a number that is not zero: by bisection among all patterns."""
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    sign = 1 << (8 * dtype.size - 1) if exact < 0 else 0
    size = abs(exact)
    low, high = 0, infinity  # values grow with patterns; infinity stands for the next power of two
    top = Fraction(2) ** (1 << (dtype.exponent - 1))

    def at(bits: int) -> Fraction:
        return top if bits == infinity else Fraction(value(bits, dtype))

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) <= size else (low, middle)
    below, above = size - at(low), at(high) - size
    up = above < below or (above == below and low & 1)
    return sign | (high if up else low)


def defined(base: Tensor, terms: list[tuple[Fraction, Array, Array]]) -> list[int]:
    _, columns = base.matrix_shape
    result = []
    for element, bits in enumerate(base.bits.tolist()):
        held = value(bits, base.dtype)
        i, j = divmod(element, columns)
        change = Fraction(0)
        for c, b, a in terms:
            pairs = zip(b[i].tolist(), a[:, j].tolist(), strict=True)
            change += c * sum(Fraction(x) * Fraction(y) for x, y in pairs)
        if not math.isfinite(held) or not change:
            result.append(bits)
        else:
            total = Fraction(held) + change
            result.append(nearest(total, base.dtype) if total else 0)
    return result


# material ------------------------------------------------------------------------------


def patterns(dtype: DType) -> st.SearchStrategy[int]:
    """Patterns of all kinds: zeros, subnormals, short numbers, the largest, infinity, NaN."""
    sign = 1 << (8 * dtype.size - 1)
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    one = ((1 << (dtype.exponent - 1)) - 1) << dtype.mantissa
    step = 1 << dtype.mantissa
    sizes = st.one_of(
        st.sampled_from([0, 1, 2, step, one, one + 1, infinity - 1, infinity, infinity + 1]),
        st.integers(one - 3 * step, one + 3 * step),
        st.integers(0, sign - 1),
    )
    return st.builds(lambda size, minus: size | (sign if minus else 0), sizes, st.booleans())


def factors(rows: int, columns: int) -> st.SearchStrategy[Array]:
    numbers = st.one_of(
        st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0**-8, 2.0**-9, 3 * 2.0**-10, 2.0**-24, 2.0**-75]),
        st.sampled_from([2.0**-140, 2.0**60, -(2.0**70), 2.0**127, 2.0**-149, 1 + 2.0**-23]),
        st.floats(-4, 4, width=32),
        st.floats(-4, 4),  # as products of several float32 are
    ).map(lambda x: x if abs(x) > 2.0**-250 else 0.0)
    flat = st.lists(numbers, min_size=rows * columns, max_size=rows * columns)
    return flat.map(lambda held: np.array(held).reshape(rows, columns))


scales = st.sampled_from([Fraction(1), Fraction(2), Fraction(-1, 2), Fraction(1, 3), Fraction(7)])


@st.composite
def cases(draw: Any) -> tuple[Tensor, list[tuple[Fraction, Array, Array]]]:
    dtype = DTYPES[draw(st.sampled_from(NAMES))]
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 19))
    held = draw(st.lists(patterns(dtype), min_size=rows * columns, max_size=rows * columns))
    terms = []
    for _ in range(draw(st.integers(1, 2))):
        rank = draw(st.integers(1, 9))
        scale, b, a = draw(scales), draw(factors(rows, rank)), draw(factors(rank, columns))
        terms.append((scale, b, a))
    return Tensor(dtype, (rows, columns), np.array(held, dtype.bits)), terms


@given(cases())
@settings(deadline=None, max_examples=80)
def test_hostile_sums_are_what_the_definition_says(
    case: tuple[Tensor, list[tuple[Fraction, Array, Array]]],
) -> None:
    base, terms = case
    expected = defined(base, terms)
    form = sum_of(base, *terms)
    for level in LEVELS:
        if level < 0 or native_kernel(form, level) is not None:  # else left to torch, by range
            assert computed(form, level).tolist() == expected, level


def weights(dtype: DType, rows: int, columns: int, seed: int) -> Tensor:
    """Weights as models have them, among them all sorts of special ones."""
    random = np.random.default_rng(seed)
    kind = getattr(torch, dtype.torch)
    plain = torch.from_numpy(random.normal(0, 0.02, rows * columns)).to(kind)
    bits = plain.view({2: torch.int16, 4: torch.int32}[dtype.size]).numpy().view(dtype.bits)
    special = random.integers(0, 1 << (8 * dtype.size), bits.size).astype(dtype.bits)
    zeros = random.choice([0, 1 << (8 * dtype.size - 1)], bits.size).astype(dtype.bits)
    which = random.random(bits.size)
    bits = np.where(which < 0.02, special, np.where(which > 0.98, zeros, bits))
    return Tensor(dtype, (rows, columns), bits)


def pair(rows: int, columns: int, rank: int, seed: int, *, short: bool) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    b, a = random.normal(0, 0.01, (rows, rank)), random.normal(0, 0.02, (rank, columns))
    kind = torch.bfloat16 if short else torch.float32
    b[random.random(rows) < 0.1] = 0  # rows without a change
    return tuple(torch.from_numpy(x).to(kind).double().numpy() for x in (b, a))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "columns", "rank"),
    [(1, 1, 1), (3, 5, 2), (33, 31, 7), (9, 515, 16), (70, 129, 65), (130, 200, 300), (41, 64, 3)],
)
@pytest.mark.parametrize("short", [True, False])
def test_odd_shapes_and_ranks_give_the_bits_of_torch(
    name: str, rows: int, columns: int, rank: int, short: bool
) -> None:
    base = weights(DTYPES[name], rows, columns, seed=rank)
    form = sum_of(base, (Fraction(2), *pair(rows, columns, rank, 1, short=short)))
    expected = computed(form, -1)
    for level in LEVELS:
        assert np.array_equal(computed(form, level), expected), level
        assert np.array_equal(computed(form, level, [1, 7, 32, 3, 64]), expected), level


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_ties_without_error_are_not_left_over(name: str, level: int) -> None:
    """Integers plus halves and quarters: a tie or nearly one everywhere, all exact in float64."""
    dtype = DTYPES[name]
    random = np.random.default_rng(5)
    digits = dtype.mantissa + 1
    whole = random.integers(2 ** (digits - 1), 2**digits, (300, 500)).astype(np.float64)
    wide = torch.from_numpy(whole).to(getattr(torch, dtype.torch))
    bits = wide.view({2: torch.int16, 4: torch.int32}[dtype.size]).numpy().reshape(-1)
    base = Tensor(dtype, (300, 500), bits.view(dtype.bits))
    a = random.choice([0.25, -0.25, 2.0**-20, 0.5], (2, 500))
    form = sum_of(base, (Fraction(1), np.ones((300, 2)), a))
    exact = whole + a.sum(axis=0)
    step = np.where(exact < 2.0 ** (digits - 1), 0.5, np.where(exact < 2.0**digits, 1.0, 2.0))
    rounded = np.round(exact / step) * step  # NumPy rounds ties to even
    out = np.empty_like(base.bits)
    kernel: Any = TileKernel(form) if level < 0 else native_kernel(form, level)
    with plain_arithmetic():
        assert kernel.compute(0, 300, out) < out.size / 1000
    assert np.array_equal(Tensor(dtype, (300, 500), out).to_float64(), rounded)
    assert np.count_nonzero(np.abs(exact - rounded) == step / 2) > out.size / 10


@pytest.mark.parametrize("name", NAMES)
def test_more_open_elements_than_the_list_holds(name: str) -> None:
    """Thirds of multiples of three: each sum is a tie of which no float64 term knows."""
    rows, columns = 150, 40
    dtype = DTYPES[name]
    steps = np.arange(1 << dtype.mantissa, (1 << dtype.mantissa) + rows * columns) % 100
    one = ((1 << (dtype.exponent - 1)) - 1) << dtype.mantissa
    base = Tensor(dtype, (rows, columns), (one + steps).astype(dtype.bits))
    b = np.random.default_rng(1).choice([1.5, 4.5], (rows, 1)) * 2.0**-dtype.mantissa
    form = sum_of(base, (Fraction(1, 3), b, np.ones((1, columns))))
    exact = base.to_float64() + b / 3
    step = 2.0**-dtype.mantissa
    for level in LEVELS:
        found = Tensor(dtype, (rows, columns), computed(form, level)).to_float64()
        assert np.array_equal(found, np.round(exact / step) * step), level


def rebuild_of(name: str = "BF16") -> Rebuild:
    base = weights(DTYPES[name], 60, 70, seed=3)
    b, a = (Tensor.from_array(x.astype(np.float32)) for x in pair(60, 70, 4, 2, short=False))
    delta = kinds.lowrank(b, a, Fraction(3, 2), shape=(60, 70))
    return Rebuild(base, [Term(delta, Fraction(1))])


@pytest.mark.parametrize("name", NAMES)
def test_a_rebuild_without_the_library_is_the_same(name: str) -> None:
    with_it = rebuild_of(name).tensor()
    with native.without():
        assert native_level() is None
        assert set(native.states().values()) == {"switched off"}
        assert rebuild_of(name).tensor().same_bits(with_it)
    assert rebuild_of(name).tensor(threads=2).same_bits(with_it)


def test_a_thread_that_flushes_subnormals_keeps_its_ways() -> None:
    base = Tensor(DTYPES["F32"], (1, 3), np.array([1, 0x007FFFFF, 0x80000003], "<u4"))
    b, a = np.array([[2.0**-75]]), np.array([[2.0**-74, 2.0**-75, 2.0**-74]])
    form = sum_of(base, (Fraction(1), b, a))
    assert torch.set_flush_denormal(True), "this processor cannot flush subnormal numbers"
    try:
        for level in LEVELS:
            assert computed(form, level).tolist() == [2, 0x00800000, 0x80000002], level
            assert flushes_subnormals()
    finally:
        torch.set_flush_denormal(False)


def test_sums_that_c_does_not_know_are_left_to_torch() -> None:
    base = weights(DTYPES["BF16"], 4, 5, seed=1)
    b, a = pair(4, 5, 2, 1, short=True)
    factor = Factors(Fraction(1), b, a, tame=True)
    for planes in ([], [Plane(Fraction(1, 2), base)], [Plane(Fraction(1), base)] * 2):
        assert native_kernel(LinearForm(base, planes, [factor])) is None
    assert native_kernel(LinearForm(base, [Plane(Fraction(1), base)], [])) is None
    wild = Factors(Fraction(1), b * 2.0**400, a, tame=False)
    assert native_kernel(LinearForm(base, [Plane(Fraction(1), base)], [wild])) is None


# building ------------------------------------------------------------------------------


def test_libraries_are_made_or_the_reason_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    folder.mkdir()
    source = folder / "adder.c"
    source.write_text("int add(int a, int b) { return a + b; }\n")
    (folder / f"adder{native_build.SUFFIX}").write_bytes(b"made from other sources")
    assert native_build.build(folder, "no-such-compiler") == {
        "adder": "'no-such-compiler' was not found"
    }
    assert not (folder / f"adder{native_build.SUFFIX}").exists()
    before = native_build.stamp(folder, "adder")
    (folder / "other_part.h").write_text("int other;\n")
    assert native_build.stamp(folder, "adder") == before
    (folder / "adder_part.h").write_text("int part;\n")
    assert native_build.stamp(folder, "adder") != before
    source.write_text("int add(int a, int b) { return a + ; }\n")
    assert native_build.build(folder, "cc")["adder"]
    assert sorted(p.name for p in folder.iterdir()) == ["adder.c", "adder_part.h", "other_part.h"]


def test_a_wheel_made_without_a_compiler_works(tmp_path: Path) -> None:
    tree, empty = tmp_path / "tree", tmp_path / "empty"
    empty.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.so", ".native-*")
    shutil.copytree(ROOT / "deltavc", tree / "deltavc", ignore=skip)
    for name in ("pyproject.toml", "hatch_build.py", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    surroundings = {k: v for k, v in os.environ.items() if k not in ("CC", "PYTHONPATH")}
    surroundings["PATH"] = str(empty)
    made = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=tree, env=surroundings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (made.stdout + made.stderr).count("no native code") == 1
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    assert not list((tmp_path / "site").rglob("*.so"))
    code = (
        "import sys; from fractions import Fraction; import numpy as np\n"
        "from deltavc.delta import kinds, native; from deltavc.delta.tensor import *\n"
        "from deltavc.delta.rebuild import Rebuild, Term\n"
        "assert all(native.states().values()), native.states()\n"
        "x = [np.load(sys.stdin.buffer) for _ in range(3)]\n"
        "base = Tensor(DTYPES['BF16'], (60, 70), x[0])\n"
        "d = kinds.lowrank(*map(Tensor.from_array, x[1:]), Fraction(3, 2), shape=(60, 70))\n"
        "np.save(sys.stdout.buffer, Rebuild(base, [Term(d, Fraction(1))]).tensor().bits)\n"
    )
    b, a = (x.astype(np.float32) for x in pair(60, 70, 4, 2, short=False))
    given = tmp_path / "given"
    with given.open("wb") as stream:
        for array in (weights(DTYPES["BF16"], 60, 70, seed=3).bits, b, a):
            np.save(stream, array)
    surroundings["PYTHONPATH"] = str(tmp_path / "site")
    with given.open("rb") as stream, (tmp_path / "found").open("wb") as found:
        subprocess.run(
            [sys.executable, "-c", code], stdin=stream, stdout=found, env=surroundings, check=True,
            cwd=tmp_path,
        )  # fmt: skip
    assert np.array_equal(np.load(tmp_path / "found"), rebuild_of().tensor().bits)
