"""Several low-rank deltas of one parameter as the factors of one LoRA layer.

The sum of ``q_i * B_i @ A_i`` (q_i: coefficient times scale) is ``g * B @ A``
with the A_i stacked, and the B_i side by side, each multiplied by ``q_i / g``.
The common factor ``g`` becomes the layer's scaling, alpha / r; it is chosen so
that every product is a number that the factors' dtype holds, and nothing is
rounded. Where there is no such factor (scales 3/2 and 4/5, whose products need
more digits), a block can be split into parts that hold the digits between them,
each beside its own copy of A: more rank, and still nothing rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta
from deltavc.delta.tensor import DTYPES, DType, Tensor

__all__ = ["LoraLayer", "alpha_for", "as_found", "combine", "fold"]

_F32 = DTYPES["F32"]
_FLOAT64_BITS = 53
_CHUNK = 24  # digits of a coefficient that fit, times those of a float32, into a float64
_MAX_FILL = 64  # rank that zeros may take on top of as much again
_MAX_BITS = 128  # what is longer leaves the range of float32


@dataclass(frozen=True)
class LoraLayer:
    """The factors of one layer as PEFT stores them.

    Attributes:
        a: (r, in), for a convolution (r, in, k, …).
        b: (out, r), for a convolution (out, r, 1, …).
        alpha: ``lora_alpha``; the scaling is alpha / r.
        kind: linear, embedding or conv.
        transposed: The weight is stored as (in, out): ``fan_in_fan_out``.
        rounded: Whether something had to be rounded.
    """

    a: Tensor
    b: Tensor
    alpha: float
    kind: str
    transposed: bool
    rounded: bool = False

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return self.a.shape[0]


def alpha_for(scale: Fraction, rank: int, *, nearest: bool = False) -> float | None:
    """Returns the alpha with alpha / rank = scale, if a float64 holds it.

    Args:
        scale: The scaling that is wanted.
        rank: Rank of the layer.
        nearest: Take the nearest float64 where none is exact.

    Returns:
        The alpha, an int where it is whole; None when none is exact.
    """
    alpha = scale * rank
    try:
        value = float(alpha)
    except OverflowError:
        return None
    if Fraction(value) != alpha and not nearest:
        return None
    return int(value) if value.is_integer() else value


def as_found(delta: Delta) -> LoraLayer:
    """Returns the layer of one delta, as it was in the adapter that it came from."""
    header = delta.header
    transposed = header.transposed and header.layer == "linear"
    alpha = float(delta.scale * delta.rank)
    return LoraLayer(delta.factor("a"), delta.factor("b"), alpha, header.layer, transposed)


def combine(
    terms: Sequence[tuple[Delta, Fraction]],
    *,
    kind: str | None = None,
    rounded: bool = False,
    split: bool = False,
) -> LoraLayer | None:
    """Returns the sum of low-rank deltas of one parameter as one layer.

    Args:
        terms: Low-rank deltas of the same shape, and their coefficients.
        kind: What the layer is (linear, embedding, conv) where the deltas, not
            found in an adapter, do not tell.
        rounded: Round where there is no exact form: the scaling to float64 if that is
            enough, otherwise B to float32.
        split: Take a higher rank where there is no exact form with the deltas' own.

    Returns:
        The layer; None when it would have to be rounded and may not be.

    Numerics:
        The factors of a single delta are kept bit for bit when its scale fits
        into alpha. Products are formed in float64, where they are exact, and
        kept only where the target dtype gives the same number back.
    """
    kind, transposed = _form(terms, kind)
    factors = [_oriented(delta, transposed) for delta, _ in terms]
    scales = [coefficient * delta.scale for delta, coefficient in terms]
    a = _stacked([a for _, a in factors])
    blocks = [b for b, _ in factors]
    rank = a.shape[0]
    found = _exact(blocks, scales, rank)
    wider = _split(blocks, [a for _, a in factors], scales) if found is None and split else None
    if wider is not None:
        a, *_ = wider
        rank, found = a.shape[0], wider[1:]
    inexact = found is None
    if found is None:
        if not rounded:
            return None
        found = _exact(blocks, scales, rank, nearest=True) or (_nearest(blocks, scales), rank)
    b, alpha = found
    rows, *rest = terms[0][0].shape
    a_shape, b_shape = a.shape, b.shape
    if kind == "conv":
        a_shape, b_shape = (rank, *rest), (rows, rank, *(1 for _ in rest[1:]))
    return LoraLayer(
        Tensor(a.dtype, a_shape, a.bits),
        Tensor(b.dtype, b_shape, b.bits),
        alpha,
        kind,
        transposed and kind == "linear",
        inexact,
    )


def fold(terms: Sequence[tuple[Delta, Fraction]], *, kind: str | None = None) -> LoraLayer:
    """Returns the sum of low-rank deltas of one parameter as a layer whose scaling is 1.

    Coefficients and scales go into B; alpha is the rank. For readers that know one
    alpha for all layers.

    Args:
        terms: Low-rank deltas of the same shape, and their coefficients.
        kind: What the layer is, where the deltas do not tell.

    Returns:
        The layer; ``rounded`` where B does not hold every product, not even in float32.

    Numerics:
        A power of two as the factor changes no digit, so that nearly every LoRA is
        folded exactly in its own dtype. A product that is rounded is off by 2**-24 of
        itself at most, but for subnormal ones.
    """
    kind, transposed = _form(terms, kind)
    factors = [_oriented(delta, transposed) for delta, _ in terms]
    scales = [coefficient * delta.scale for delta, coefficient in terms]
    a, blocks = _stacked([a for _, a in factors]), [b for b, _ in factors]
    products = [_scaled(block, scale) for block, scale in zip(blocks, scales, strict=True)]
    exact = [product for product in products if product is not None]
    b = None
    if len(exact) == len(products):
        values = np.concatenate(exact, axis=1)
        same = all(block.dtype is blocks[0].dtype for block in blocks)
        b = (_stored(values, blocks[0].dtype) if same else None) or _stored(values, _F32)
    rounded = b is None
    b = _nearest(blocks, scales) if b is None else b
    layer_transposed = transposed and kind == "linear"
    return LoraLayer(a, b, a.shape[0], kind, layer_transposed, rounded)


def _form(terms: Sequence[tuple[Delta, Fraction]], kind: str | None) -> tuple[str, bool]:
    """Returns what the layer is and whether its weight is the transpose of B @ A.

    An adapter's deltas tell; those that were found in a checkpoint are plain
    (linear, not transposed) and follow.
    """
    headers = [delta.header for delta, _ in terms]
    told = next((h for h in headers if h.layer != "linear" or h.transposed), headers[0])
    if kind is None or kind == told.layer:
        return told.layer, told.transposed
    return kind, kind == "embedding"


def _oriented(delta: Delta, transposed: bool) -> tuple[Tensor, Tensor]:
    """Returns matrices (B, A) of a delta, turned round if its layer's weight lies otherwise."""
    b, a = delta.factor("b"), delta.factor("a")
    b = Tensor(b.dtype, b.matrix_shape, b.bits)
    a = Tensor(a.dtype, a.matrix_shape, a.bits)
    if delta.header.transposed == transposed:
        return b, a
    return _turned(a), _turned(b)  # (B @ A).T = A.T @ B.T


