"""Chooses how a changed tensor is stored: always exactly, and as small as found.

What comes out is decoded and compared bit for bit with what went in before it
is returned. Equal input and effort give equal bytes on one machine; factors of
a low-rank change are found with floats, so another BLAS may find others, which
decode to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltavc.codec.digest import sha256_hex
from deltavc.delta import kinds
from deltavc.delta.drift import find_drift
from deltavc.delta.estimate import stored_size
from deltavc.delta.exact import Coded, code, finish, leads_to, residual
from deltavc.delta.kinds import Delta
from deltavc.delta.lowrank_fit import Settings, fit_leading, fit_lowrank
from deltavc.delta.ordinals import all_finite, block_size, blocks
from deltavc.delta.predict import Predictor, Same
from deltavc.delta.residual import Residual
from deltavc.delta.sparse import decode_sparse, sparse_ordinal
from deltavc.delta.tensor import Tensor
from deltavc.errors import InternalError, UsageError

__all__ = ["EFFORTS", "Encoded", "encode_tensor"]

_GROUPING_GAIN = 0.985  # grouped elements are read at a third of the speed
MIN_CHANGED = 0.05  # a merged adapter changes more of a matrix; sparse changes need no probe
SPARSE_BELOW = 0.25  # share of changed elements; each takes 8 bytes of position when read
HEADER_COST = 420  # two SHA-256 in hex and the rest of an exact delta's header


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded change.

    Attributes:
        delta: The delta.
        rank: Rank, where the change was found to be of low rank.
        what: For people: ``low-rank + correction``, ``sparse``, ``exact``,
            ``new`` or ``replaced``.
    """

    delta: Delta
    rank: int | None
    what: str

    @property
    def estimate(self) -> int:
        """About the bytes that it will take up in the store."""
        return stored_size(self.delta.streams) + HEADER_COST


@dataclass(frozen=True)
class _Effort:
    """How hard to try.

    Attributes:
        fit: How factors are fitted.
        gain: A low-rank predictor must bring the size below this share of the
            plain one's; it is read at a third of the speed.
        grouped: Also try elements grouped by exponent.
        leading: Ranks of rough factors to try under a change of full rank.
    """

    fit: Settings
    gain: float
    grouped: bool = False
    leading: tuple[int, ...] = ()


