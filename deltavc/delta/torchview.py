"""Bit patterns as torch tensors."""

from __future__ import annotations

import torch

from deltavc.delta.tensor import Tensor

__all__ = ["to_torch"]

_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def to_torch(tensor: Tensor, *, copy: bool = True) -> torch.Tensor:
    """Returns a torch tensor with the same bits, of its own memory unless told not to copy."""
    size = tensor.dtype.size
    array = tensor.bits.view(f"<i{size}")
    bits = torch.from_numpy(array.copy() if copy or not array.flags.writeable else array)
    dtype: torch.dtype = getattr(torch, tensor.dtype.torch)
    if dtype is not _SIGNED[size]:
        bits = bits.view(dtype)
    return bits.reshape(tensor.shape)
