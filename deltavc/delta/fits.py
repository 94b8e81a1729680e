"""Whether the tensors that a delta's header declares fit the parameter's shape.

Headers come from files that others may have written: nothing in them is used
before it was checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deltavc.delta.tensor import DTYPES
from deltavc.errors import ObjectCorrupt
from deltavc.ids import is_object_id
from deltavc.records.delta import (
    ColScaleHeader,
    DenseHeader,
    DoraHeader,
    LowRankHeader,
    ProductHeader,
    ReplaceHeader,
    RightMulHeader,
    RowScaleHeader,
    TensorInfo,
)
from deltavc.records.model import fraction_from_text

__all__ = [
    "PARAMS",
    "PRODUCT_FORMS",
    "check_header",
    "matrix_shape",
    "oft_block",
    "product_fits",
    "rotation_fits",
]

PARAMS: dict[str, frozenset[str]] = {
    "oft": frozenset({"ball", "direct", "share", "terms"}),
    "boft": frozenset(),
    "hra": frozenset({"orthogonal"}),
}
PRODUCT_FORMS = ("hadamard", "kron", "vera", "adalora", "experts")
INFINITE = 0x7FF << 52  # the bits of infinity as a float64
MAX_TERMS = 64  # of a truncated Cayley series
Shape = tuple[int, ...]


def check_header(header: Any) -> None:
    """Checks that a header's tensors fit its shape, and its streams its tensors.

    Args:
        header: One of the kinds of delta header.

    Raises:
        ObjectCorrupt: They do not.
    """
    lengths = {info.name: info.length for info in header.streams}
    if isinstance(header, LowRankHeader):
        wanted = {
            "b": _size(header.b_shape, header.b_dtype),
            "a": _size(header.a_shape, header.a_dtype),
        }
        if not _lowrank_fits(header.shape, header.b_shape, header.a_shape, header.transposed):
            raise ObjectCorrupt("a low-rank delta's factors do not fit its shape")
    elif isinstance(header, ReplaceHeader) and header.rows:
        wanted = {
            "index": 8 * header.rows,
            "values": _size((header.rows, *header.shape[1:]), header.dtype),
        }
    elif isinstance(header, DenseHeader | ReplaceHeader):
        wanted = {"values": _size(header.shape, header.dtype)}
    elif isinstance(
        header, RowScaleHeader | ColScaleHeader | DoraHeader | ProductHeader | RightMulHeader
    ):
        wanted = _check_tensors(header)
    else:
        return
    if any(lengths.get(name) != length for name, length in wanted.items()):
        raise ObjectCorrupt("a delta's streams do not fit its shape")


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Returns a shape as rows and columns: first dimension, product of the others."""
    return (shape[0] if shape else 1, math.prod(shape[1:]))


def oft_block(elements: int) -> int:
    """Returns the size b of blocks with b (b - 1) / 2 elements above the diagonal; 0 for none."""
    size = (1 + math.isqrt(1 + 8 * elements)) // 2
    return size if size * (size - 1) // 2 == elements else 0


def _size(shape: Shape, dtype: str) -> int:
    if any(dim < 0 for dim in shape):
        raise ObjectCorrupt("a delta has a negative dimension")
    if dtype not in DTYPES:
        raise ObjectCorrupt(f"a delta has the unknown dtype '{dtype[:20]}'")
    return math.prod(shape) * DTYPES[dtype].size


def _lowrank_fits(shape: Shape, b: Shape, a: Shape, transposed: bool) -> bool:
    if len(b) < 2 or len(a) < 2 or not shape or math.prod(b) != b[0] * a[0]:
        return False
    product = (b[0], math.prod(a[1:]))
    return (product[::-1] if transposed else product) == matrix_shape(shape)


def _check_tensors(header: Any) -> dict[str, int]:
    """Returns the lengths of the streams that the tensors need."""
    _size(header.shape, "U8")
    wanted = {}
    for name, info in header.tensors.items():
        length = _size(info.shape, info.dtype)
        if not DTYPES[info.dtype].arithmetic:
            raise ObjectCorrupt(f"a delta's '{name[:20]}' is {info.dtype}, which has no arithmetic")
        if not info.blob:
            wanted[name] = length
        elif not is_object_id(info.blob):
            raise ObjectCorrupt(f"a delta's '{name[:20]}' has a malformed blob id")
    try:
        for field in ("scale", "offset"):
            fraction_from_text(getattr(header, field, "0"))
    except (ValueError, ZeroDivisionError) as error:
        raise ObjectCorrupt("a delta's scale or offset is not a rational") from error
    if not _fits(header):
        raise ObjectCorrupt(f"the tensors of a delta of kind {_kind(header)} do not fit its shape")
    return wanted


def _kind(header: Any) -> str:
    return str(header.__struct_config__.tag)


def _fits(header: Any) -> bool:
    forms: dict[str, TensorInfo] = header.tensors
    shapes = {name: info.shape for name, info in forms.items()}
    shape: Shape = header.shape
    rows, columns = matrix_shape(shape)
    if isinstance(header, RowScaleHeader):
        return shapes.keys() == {"v"} and math.prod(shapes["v"]) == rows
    if isinstance(header, ColScaleHeader):
        inputs = shape[1] if len(shape) > 1 else 0
        return shapes.keys() == {"v"} and len(shape) > 1 and math.prod(shapes["v"]) == inputs
    if isinstance(header, DoraHeader):
        outputs = columns if header.transposed else rows
        gain = forms.get("gain")
        return (
            shapes.keys() - {"gain"} == {"a", "b", "m"}
            and _lowrank_fits(shape, shapes["b"], shapes["a"], header.transposed)
            and math.prod(shapes["m"]) == outputs
            and (gain is None or (gain.dtype, gain.shape) == ("F64", (outputs,)))
        )
    if isinstance(header, ProductHeader):
        if header.form == "experts":
            return _experts_fit(shape, shapes, header.transposed)
        product = (columns, rows) if header.transposed else (rows, columns)
        if header.form == "kron" and header.transposed:
            return False  # a transposed product of three could not be split in two again
        return product_fits(header.form, shapes, product)
    return rotation_fits(header.form, shapes, header.params, rows, columns)


