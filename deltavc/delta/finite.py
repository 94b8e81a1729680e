"""Refusing what sums cannot be made of."""

from __future__ import annotations

from deltavc.delta.rounding import not_finite
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor

__all__ = ["require_finite", "require_finite_beside"]


def require_finite(values: Tensor, name: str) -> Tensor:
    """Returns a delta's values; refuses NaN and infinity.

    Args:
        values: The values.
        name: The parameter, for the message.

    Returns:
        The same values.

    Raises:
        NonFiniteTensor: Some are not finite.
    """
    if not values.is_finite():
        raise NonFiniteTensor(f"a delta of '{name}' holds NaN or infinity", parameter=name)
    return values


def require_finite_beside(values: Tensor, beneath: Tensor, name: str) -> None:
    """Refuses values that are not finite where those beneath them are.

    Args:
        values: The values.
        beneath: What they take the place of.
        name: The parameter, for the message.

    Raises:
        NonFiniteTensor: Some are not, and were before.
    """
    if values.is_finite():
        return
    step = 1 << 18
    for at in range(0, values.count, step):
        mine = not_finite(values.bits[at : at + step], values.dtype)
        if bool((mine & ~not_finite(beneath.bits[at : at + step], beneath.dtype)).any()):
            raise NonFiniteTensor(f"a delta of '{name}' holds NaN or infinity", parameter=name)
