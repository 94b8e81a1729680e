"""Bit patterns as torch tensors."""

from __future__ import annotations

import torch

from deltavc.delta.tensor import Tensor

__all__ = ["to_torch"]

_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Returns a torch tensor of its own memory with the same bits."""
    size = tensor.dtype.size
    bits = torch.from_numpy(tensor.bits.view(f"<i{size}").copy())
    dtype: torch.dtype = getattr(torch, tensor.dtype.torch)
    if dtype is not _SIGNED[size]:
        bits = bits.view(dtype)
    return bits.reshape(tensor.shape)
