"""What scaled, rotated and factored deltas mean, in rational arithmetic, and hostile samples.

Definitions follow the format's page. A rotation's matrix and a DoRA's gains are
taken as they are here; tests of their own hold them to their formulas.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from deltavc.delta import kinds
from deltavc.delta.fixedpoint import fixed_product
from deltavc.delta.kinds import Delta
from deltavc.delta.rotations import gain, matrix, reflections
from deltavc.delta.tensor import DTYPES, DType, Tensor

CODES = {"BF16": ("f", "I"), "F16": ("e", "H"), "F32": ("f", "I"), "F64": ("d", "Q")}
FLOATS = list(CODES)
Matrix = np.ndarray[Any, Any]


def decoded(bits: int, dtype: DType) -> Fraction:
    code, word = CODES[dtype.name]
    wide = bits << 16 if dtype.name == "BF16" else bits
    return Fraction(struct.unpack("<" + code, struct.pack("<" + word, wide))[0])


def is_finite(bits: int, dtype: DType) -> bool:
    infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
    return bits & infinity != infinity


def nearest(value: Fraction, dtype: DType) -> int:
    """IEEE: the multiple of the local step that is nearest, ties to even multiples."""
    if value == 0:
        return 0
    size, sign = abs(value), (1 << (8 * dtype.size - 1)) if value < 0 else 0
    bias = (1 << (dtype.exponent - 1)) - 1
    power = size.numerator.bit_length() - size.denominator.bit_length() - 1
    while size >= Fraction(2) ** (power + 1):
        power += 1
    power = max(power, 1 - bias)
    whole = round(size / Fraction(2) ** (power - dtype.mantissa))
    pattern = whole + ((power + bias - 1) << dtype.mantissa)
    return sign | min(pattern, ((1 << dtype.exponent) - 1) << dtype.mantissa)


def fractions(tensor: Tensor) -> Matrix:
    """Values as rationals; what is not finite counts as zero."""
    values = [decoded(u, tensor.dtype) if is_finite(u, tensor.dtype) else Fraction(0)
              for u in tensor.bits.tolist()]  # fmt: skip
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found.reshape(tensor.shape)


def rational(values: Any) -> Matrix:
    return np.vectorize(lambda x: Fraction(float(x)), otypes=[object])(np.asarray(values))


def expected(base: Tensor, terms: Sequence[tuple[Delta, Fraction]]) -> list[int]:
    """The rebuilt bits."""
    changes = [(c, change(delta, base).reshape(-1)) for delta, c in terms]
    bits = []
    for i, held in enumerate(base.bits.tolist()):
        moved = sum((c * values[i] for c, values in changes), Fraction(0))
        if not moved or not is_finite(held, base.dtype):
            bits.append(held)
        else:
            bits.append(nearest(decoded(held, base.dtype) + moved, base.dtype))
    return bits


def change(delta: Delta, base: Tensor) -> Matrix:
    weights = fractions(base).reshape(base.matrix_shape)
    if delta.kind in ("rowscale", "colscale"):
        v = fractions(delta.tensor("v")).reshape(-1) + Fraction(delta.header.offset)
        if delta.kind == "rowscale":
            return weights * v[:, None]
        return weights * np.repeat(v, weights.shape[1] // len(v))[None]
    if delta.kind in ("lowrank", "dora"):
        found = product(delta, lambda v: _flat(v["b"]).dot(_flat(v["a"])))
        if delta.kind == "lowrank":
            return found
        gains = rational(delta.tensor("gain").to_float64())
        gains = gains[None] if delta.header.transposed else gains[:, None]
        return gains * (weights + found) - weights
    if delta.kind == "product":
        return product(delta, FORMS[delta.header.form])
    return rotated(delta, base, weights)


def rotated(delta: Delta, base: Tensor, weights: Matrix) -> Matrix:
    if delta.header.form == "hra":
        vectors, right = reflections(delta)
        return rational(fixed_product(base, vectors)).dot(rational(right))
    blocks = matrix(delta)
    size = blocks.shape[1]
    whole = np.zeros((weights.shape[1],) * 2)
    for i, block in enumerate(blocks):
        whole[i * size : (i + 1) * size, i * size : (i + 1) * size] = block
    turned = weights.dot(rational(whole))
    gains = gain(delta)
    return turned if gains is None else rational(gains)[:, None] * (weights + turned) - weights


def product(delta: Delta, form: Any) -> Matrix:
    found = form({name: fractions(tensor) for name, tensor in delta.tensors().items()})
    rows, columns = delta.shape[0], math.prod(delta.shape[1:])
    wide = (columns, rows) if delta.header.transposed else (rows, columns)
    found = found[: wide[0], : wide[1]] * delta.scale
    return found.T if delta.header.transposed else found


def _flat(values: Matrix) -> Matrix:
    return values.reshape(values.shape[0], -1)


def _vera(v: dict[str, Matrix]) -> Matrix:
    outputs = v["lambda_b"].size
    left = v["lambda_b"].reshape(-1, 1) * v["b"][:outputs]
    return left.dot(v["lambda_d"].reshape(-1, 1) * v["a"])


def _kron(v: dict[str, Matrix]) -> Matrix:
    first = v["w1"] if "w1" in v else v["w1a"].dot(v["w1b"])
    if "w2" in v:
        second = _flat(v["w2"])
    elif "t2" in v:
        t = v["t2"].reshape(*v["t2"].shape[:2], -1)
        second = sum(
            v["w2a"][i][:, None, None] * v["w2b"][j][None, :, None] * t[i, j]
            for i in range(t.shape[0])
            for j in range(t.shape[1])
        )
        second = _flat(second)
    else:
        second = v["w2a"].dot(v["w2b"])
    return np.kron(first, second)


FORMS = {
    "hadamard": lambda v: v["w1a"].dot(v["w1b"]) * v["w2a"].dot(v["w2b"]),
    "adalora": lambda v: v["b"].dot(v["a"] * v["e"].reshape(-1, 1)),
    "vera": _vera,
    "kron": _kron,
}
KINDS = ["rowscale", "colscale", "dora", "lowrank", *FORMS, "oft", "boft", "hra"]


class Sampler:
    """Random tensors and deltas, full of short numbers, zeros, subnormals and the largest ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pattern(self, dtype: DType) -> int:
        pick, one = self.random, ((1 << (dtype.exponent - 1)) - 1) << dtype.mantissa
        infinity = ((1 << dtype.exponent) - 1) << dtype.mantissa
        chance = pick.random()
        if chance < 0.15:
            size = pick.choice([0, 1, 2, 1 << dtype.mantissa, infinity - 1, one, one + 1])
        elif chance < 0.9:
            size = pick.randint(one - 3 * (1 << dtype.mantissa), one + 2 * (1 << dtype.mantissa))
        else:
            size = pick.randint(0, infinity - 1)
        if pick.random() < 0.4:
            size &= ~((1 << pick.randint(0, dtype.mantissa)) - 1)
        return size | (pick.randint(0, 1) << (8 * dtype.size - 1))

    def tensor(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        bits = [self.pattern(dtype) for _ in range(math.prod(shape))]
        return Tensor(dtype, shape, np.array(bits, dtype=dtype.bits))

    def gaussian(self, shape: tuple[int, ...], size: float = 0.3) -> Tensor:
        values = [self.random.gauss(0, size) for _ in range(math.prod(shape))]
        return Tensor.from_array(np.array(values, dtype=np.float32).reshape(shape))

    def base(self, *kinds_: str) -> Tensor:
        dtype = DTYPES[self.random.choice(FLOATS)]
        base = self.tensor(self.random.choice([(4, 6), (3, 2, 2), (6, 4), (5, 8), (7, 1)]), dtype)
        if "hra" in kinds_ and dtype.name == "F64":  # refused near the largest floats
            base.bits[:] &= ~np.uint64(1 << 61)
        if self.random.random() < 0.2:
            base.bits[self.random.randrange(base.count)] = (
                (1 << dtype.exponent) - 1
            ) << dtype.mantissa
        return base

    def coefficient(self) -> Fraction:
        return Fraction(self.random.choice(["1", "1", "1", "-1", "1/2", "1/3", "-7/5"]))

    def delta(self, kind: str, shape: tuple[int, ...]) -> Delta:
        rows, columns = shape[0], math.prod(shape[1:])
        dtype, pick = DTYPES[self.random.choice(["BF16", "F16", "F32"])], self.random
        scale, rank = Fraction(pick.choice(["1", "2", "1/3", "-5/7"])), pick.randint(1, 3)
        if kind in ("rowscale", "colscale"):
            make = kinds.rowscale if kind == "rowscale" else kinds.colscale
            v = self.tensor((1, shape[0 if kind == "rowscale" else 1]), DTYPES[pick.choice(FLOATS)])
            return make(v, Fraction(pick.choice(["0", "-1", "1/3"])), shape=shape)
        if kind in ("oft", "boft", "hra"):
            return self.rotation(kind, shape, dtype)
        turned = kind != "kron" and len(shape) == 2 and pick.random() < 0.5
        out, into = (columns, rows) if turned else (rows, columns)

        def make_tensor(*dims: int) -> Tensor:
            return self.tensor(dims, dtype)

        b, a = make_tensor(out, rank), make_tensor(rank, into)
        if kind == "lowrank":
            return kinds.lowrank(b, a, scale, shape=shape, transposed=turned)
        if kind == "dora":
            picks = [pick.gauss(1, 0.1), pick.gauss(0, 1), 1.0, 0.0, 2.0 ** pick.randint(-20, 20)]
            gains = np.array([pick.choice(picks) for _ in range(out)])
            m = make_tensor(out)
            return kinds.dora(b, a, m, gains, scale, shape=shape, transposed=turned)
        tensors = {
            "adalora": lambda: {"b": b, "a": a, "e": make_tensor(rank, 1)},
            "hadamard": lambda: {
                "w1a": b, "w1b": a, "w2a": make_tensor(out, 2), "w2b": make_tensor(2, into)
            },
            "vera": lambda: {
                "b": make_tensor(out + 1, rank), "a": make_tensor(rank, into + 2),
                "lambda_b": make_tensor(out), "lambda_d": make_tensor(rank),
            },
            "kron": lambda: self.kron(out, into, rank, dtype),
        }[kind]()  # fmt: skip
        return kinds.product(kind, tensors, scale, shape=shape, transposed=turned)

    def kron(self, rows: int, columns: int, rank: int, dtype: DType) -> dict[str, Tensor]:
        a, c = (self.random.choice(divisors(n)) for n in (rows, columns))
        b, d = rows // a, columns // c
        full = self.random.random() < 0.5
        shapes = {"w1": (a, c)} if full else {"w1a": (a, rank), "w1b": (rank, c)}
        other = self.random.choice(
            [{"w2": (b, d)}, {"w2": (b, 1, d)}, {"w2a": (b, 2), "w2b": (2, d)}]
            + [{"w2a": (rank, b), "w2b": (2, d), "t2": (rank, 2, 1, 1)}] * full
        )
        return {name: self.tensor(dims, dtype) for name, dims in (shapes | other).items()}

    def rotation(self, form: str, shape: tuple[int, ...], dtype: DType) -> Delta:
        rows, columns = shape[0], math.prod(shape[1:])
        if form == "hra":
            return kinds.rightmul(form, {"u": self.gaussian((columns, 2))}, shape=shape)
        size = self.random.choice(divisors(columns))
        count = columns // size
        if form == "boft":
            tensors = {"r": self.gaussian((1, count, size, size)), "s": self.tensor((rows,), dtype)}
            return kinds.rightmul(form, tensors, shape=shape)
        share = self.random.random() < 0.3
        r = self.gaussian((1 if share else count, size * (size - 1) // 2))
        params = {
            "share": share,
            "terms": self.random.choice([0, 0, 1, 2, 3, 5]),
            "direct": self.random.random() < 0.3,
        }
        return kinds.rightmul(form, {"r": r}, params, shape=shape)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
