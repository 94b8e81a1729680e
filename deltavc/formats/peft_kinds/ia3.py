"""IA3: outputs, or a feed-forward layer's inputs, multiplied by trained numbers.

An output's number multiplies its bias too, as PEFT's merge does; where the base
has no such bias there is nothing to multiply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta
from deltavc.errors import UnsupportedFormat
from deltavc.formats.files import shown
from deltavc.formats.peft_config import COMMON, Settings, check_fields, flag_of, misplaced, names_of
from deltavc.formats.peft_items import AdapterItem, Change, Place
from deltavc.formats.peft_kinds.base import Kind, Module

__all__ = ["IA3"]

ENDS = {".ia3_l": "v"}
READ = {"fan_in_fan_out", "feedforward_modules", "modules_to_save"}
HARMLESS = COMMON | {"init_ia3_weights"}


@dataclass(frozen=True, kw_only=True)
class Ia3Settings(Settings):
    """What an IA3 config says.

    Attributes:
        feedforward: Ends of the names of modules whose inputs are scaled; None where
            the config has a pattern for them, which is not run.
    """

    feedforward: tuple[str, ...] | None

    def scales_inputs(self, module: str) -> bool | None:
        """Tells whether a module's inputs are scaled; None where only a pattern tells."""
        if self.feedforward is None:
            return None
        return any(module.endswith(end) for end in self.feedforward)


def read(config: Mapping[str, Any]) -> Ia3Settings:
    """Reads an IA3 config."""
    check_fields(config, HARMLESS | READ, {})
    given = config.get("feedforward_modules")
    if not isinstance(given, str | list | None):
        misplaced("feedforward_modules")
    pattern = isinstance(given, str)
    return Ia3Settings(
        feedforward=None if pattern else names_of(config, "feedforward_modules"),
        fan_in_fan_out=flag_of(config, "fan_in_fan_out"),
        modules_to_save=names_of(config, "modules_to_save"),
    )


def items(module: Module, settings: Ia3Settings) -> list[AdapterItem]:
    """Returns the scaled weight of one module, and its scaled bias."""
    if not module.parts:
        return []
    parts = module.take("v")
    shape = parts["v"].shape
    inputs = settings.scales_inputs(module.name)
    if len(shape) == 2 and shape != (1, 1):
        if 1 not in shape or (inputs is not None and inputs != (shape[0] == 1)):
            raise module.misfit("are not what the config's 'feedforward_modules' say")
        inputs = shape[0] == 1
    conv = len(shape) > 2
    if len(shape) < 2 or not parts["v"].count or (conv and parts["v"].count != shape[1]):
        raise module.misfit("are no vector")
    if inputs is None:
        raise UnsupportedFormat(
            f"only the pattern in 'feedforward_modules' tells what '{shown(module.name)}' scales,"
            " and deltavc does not run patterns from a file",
            hint="write the module names out in adapter_config.json",
            flag="feedforward_modules",
            module=shown(module.name),
        )
    made: list[AdapterItem] = [
        Scaled(module.name, "weight", parts, inputs, conv, keys=module.keys_of(parts))
    ]
    if not inputs:
        made.append(Scaled(module.name, "bias", parts, False, conv, optional=True))
    return made


@dataclass(frozen=True, eq=False)
class Scaled(Change):
    """A parameter with its outputs, or its inputs, multiplied by ``v``.

    Attributes:
        inputs: Whether the inputs are.
        conv: Whether the layer is a convolution.
    """

    inputs: bool
    conv: bool

    @property
    def kind(self) -> str:
        """``IA3``."""
        return "IA3"

    @property
    def layer(self) -> str:
        """Linear or conv."""
        return "conv" if self.conv or self.suffix == "bias" else "linear"

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the numbers fit a parameter's dimensions."""
        count = self.parts["v"].count
        if self.suffix == "bias":
            return (False,) if shape == (count,) else ()
        if self.conv:
            if len(shape) != len(self.parts["v"].shape):
                return ()
            groups = count // shape[1] if shape[1] and not count % shape[1] else 0
            fits = groups > 0 and shape[0] % groups == 0 if self.inputs else count == shape[0]
            return (False,) if fits else ()
        if len(shape) != 2:
            return ()
        return tuple(t for t in (False, True) if shape[self.inputs != t] == count)

    def delta(self, place: Place) -> Delta:
        """Returns the delta on a parameter of this shape."""
        from deltavc.delta.kinds import colscale, rowscale

        if self.conv and self.inputs and self.parts["v"].count != place.shape[1]:
            raise UnsupportedFormat(
                f"'{self.name}' is a grouped convolution, whose groups scale apart",
                hint="leave grouped convolutions out of feedforward_modules",
            )
        scaled = colscale if self.inputs != place.transposed else rowscale
        return scaled(self.parts["v"], Fraction(-1), shape=place.shape, shared=self.shared)

    def result(self, place: Place) -> NDArray[np.float64]:
        """Returns the scaled weight of a grouped convolution, a group at a time."""
        base = place.values()
        groups = self.parts["v"].count // base.shape[1]
        scale = self.parts["v"].to_float64().reshape(groups, 1, base.shape[1], 1)
        grouped = base.reshape(groups, base.shape[0] // groups, base.shape[1], -1) * scale
        return np.asarray(grouped).reshape(base.shape)


IA3 = Kind("IA3", ENDS, read, items)