def _turned(tensor: Tensor) -> Tensor:
    bits = tensor.bits.reshape(tensor.shape).T
    return Tensor(tensor.dtype, bits.shape, np.ascontiguousarray(bits).reshape(-1))


def _stacked(factors: Sequence[Tensor]) -> Tensor:
    """Returns the A factors one under the other, widened to F32 if their dtypes differ."""
    if len(factors) == 1:
        return factors[0]
    shape = (sum(f.shape[0] for f in factors), factors[0].shape[1])
    if len({f.dtype for f in factors}) == 1:
        return Tensor(factors[0].dtype, shape, np.concatenate([f.bits for f in factors]))
    values = np.concatenate([f.to_float64() for f in factors])
    return _stored(values, _F32) or Tensor.from_array(values)  # F64 where F32 is too narrow


def _exact(
    blocks: Sequence[Tensor], scales: Sequence[Fraction], rank: int, *, nearest: bool = False
) -> tuple[Tensor, float] | None:
    """Returns B and alpha such that nothing, or with ``nearest`` only alpha, is rounded."""
    if len(blocks) == 1:
        alpha = alpha_for(scales[0], rank, nearest=nearest)
        if alpha is not None:
            return blocks[0], alpha
    own = blocks[0].dtype
    dtypes = [own, _F32] if all(b.dtype is own for b in blocks) and own is not _F32 else [_F32]
    for dtype in dtypes:
        for common in _candidates(scales):
            alpha = alpha_for(common, rank, nearest=nearest)
            if alpha is None:
                continue
            parts = [
                _scaled(block, scale / common) for block, scale in zip(blocks, scales, strict=True)
            ]
            exact = [part for part in parts if part is not None]
            b = _stored(np.concatenate(exact, axis=1), dtype) if len(exact) == len(parts) else None
            if b is not None:
                return b, alpha
    return None