EFFORTS: dict[str, _Effort] = {
    "fast": _Effort(Settings(steps=()), gain=0.7),
    "default": _Effort(Settings(steps=(5.0, 4.0)), gain=0.75),
    "max": _Effort(
        Settings(steps=(6.0, 4.0, 3.0, 3.0, 3.0, 3.0)), gain=0.99, grouped=True, leading=(4, 8, 16)
    ),
}


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One way to store a change."""

    predictor: Predictor
    left: Residual
    coded: Coded
    rank: int | None = None

    @classmethod
    def of(
        cls, base: Tensor, predictor: Predictor, left: Residual, rank: int | None = None
    ) -> _Candidate:
        return cls(predictor, left, code(base, predictor, left), rank)

    @property
    def is_sparse(self) -> bool:
        """Whether a sparse delta holds the same in fewer bytes, and fewer to look at."""
        plain = isinstance(self.predictor, Same) and not self.coded.params.get("grouped")
        return plain and self.left.changed < SPARSE_BELOW * self.left.folded.size

    def size(self, *, whole: bool = False) -> int:
        """Returns about the bytes that it takes up; asked for only where there is a choice."""
        return stored_size(self.coded.streams, whole=whole) + HEADER_COST


def encode_tensor(
    base: Tensor | None, new: Tensor, *, base_sha256: str = "", effort: str = "default"
) -> Encoded | None:
    """Encodes a parameter of a checkpoint against the base.

    Args:
        base: The base's tensor, or None where the base lacks it.
        new: The checkpoint's tensor.
        base_sha256: SHA-256 of the base tensor's bytes, computed if empty.
        effort: ``fast``, ``default`` or ``max`` (smaller, several times slower).

    Returns:
        The encoded change, or None if there is none.

    Raises:
        UsageError: There is no such effort.

    Cost:
        See ``docs/adr/0004-exact-coding.md`` for sizes and speeds. Memory: the
        residual, as large as the tensor, and buffers.
    """
    if effort not in EFFORTS:
        raise UsageError(f"'{effort[:20]}' is not an effort", hint="efforts: fast, default, max")
    if base is None:
        finite = new.dtype.arithmetic and all_finite(new.bits, new.dtype)
        return _whole(new, additive=finite)
    if base.same_bits(new):
        return None
    if base.dtype is not new.dtype or base.shape != new.shape or not new.dtype.arithmetic:
        return _whole(new, additive=False)
    chosen = _choose(base, new, EFFORTS[effort])
    if chosen is None:
        return _whole(new, additive=False)
    base_sha256 = base_sha256 or sha256_hex(base.raw())
    if chosen.is_sparse:
        delta = sparse_ordinal(base.shape, base.dtype, chosen.coded, base_sha256)
    else:
        delta = finish(chosen.coded, new, base_sha256)
    return _verified(delta, base, new, chosen)


def _whole(new: Tensor, *, additive: bool) -> Encoded:
    delta = kinds.dense(new) if additive else kinds.replace(new)
    return Encoded(delta, None, "new" if additive else "replaced")


def _choose(base: Tensor, new: Tensor, effort: _Effort) -> _Candidate | None:
    """Returns the smallest of the candidates that the effort allows; None unless all is finite."""
    drift = find_drift(base, new)
    first: Predictor = Same(new.dtype) if drift is None else drift
    left = residual(base, new, first)
    if not left.finite:
        return None
    best = _Candidate.of(base, first, left)
    if drift is None:  # what saves bits on each weight needs no second look
        best = _with_factors(base, new, best, effort)
    if effort.grouped and not best.coded.params.get("grouped"):
        coded = code(base, best.predictor, best.left, grouped=True)
        grouped = _Candidate(best.predictor, best.left, coded, best.rank)
        if grouped.size(whole=True) < _GROUPING_GAIN * best.size(whole=True):
            best = grouped
    return best


def _with_factors(base: Tensor, new: Tensor, plain: _Candidate, effort: _Effort) -> _Candidate:
    """Returns the best of a plain difference and those from low-rank predictions."""
    changed = plain.left.changed / max(1, new.count)
    fitted = fit_lowrank(base, new, effort.fit) if changed > MIN_CHANGED else None
    if fitted is not None:
        found = _Candidate.of(base, fitted, residual(base, new, fitted), fitted.rank)
        if found.size() < effort.gain * plain.size():
            return found
    best = plain
    for rank in effort.leading if changed > SPARSE_BELOW else ():
        rough = fit_leading(base, new, rank)
        if rough is not None:
            other = _Candidate.of(base, rough, residual(base, new, rough))
            best = min(best, other, key=_Candidate.size)
    return best


def _verified(delta: Delta, base: Tensor, new: Tensor, chosen: _Candidate) -> Encoded:
    """Returns a delta after decoding it to the very bits that it is to hold."""
    if chosen.is_sparse:
        what, right = "sparse", _is_all_change(base, new, *decode_sparse(delta, base))
    else:
        what = "exact" if chosen.rank is None else "low-rank + correction"
        right = leads_to(delta, base, new)
    if not right:
        raise InternalError("an encoded tensor does not decode to what it was made from")
    return Encoded(delta, chosen.rank, what)


def _is_all_change(base: Tensor, new: Tensor, positions: NDArray[np.int64], values: Tensor) -> bool:
    """Tells whether values at distinct positions are all that differs from the base."""
    there = new.bits[positions]
    if not np.array_equal(there, values.bits) or bool((there == base.bits[positions]).any()):
        return False
    differing = sum(
        int(np.count_nonzero(base.bits[start:stop] != new.bits[start:stop]))
        for start, stop in blocks(new.count, block_size(new.dtype))
    )
    return differing == positions.size
