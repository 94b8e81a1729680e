"""Which tensor of a module is which parameter of a version.

A module's names may have a wrapper's name in front that the file's lack, or lack
one that those have; one such prefix is found, the same for all. Every tensor that
the module would save must be a parameter of the version, in its dtype and shape.
Two names of the module on the same memory are one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch

from deltavc.delta.tensor import Bits, DType
from deltavc.errors import BaseMismatch, ShapeMismatch, UnsupportedFormat
from deltavc.live.source import Form

__all__ = ["SHOWN", "Slot", "bind", "bits_of", "listed", "residents"]

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Slot:
    """One piece of the module's memory.

    Attributes:
        params: The version's names of what lies there; several where weights are tied.
        names: The module's own names of it.
        tensors: The module's tensors on it; several where weights are tied by hand.
        form: Dtype and shape.
    """

    params: tuple[str, ...]
    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    form: Form

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.tensors[0].nbytes

    def is_home_of(self, tensor: torch.Tensor) -> bool:
        """Tells whether a tensor still is one of these, on the same memory and of this form."""
        return (
            any(tensor is mine for mine in self.tensors)
            and tensor.data_ptr() == self.tensors[0].data_ptr()
            and tuple(tensor.shape) == self.form.shape
            and tensor.dtype is getattr(torch, self.form.dtype.torch)
            and tensor.device.type == "cpu"
            and tensor.is_contiguous()
        )


def bits_of(tensor: torch.Tensor, dtype: DType) -> Bits:
    """Returns a contiguous CPU tensor's bit patterns, flat, as a view of its memory."""
    flat = tensor.detach().reshape(-1)
    if not flat.numel():
        return np.empty(0, dtype=dtype.bits)
    return flat.view(torch.uint8).numpy().view(dtype.bits)


def residents(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the tensors that a module would save, by name: parameters and lasting buffers."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def bind(module: torch.nn.Module, forms: Mapping[str, Form], tied: Mapping[str, str]) -> list[Slot]:
    """Finds the parameter that each tensor of a module is.

    Args:
        module: The module, in CPU memory.
        forms: The version's parameters.
        tied: Parameters that are one tensor with another: alias to name.

    Returns:
        One slot for each piece of memory.

    Raises:
        UnsupportedFormat: A tensor is on another device, or lies in memory in a way that
            cannot be filled: not contiguous, or overlapping another one.
        BaseMismatch: Tensors of the module are not in the version.
        ShapeMismatch: One has another shape or dtype.
    """
    found = residents(module)
    for name, tensor in found.items():
        _check_memory(name, tensor)
    groups = _by_memory(found)
    params = _Names(forms, tied).resolve(found)
    slots, lost = [], []
    for names in groups:
        mine = tuple(dict.fromkeys(params[name] for name in names if name in params))
        if not mine:
            lost += names
            continue
        form = forms[mine[0]]
        for name in names:
            _check_form(name, found[name], forms[params.get(name, mine[0])])
        distinct = {id(found[name]): found[name] for name in names}
        slots.append(Slot(mine, tuple(names), tuple(distinct.values()), form))
    if lost:
        raise BaseMismatch(
            f"{len(lost)} tensors of the module are not in this version: {listed(lost)}",
            hint="make the module of the class that the version was saved from, without adapter"
            " layers, such as with deltavc.integrations.transformers.load_pretrained",
            tensors=sorted(lost),
        )
    return slots


def listed(names: Iterable[str]) -> str:
    """Returns some names in quotes and how many more there are."""
    found = sorted(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in found[:SHOWN]) + more


def _check_memory(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type == "meta":
        _refuse(name, "has no memory yet", "load the model first: repo.load(REV) has its tensors")
    if tensor.device.type != "cpu":
        _refuse(
            name,
            f"is on '{tensor.device}', and a live model is in CPU memory",
            "move it there (module.to('cpu')), or load another version with repo.load(REV) and"
            " copy it over",
        )
    if tensor.is_inference():
        _refuse(
            name,
            "was made in inference mode, and cannot get other memory",
            "make the module outside of torch.inference_mode(); requests may run inside",
        )
    if tensor.layout is not torch.strided or type(tensor.data) is not torch.Tensor:
        _refuse(name, "is not a plain dense tensor", "load the model without quantisation")
    if not tensor.is_contiguous():
        _refuse(name, "is not contiguous in memory", "make it so: tensor.data.contiguous()")


def _refuse(name: str, why: str, hint: str) -> NoReturn:
    raise UnsupportedFormat(f"'{name}' {why}", hint=hint, tensor=name)


def _check_form(name: str, tensor: torch.Tensor, form: Form) -> None:
    if tuple(tensor.shape) != form.shape:
        raise ShapeMismatch(
            f"'{name}' has the shape {list(tensor.shape)} in the module and {list(form.shape)} in"
            " the version",
            tensor=name,
            expected=list(form.shape),
            found=list(tensor.shape),
        )
    if tensor.dtype is not getattr(torch, form.dtype.torch):
        mine = str(tensor.dtype).removeprefix("torch.")
        raise ShapeMismatch(
            f"'{name}' is {mine} in the module and {form.dtype.torch} in the version, whose bits"
            " have no other form",
            hint=f"load the module in the version's own dtype: dtype=torch.{form.dtype.torch}",
            tensor=name,
            expected=form.dtype.torch,
            found=mine,
        )


def _by_memory(found: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Returns the names on each piece of memory; refuses pieces that overlap in part."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, tensor in found.items():
        place = (tensor.data_ptr(), tensor.nbytes) if tensor.numel() else (id(tensor), 0)
        groups.setdefault(place, []).append(name)
    end, before = 0, ""
    for (start, nbytes), names in sorted(groups.items()):
        if not nbytes:
            continue
        if start < end:
            _refuse(names[0], f"shares a part of its memory with '{before}'", "copy one of the two")
        end, before = start + nbytes, names[0]
    return list(groups.values())


class _Names:
    """How a module's names become a version's."""

    def __init__(self, forms: Mapping[str, Form], tied: Mapping[str, str]) -> None:
        self._forms = forms
        self._tied = tied

    def resolve(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the parameter of each name that has one, by the prefix that fits the most."""
        wanted = list(names)
        best: dict[str, str] = {}
        for prefix in self._prefixes(wanted):
            found = {name: p for name in wanted if (p := self._param(name, prefix)) is not None}
            if len(found) > len(best):
                best = found
            if len(best) == len(wanted):
                break
        return best

    def _param(self, name: str, prefix: tuple[str, str]) -> str | None:
        """Returns the parameter of a name; one that is new to the base has its own name."""
        added, dropped = prefix
        candidates = [added + name.removeprefix(dropped)] if name.startswith(dropped) else []
        for candidate in (*candidates, name):
            if candidate in self._forms:
                return candidate
            if self._tied.get(candidate) in self._forms:
                return self._tied[candidate]
        return None

    def _prefixes(self, names: list[str]) -> Iterable[tuple[str, str]]:
        """Yields what may have to be added in front of the module's names, and dropped."""
        yield "", ""
        seen = set()
        by_last: dict[str, list[str]] = {}
        for param in self._forms:
            by_last.setdefault(_last(param), []).append(param)
        for name in names:
            for param in by_last.get(_last(name), ()):
                if param.endswith("." + name):
                    seen.add((param.removesuffix(name), ""))
                elif name.endswith("." + param):
                    seen.add(("", name.removesuffix(param)))
        yield from sorted(seen, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))


def _last(name: str) -> str:
    """Returns the last two components of a name: enough to tell most apart."""
    return ".".join(name.split(".")[-2:])