def _candidates(scales: Sequence[Fraction]) -> Iterator[Fraction]:
    """Yields common factors to try: 1, so that the scaling is 1, then what the scales share."""
    yield Fraction(1)
    numerators = reduce(math.gcd, (s.numerator for s in scales))
    denominators = reduce(math.lcm, (s.denominator for s in scales))
    yield Fraction(numerators, denominators)
    yield scales[0]


def _scaled(block: Tensor, factor: Fraction) -> NDArray[np.float64] | None:
    """Returns a block times a factor, if float64 holds every product."""
    shift = factor.denominator.bit_length() - 1
    if factor.denominator != 1 << shift:
        return None
    odd = factor.numerator
    while odd and odd % 2 == 0:
        odd //= 2
    if odd.bit_length() + block.dtype.mantissa + 1 > _FLOAT64_BITS and abs(odd) != 1:
        return None
    values = block.to_float64()
    with np.errstate(all="ignore"):
        product = np.ldexp(values * float(odd), _exponent(factor, odd))
        back = np.ldexp(product, -_exponent(factor, odd))
    return product if np.array_equal(back, values * float(odd)) else None


def _exponent(factor: Fraction, odd: int) -> int:
    """Returns e with factor = odd * 2 ** e."""
    if not odd:
        return 0
    return (factor.numerator // odd).bit_length() - factor.denominator.bit_length()


def _stored(values: NDArray[np.float64], dtype: DType) -> Tensor | None:
    """Returns values in a dtype, if it holds every one of them."""
    with np.errstate(all="ignore"):
        if dtype.name == "BF16":
            wide = values.astype("<f4")
            bits = wide.view("<u4")
            tensor = Tensor(dtype, values.shape, (bits >> 16).astype(dtype.bits).reshape(-1))
        else:
            tensor = Tensor.from_array(values.astype(f"<f{dtype.size}"))
    return tensor if np.array_equal(tensor.to_float64(), values) else None


def _split(
    blocks: Sequence[Tensor], factors: Sequence[Tensor], scales: Sequence[Fraction]
) -> tuple[Tensor, Tensor, float] | None:
    """Returns A, B and alpha with nothing rounded, at a higher rank than the blocks' own.

    Args:
        blocks: The B factors.
        factors: The A factors.
        scales: Coefficient times scale of each.

    Returns:
        The layer; None where a number is beyond what float32 reaches.
    """
    common = Fraction(
        reduce(math.gcd, (s.numerator for s in scales)),
        reduce(math.lcm, (s.denominator for s in scales)),
    )
    columns: list[NDArray[np.float64]] = []
    copies: list[Tensor] = []
    for block, factor, scale in zip(blocks, factors, scales, strict=True):
        parts = _parts(block, int(scale / common))
        if parts is None:
            return None
        columns += parts
        copies += [factor] * len(parts)
    rank = sum(factor.shape[0] for factor in copies)
    sizes = (n for n in range(rank, 2 * rank + _MAX_FILL) if alpha_for(common, n) is not None)
    size = next(sizes, None)
    if size is None:
        return None
    if size > rank:  # alpha / rank is the scale for some ranks only: fill up with zeros
        width, zeros = factors[0].shape[1], size - rank
        dtype = factors[0].dtype
        copies.append(Tensor(dtype, (zeros, width), np.zeros(zeros * width, dtype.bits)))
        columns.append(np.zeros((blocks[0].shape[0], zeros)))
    alpha = alpha_for(common, size)
    b = _stored(np.concatenate(columns, axis=1), _F32)
    return None if b is None or alpha is None else (_stacked(copies), b, alpha)


def _parts(block: Tensor, factor: int) -> list[NDArray[np.float64]] | None:
    """Returns float32 numbers whose sum is a block times an integer."""
    if block.dtype.mantissa >= _CHUNK or abs(factor) >> _MAX_BITS:
        return None
    values = block.to_float64()
    sign, rest, shift = (1 if factor > 0 else -1), abs(factor), 0
    parts = []
    while rest:
        zeros = (rest & -rest).bit_length() - 1
        rest, shift = rest >> zeros, shift + zeros
        product = values * float(sign * (rest & ((1 << _CHUNK) - 1)) << shift)
        with np.errstate(over="ignore"):
            high = product.astype("<f4").astype("<f8")
        if not np.isfinite(high).all():
            return None
        parts += [high, product - high] if (product != high).any() else [high]
        rest, shift = rest >> _CHUNK, shift + _CHUNK
    return parts


def _nearest(blocks: Sequence[Tensor], scales: Sequence[Fraction]) -> Tensor:
    """Returns B with scaling 1, rounded to float32."""
    values = [b.to_float64() * float(s) for b, s in zip(blocks, scales, strict=True)]
    with np.errstate(all="ignore"):
        return Tensor.from_array(np.concatenate(values, axis=1).astype("<f4"))