def product_fits(form: str, shapes: Mapping[str, Shape], product: tuple[int, int]) -> bool:
    """Tells whether the tensors of a factored form give a product of this shape.

    Args:
        form: hadamard, kron, vera or adalora.
        shapes: The tensors' shapes by name.
        product: Rows and columns of the product, before it is transposed.
    """
    rows, columns = product
    names = frozenset(shapes)
    if form == "hadamard" and names == {"w1a", "w1b", "w2a", "w2b"}:
        pairs = [(shapes[f"w{i}a"], shapes[f"w{i}b"]) for i in (1, 2)]
        return all(
            len(a) == len(b) == 2 and a == (rows, b[0]) and b == (a[1], columns) for a, b in pairs
        )
    if form == "vera" and names == {"a", "b", "lambda_b", "lambda_d"}:
        a, b = shapes["a"], shapes["b"]
        return (
            len(a) == len(b) == 2
            and a[0] == b[1] == math.prod(shapes["lambda_d"])
            and math.prod(shapes["lambda_b"]) == rows <= b[0]
            and columns <= a[1]
        )
    if form == "adalora" and names == {"a", "b", "e"}:
        a, b = shapes["a"], shapes["b"]
        fits = len(a) >= 2 and len(b) >= 2 and math.prod(b) == b[0] * a[0]
        fits = fits and a[0] == math.prod(shapes["e"])
        return fits and (b[0], math.prod(a[1:])) == (rows, columns)
    return form == "kron" and _kron_fits(shapes, names, product)


def _experts_fit(shape: Shape, shapes: Mapping[str, Shape], transposed: bool) -> bool:
    """Tells whether the stacked factors of experts give a parameter of this shape."""
    if len(shape) != 3 or shapes.keys() != {"a", "b"} or not shape[0]:
        return False
    a, b = shapes["a"], shapes["b"]
    fits = len(a) == len(b) == 2 and a[0] == b[1] > 0 and a[0] % shape[0] == 0
    return fits and (a[1], b[0]) == (shape[1:] if transposed else shape[:0:-1])


def _kron_fits(
    shapes: Mapping[str, Shape], names: frozenset[str], product: tuple[int, int]
) -> bool:
    first, second = names & {"w1", "w1a", "w1b"}, names - {"w1", "w1a", "w1b"}
    if first == {"w1"} and len(shapes["w1"]) == 2:
        outer = shapes["w1"]
    elif first == {"w1a", "w1b"} and _chain(shapes["w1a"], shapes["w1b"]):
        outer = (shapes["w1a"][0], shapes["w1b"][1])
    else:
        return False
    if second == {"w2"} and len(shapes["w2"]) >= 2:
        inner = matrix_shape(shapes["w2"])
    elif second == {"w2a", "w2b"} and _chain(shapes["w2a"], shapes["w2b"]):
        inner = (shapes["w2a"][0], shapes["w2b"][1])
    elif second == {"t2", "w2a", "w2b"}:
        t, a, b = shapes["t2"], shapes["w2a"], shapes["w2b"]
        if len(t) < 2 or len(a) != 2 or len(b) != 2 or t[:2] != (a[0], b[0]):
            return False
        inner = (a[1], b[1] * math.prod(t[2:]))
    else:
        return False
    return (outer[0] * inner[0], outer[1] * inner[1]) == product


def _chain(a: Shape, b: Shape) -> bool:
    return len(a) == 2 and len(b) == 2 and a[1] == b[0]


def rotation_fits(
    form: str, shapes: Mapping[str, Shape], params: Mapping[str, int], rows: int, columns: int
) -> bool:
    """Tells whether the tensors of a rotation fit a matrix of this shape.

    Args:
        form: oft, boft or hra.
        shapes: The tensors' shapes by name.
        params: The form's parameters.
        rows: Rows of the parameter as a matrix.
        columns: Its columns.
    """
    if not params.keys() <= PARAMS.get(form, frozenset()):
        return False
    if form == "oft" and shapes.keys() == {"r"} and len(shapes["r"]) == 2:
        count, elements = shapes["r"]
        block = oft_block(elements)
        flags = params.get("direct", 0) in (0, 1) and params.get("share", 0) in (0, 1)
        fits = flags and 0 <= params.get("terms", 0) <= MAX_TERMS and block > 0 and count > 0
        fits = fits and 0 < params.get("ball", 1) < INFINITE  # bits of a positive float64
        if params.get("share", 0):
            return fits and count == 1 and columns % block == 0
        return fits and count * block == columns
    if form == "boft" and shapes.keys() == {"r", "s"} and len(shapes["r"]) == 4:
        factors, count, block, other = shapes["r"]
        fits = block == other and count * block == columns and math.prod(shapes["s"]) == rows
        if factors > 1:
            fits = fits and factors < 32 and block % 2 == 0 and count % (1 << (factors - 1)) == 0
        return fits and factors > 0 and block > 0
    if form == "hra" and shapes.keys() == {"u"} and len(shapes["u"]) == 2:
        fits = shapes["u"][0] == columns and shapes["u"][1] > 0
        return fits and params.get("orthogonal", 0) in (0, 1)
    return False
