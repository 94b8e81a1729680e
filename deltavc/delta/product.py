"""Low-rank changes in other factored forms, brought to two factors without an error.

Hadamard and Kronecker products of low-rank matrices, and factors with
diagonals between them, are sums of products of up to four numbers from a file.
Two numbers of 24 bits have an exact float64 product; so each form is brought to
``L @ R`` in which every element of L and of R is a product of at most two.

Source:
    ``hadamard``: Hyeon-Woo et al., FedPara, 2108.06098; ``kron``: Yeh et al.,
    LyCORIS, 2309.14859; ``vera``: Kopiczko et al., 2310.11454; ``adalora``: Zhang et
    al., 2303.10512.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.body import Delta
from deltavc.delta.exactsum import two_product
from deltavc.delta.fits import matrix_shape
from deltavc.errors import NonFiniteTensor, UnsupportedFormat

__all__ = ["KronFactors", "check_exact", "expand", "kron_factors", "rank"]

Matrix = NDArray[np.float64]
Shape = tuple[int, ...]


def rank(form: str, shapes: Mapping[str, Shape]) -> int:
    """Returns the inner dimension that :func:`expand` gives.

    Args:
        form: hadamard, kron, vera or adalora; of experts, that of all of them together.
        shapes: The tensors' shapes by name.
    """
    if form == "hadamard":
        return shapes["w1a"][1] * shapes["w2a"][1]
    if form in ("vera", "adalora", "experts"):
        return shapes["a"][0]
    if "t2" in shapes:
        return (shapes["w1b"][0] if "w1b" in shapes else shapes["w1"][1]) * math.prod(
            shapes["t2"][:2]
        )
    outer = shapes["w1b"][0] if "w1b" in shapes else min(shapes["w1"])
    inner = shapes["w2b"][0] if "w2b" in shapes else min(matrix_shape(shapes["w2"]))
    return outer * inner


def check_exact(delta: Delta) -> None:
    """Refuses a product whose two factors would not be exact.

    Raises:
        UnsupportedFormat: They would not.
        NonFiniteTensor: A tensor holds NaN or infinity.
    """
    for name, tensor in delta.tensors().items():
        if not tensor.is_finite():
            raise NonFiniteTensor(f"an adapter's '{name}' holds NaN or infinity")
    short = all(tensor.dtype.size < 8 for tensor in delta.tensors().values())
    # Products of two numbers of at most 24 bits are exact; only t2 and w1b ask for three.
    if not short or {"t2", "w1b"} <= delta.header.tensors.keys():
        delta.matrices()


def expand(
    form: str, values: Mapping[str, Matrix], shape: tuple[int, int], transposed: bool
) -> tuple[Matrix, Matrix]:
    """Returns factors of the product, exact.

    Args:
        form: hadamard, kron, vera or adalora.
        values: The tensors by name, finite.
        shape: Rows and columns of the parameter.
        transposed: Whether the parameter is the transpose of the product.

    Returns:
        L (rows, r) and R (r, columns) of the product before it is transposed.

    Raises:
        UnsupportedFormat: An element of a factor would not be exact in float64.
    """
    if form == "experts":
        raise UnsupportedFormat(
            "the experts of a fused parameter have no factors in common",
            hint="merge their weights: a strategy that works on elements",
        )
    rows, columns = shape[::-1] if transposed else shape
    if form == "hadamard":
        return (
            exact_product(values["w1a"][:, :, None], values["w2a"][:, None, :]).reshape(rows, -1),
            exact_product(values["w1b"][:, None, :], values["w2b"][None]).reshape(-1, columns),
        )
    if form == "vera":
        return (
            exact_product(values["lambda_b"].reshape(-1, 1), values["b"][:rows]),
            exact_product(values["lambda_d"].reshape(-1, 1), values["a"][:, :columns]),
        )
    if form == "adalora":
        a = values["a"].reshape(values["a"].shape[0], -1)
        b = values["b"].reshape(values["b"].shape[0], -1)
        return b, exact_product(values["e"].reshape(-1, 1), a)
    return _kron_matrices(kron_factors(values))


@dataclass(frozen=True)
class KronFactors:
    """A Kronecker product as ``kron(first, second)`` with each of the two a product.

    Attributes:
        first: (a, p) and (p, c); the second of them None for a full matrix (a, c).
        second: (b, q) and (q, d), likewise.
        deep: Whether the right factor of ``second`` holds products of two numbers.
    """

    first: tuple[Matrix, Matrix | None]
    second: tuple[Matrix, Matrix | None]
    deep: bool = False


def kron_factors(values: Mapping[str, Matrix]) -> KronFactors:
    """Returns the two operands of a Kronecker product from its tensors, exact.

    Args:
        values: w1, or w1a and w1b; w2, or w2a and w2b, or these with t2.

    Raises:
        UnsupportedFormat: An element of a factor would not be exact in float64.
    """
    first: tuple[Matrix, Matrix | None]
    second: tuple[Matrix, Matrix | None]
    first = (values["w1"], None) if "w1" in values else (values["w1a"], values["w1b"])
    if "w2" in values:
        w2 = values["w2"]
        second = (w2.reshape(w2.shape[0], -1), None)
    elif "t2" in values:
        t, a, b = values["t2"], values["w2a"], values["w2b"]
        middle = t.reshape(*t.shape[:2], 1, -1)
        right = exact_product(middle, b[None, :, :, None])
        count = t.shape[0] * t.shape[1]
        left = np.repeat(a.T, t.shape[1], axis=1)  # column (i, j) is that of i
        second = (left, right.reshape(count, -1))
    else:
        second = (values["w2a"], values["w2b"])
    return KronFactors(first, second, "t2" in values)


def _kron_matrices(factors: KronFactors) -> tuple[Matrix, Matrix]:
    # Where the right side has a product already, a full W1 must be on the left.
    a1, b1 = _split(*factors.first, on_the_left=factors.deep)
    a2, b2 = _split(*factors.second)
    return _kron(a1, a2), _kron(b1, b2)


def _split(
    left: Matrix, right: Matrix | None, *, on_the_left: bool = False
) -> tuple[Matrix, Matrix]:
    """Returns two factors; a full matrix gets the smaller identity beside it."""
    if right is not None:
        return left, right
    rows, columns = left.shape
    if on_the_left or columns <= rows:
        return left, np.eye(columns)
    return np.eye(rows), left


def _kron(a: Matrix, b: Matrix) -> Matrix:
    product = exact_product(a[:, None, :, None], b[None, :, None, :])
    return product.reshape(a.shape[0] * b.shape[0], -1)


def exact_product(a: Matrix, b: Matrix) -> Matrix:
    """Returns elementwise products, refusing those that float64 does not hold.

    Raises:
        UnsupportedFormat: A product is not exact.
    """
    with np.errstate(all="ignore"):
        product: Matrix = a * b
        if _short(a) and _short(b):
            return product
        wide = np.broadcast_arrays(a, b)
        sizes = np.abs(product)
        inside = ((sizes > 2.0**-900) & (sizes < 2.0**900)) | (wide[0] == 0) | (wide[1] == 0)
        exact = bool(inside.all()) and not bool(two_product(wide[0], wide[1])[1].any())
    if not exact:
        raise UnsupportedFormat(
            "the adapter's factors are too wide for an exact product",
            hint="save the adapter in float32, bfloat16 or float16",
        )
    return product


def _short(values: Matrix) -> bool:
    """Tells whether all values fit float32, so that products of two are exact in float64."""
    return bool((values.astype(np.float32) == values).all())
