"""The second reader's part for scaled, rotated and factored deltas, from the page on deltas alone.

Rotations are computed in Python's own floats, one operation after the other.
"""

from __future__ import annotations

import math
import struct
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

from .independent_reader import (  # type: ignore[import-not-found]
    Tensor,
    is_finite,
    tensor,
    value_of,
)

Grid = list[list[Any]]


def scaled_change(
    header: dict[str, Any], streams: dict[str, bytes], base: Tensor | None
) -> dict[int, Fraction]:
    """Returns the change of the kinds that hold tensors as found."""
    rows, columns = Tensor(
        "U8", tuple(header["shape"]), [0] * math.prod(header["shape"])
    ).matrix_shape()
    t = {name: values_of(info, streams[name]) for name, info in header["tensors"].items()}
    shapes = {name: info["shape"] for name, info in header["tensors"].items()}
    if header.get("form") == "experts":
        return experts_change(header, t, shapes)
    if header["kind"] == "product":
        found = scaled(header, product_form(header["form"], t, shapes, rows, columns, header))
        return flat_grid(found)
    assert base is not None
    plain = [
        value_of(u, base.dtype) if is_finite(u, base.dtype) else Fraction(0) for u in base.bits
    ]
    w = grid(plain, columns)
    if header["kind"] in ("rowscale", "colscale"):
        v = [x + Fraction(header.get("offset", "0")) for x in t["v"]]
        share = columns // len(v) if header["kind"] == "colscale" else 0
        return flat_grid([[w[i][j] * (v[j // share] if share else v[i]) for j in range(columns)]
                          for i in range(rows)])  # fmt: skip
    if header["kind"] == "dora":
        rank = shapes["a"][0]
        p = scaled(header, times(grid(t["b"], rank), grid(t["a"], len(t["a"]) // rank)))
        turned = header.get("transposed", False)
        gain = t.get("gain") or gains(w, p, t["m"], turned)
        return flat_grid([[gain[j if turned else i] * (w[i][j] + p[i][j]) - w[i][j]
                           for j in range(columns)] for i in range(rows)])  # fmt: skip
    assert header["kind"] == "rightmul"
    return flat_grid(rotated(header, t, shapes, w, base))


def gains(w: Grid, p: Grid, m: list[Any], turned: bool) -> list[Fraction]:
    """Returns m over the norms of the lines of w + p, to nearest in 36 bits, ties to even."""
    whole = [[x + y for x, y in zip(*pair, strict=True)] for pair in zip(w, p, strict=True)]
    found = []
    for line, size in zip(zip(*whole, strict=True) if turned else whole, m, strict=True):
        with localcontext() as context:
            context.prec = 60
            square = sum(x * x for x in line)
            norm = (Decimal(square.numerator) / Decimal(square.denominator)).sqrt()
            ratio = Decimal(size.numerator) / Decimal(size.denominator) / norm
            unit = Decimal(2) ** (36 - math.frexp(float(ratio))[1])
            found.append(Fraction((ratio * unit).to_integral_value(ROUND_HALF_EVEN) / unit))
    return found


def experts_change(
    header: dict[str, Any], t: dict[str, Any], shapes: dict[str, Any]
) -> dict[int, Fraction]:
    count, height, width = header["shape"]
    a, b = grid(t["a"], shapes["a"][1]), grid(t["b"], shapes["b"][1])
    rank, found = len(a) // count, []
    for e in range(count):
        for p in range(height):
            for q in range(width):
                o, i = (q, p) if header.get("transposed") else (p, q)
                total = sum(b[o][k * count + e] * a[e * rank + k][i] for k in range(rank))
                found.append(Fraction(header["scale"]) * total)
    return dict(enumerate(found))


def values_of(info: dict[str, Any], data: bytes) -> list[Fraction]:
    return [value_of(u, info["dtype"]) for u in tensor(info["dtype"], info["shape"], data).bits]


def grid(values: list[Any], columns: int) -> Grid:
    return [values[i : i + columns] for i in range(0, len(values), columns)]


def flat_grid(values: Grid) -> dict[int, Fraction]:
    return dict(enumerate(x for row in values for x in row))


def times(a: Grid, b: Grid) -> Grid:
    """Multiplies matrices: exactly if they hold rationals, from the left from 0.0 if floats."""
    zero = type(b[0][0])(0)
    found = []
    for row in a:
        line = [zero] * len(b[0])
        for x, other in zip(row, b, strict=True):
            line = [held + x * y for held, y in zip(line, other, strict=True)]
        found.append(line)
    return found


def scaled(header: dict[str, Any], values: Grid) -> Grid:
    found = [[Fraction(header["scale"]) * x for x in row] for row in values]
    return [list(line) for line in zip(*found, strict=True)] if header.get("transposed") else found


def product_form(
    form: str, t: dict[str, Any], shapes: dict[str, Any], rows: int, columns: int,
    header: dict[str, Any],
) -> Grid:  # fmt: skip
    if header.get("transposed", False):
        rows, columns = columns, rows

    def m(name: str) -> Grid:
        return grid(t[name], math.prod(shapes[name][1:]))

    if form == "hadamard":
        first, second = times(m("w1a"), m("w1b")), times(m("w2a"), m("w2b"))
        return [
            [x * y for x, y in zip(*pair, strict=True)] for pair in zip(first, second, strict=True)
        ]
    if form == "vera":
        left = [[s * x for x in row] for s, row in zip(t["lambda_b"], m("b")[:rows], strict=True)]
        right = [
            [s * x for x in row[:columns]] for s, row in zip(t["lambda_d"], m("a"), strict=True)
        ]
        return times(left, right)
    if form == "adalora":
        right = [[s * x for x in row] for s, row in zip(t["e"], m("a"), strict=True)]
        return times(grid(t["b"], shapes["a"][0]), right)
    assert form == "kron"
    first = m("w1") if "w1" in t else times(m("w1a"), m("w1b"))
    if "w2" in t:
        second = m("w2")
    elif "t2" in t:
        r, q = shapes["t2"][:2]
        core, a, b = grid(t["t2"], math.prod(shapes["t2"][2:])), m("w2a"), m("w2b")
        second = [[sum(core[i * q + j][k] * a[i][p] * b[j][x] for i in range(r) for j in range(q))
                   for x in range(len(b[0])) for k in range(len(core[0]))]
                  for p in range(len(a[0]))]  # fmt: skip
    else:
        second = times(m("w2a"), m("w2b"))
    return [[x * y for x in line for y in row] for line in first for row in second]


def tree(terms: list[float]) -> float:
    terms = terms + [0.0] * ((1 << (len(terms) - 1).bit_length()) - len(terms))
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [x + y for x, y in zip(terms[:half], terms[half:], strict=True)]
    return terms[0]


def in_ball(row: list[float], params: dict[str, int]) -> list[float]:
    if "ball" not in params:
        return row
    (ball,) = struct.unpack("<d", struct.pack("<Q", params["ball"]))
    size = math.sqrt(2 * tree([x * x for x in row]))
    return [x * (ball / size) for x in row] if size > ball * (1 + 2**-18) else row


def made_orthogonal(u: Grid) -> Grid:
    done: list[list[float]] = []
    for column in zip(*u, strict=True):
        v = list(column)
        for w in done:
            along = tree([x * y for x, y in zip(w, v, strict=True)])
            v = [y - along * x for x, y in zip(w, v, strict=True)]
        length = math.sqrt(tree([x * x for x in v]))
        done.append([x / length for x in v])
    return [list(row) for row in zip(*done, strict=True)]


def rotated(
    header: dict[str, Any], t: dict[str, Any], shapes: dict[str, Any], w: Grid, base: Tensor
) -> Grid:
    params, columns = header.get("params", {}), len(w[0])
    if header["form"] == "hra":
        u = grid([float(x) for x in t["u"]], shapes["u"][1])
        u = made_orthogonal(u) if params.get("orthogonal") else u
        return times(fixed_product(w, u), [[Fraction(x) for x in row] for row in reflections(u)])
    if header["form"] == "oft":
        count, elements = shapes["r"]
        size = next(b for b in range(1, columns + 1) if b * (b - 1) // 2 == elements)
        blocks = [oft_block(in_ball([float(x) for x in row], params), size, params)
                  for row in (grid(t["r"], elements) if elements else [[]] * count)]  # fmt: skip
        blocks *= columns // size if params.get("share") else 1
    else:
        blocks = boft_blocks([float(x) for x in t["r"]], *shapes["r"][:3])
    m = [[Fraction(0)] * columns for _ in range(columns)]
    for at, block in enumerate(blocks):
        for i, line in enumerate(block):
            for j, x in enumerate(line):
                m[at * len(block) + i][at * len(block) + j] = Fraction(
                    round(Fraction(x) * 2**64), 2**64
                )
    turned = times(w, m)
    if header["form"] == "oft":
        return turned
    return [[s * (x + y) - x for x, y in zip(*pair, strict=True)]
            for s, pair in zip(t["s"], zip(w, turned, strict=True), strict=True)]  # fmt: skip


def oft_block(upper: list[float], size: int, params: dict[str, int]) -> Grid:
    q, numbers = [[0.0] * size for _ in range(size)], iter(upper)
    for i in range(size):
        for j in range(i + 1, size):
            q[i][j] = next(numbers)
            q[j][i] = -q[i][j]
    terms, direct = params.get("terms", 0), params.get("direct", 0)
    if not terms:
        return cayley([[-x for x in row] for row in q] if direct else q)
    first = q if direct else [[-x for x in row] for row in q]
    if terms == 1:
        return [[0.0] * size for _ in range(size)]
    block = [[2 * x for x in row] for row in first]
    if terms == 2:
        return block

    def add(values: Grid, factor: float) -> Grid:
        return [[x + factor * y for x, y in zip(*pair, strict=True)]
                for pair in zip(block, values, strict=True)]  # fmt: skip

    power = times(first, first)
    block = add(power, 2.0)
    for _ in range(3, terms - 1):
        power = times(power, first)
        block = add(power, 2.0)
    return add(times(power, first), 1.0)


def cayley(s: Grid) -> Grid:
    size = len(s)
    left = [[float(i == j) - s[i][j] for j in range(size)] for i in range(size)]
    y = [list(row) for row in s]
    for k in range(size):
        for i in range(k + 1, size):
            f = left[i][k] / left[k][k]
            for j in range(k + 1, size):
                left[i][j] -= f * left[k][j]
            y[i] = [x - f * z for x, z in zip(y[i], y[k], strict=True)]
    for k in range(size - 1, -1, -1):
        y[k] = [x / left[k][k] for x in y[k]]
        for i in range(k):
            y[i] = [x - left[i][k] * z for x, z in zip(y[i], y[k], strict=True)]
    return [[2 * x for x in row] for row in y]


def boft_blocks(r: list[float], factors: int, count: int, size: int) -> list[Grid]:
    levels = []
    for level in range(factors):
        blocks = []
        for at in range(count):
            start = (level * count + at) * size * size
            raw = grid(r[start : start + size * size], size)
            blocks.append(cayley([[0.5 * (raw[i][j] - raw[j][i]) for j in range(size)]
                                  for i in range(size)]))  # fmt: skip
        levels.append(blocks)
    if factors == 1:
        return levels[0]
    wide, per = size << (factors - 1), 1 << (factors - 1)
    found = []
    for first in range(0, count, per):
        held = block_diagonal(levels[0][first : first + per], size)
        for level in range(1, factors):
            c = block_diagonal(levels[level][first : first + per], size)
            half, span = size // 2, size << level
            runs = [list(range(a, a + half)) for a in range(0, span, half)]
            one = [x for run in runs[0::2] + runs[1::2] for x in run]
            order = [start + x for start in range(0, wide, span) for x in one]
            back = [order.index(z) for z in range(wide)]
            new = [[0.0] * wide for _ in range(wide)]
            for i in range(wide):
                for x in range(wide):
                    begin = order[x] // size * size
                    for z in range(begin, begin + size):
                        new[i][x] += held[i][back[z]] * c[z][order[x]]
            held = new
        found.append([[x - (i == j) for j, x in enumerate(row)] for i, row in enumerate(held)])
    return found


def block_diagonal(blocks: list[Grid], size: int) -> Grid:
    wide = len(blocks) * size
    found = [[0.0] * wide for _ in range(wide)]
    for at, block in enumerate(blocks):
        for i in range(size):
            for j in range(size):
                found[at * size + i][at * size + j] = block[i][j] + float(i == j)
    return found


def reflections(u: Grid) -> Grid:
    rank = len(u[0])

    def inner(i: int, k: int) -> float:
        return tree([row[i] * row[k] for row in u])

    g = [[inner(i, k) for k in range(rank)] for i in range(rank)]
    triangle = [[0.0] * rank for _ in range(rank)]
    for i in range(rank):
        weight = 2 / g[i][i]
        triangle[i][i] = weight
        for line in range(i):
            total = 0.0
            for k in range(i):
                total += triangle[line][k] * g[k][i]
            triangle[line][i] = -(weight * total)
    turned = [list(line) for line in zip(*u, strict=True)]
    return [[-x for x in row] for row in times(triangle, turned)]


def fixed_product(w: Grid, u: Grid) -> Grid:
    def whole(line: list[Any]) -> tuple[list[int], int]:
        top = max((abs(Fraction(x)) for x in line), default=Fraction(0))
        e = 0
        if top:
            e = top.numerator.bit_length() - top.denominator.bit_length()
            e += Fraction(2) ** e <= top
        return [round(Fraction(x) * Fraction(2) ** (40 - e)) for x in line], e

    left = [whole(row) for row in w]
    right = [whole(list(line)) for line in zip(*u, strict=True)]

    def element(a: list[int], b: list[int], power: int) -> Fraction:
        total = sum(x * y for x, y in zip(a, b, strict=True))
        return Fraction(float(total)) * Fraction(2) ** power

    return [[element(a, b, e + f - 80) for b, f in right] for a, e in left]
