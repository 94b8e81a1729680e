"""Which way round a linear layer's weight lies: (out, in), or (in, out) as in GPT-2.

A config has one ``fan_in_fan_out`` for all layers, and PEFT leaves there what
the last layer needed: a GPT-2 adapter that also trains the head says False.
Shapes tell the truth, except for square weights; there the base's other layers
do, since the length of a bias is a layer's number of outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from deltavc.delta.tensor import DType
from deltavc.errors import UnsupportedFormat
from deltavc.formats.files import shown
from deltavc.formats.peft_items import Change

__all__ = ["Orientations"]


class Orientations:
    """What an adapter and its base tell about the orientation of weights.

    Args:
        entries: The base's tensors.
        flag: The config's ``fan_in_fan_out``.
    """

    def __init__(self, entries: Mapping[str, tuple[DType, tuple[int, ...]]], flag: bool) -> None:
        self._entries = entries
        self._flag = flag
        self._contradicted = False
        self._votes: dict[str, set[bool]] | None = None

    def note(self, item: Change, shape: tuple[int, ...]) -> None:
        """Takes notice of a trained layer whose shape tells its orientation."""
        possible = item.orientations(shape)
        if item.layer == "linear" and len(possible) == 1 and possible[0] != self._flag:
            self._contradicted = True

    def of(self, item: Change, name: str, shape: tuple[int, ...]) -> bool:
        """Tells whether a parameter is the transpose of what its layer computes with.

        Args:
            item: The change.
            name: The base's parameter.
            shape: Its shape.

        Returns:
            Whether it is.

        Raises:
            UnsupportedFormat: Nothing tells, and the config is wrong elsewhere.
        """
        possible = item.orientations(shape)
        if len(possible) == 1:
            return possible[0]
        module = name.rpartition(".")[0]
        parent, _, leaf = module.rpartition(".")
        votes = self._tally()
        for ballot in (votes.get(f"leaf {leaf}"), votes.get(f"parent {parent}")):
            if ballot is not None and len(ballot) == 1:
                return next(iter(ballot))
        if self._contradicted:
            raise UnsupportedFormat(
                f"nothing tells whether the square '{shown(name)}' is stored transposed:"
                f" the adapter's 'fan_in_fan_out' is wrong for other layers",
                hint="merge the adapter with PEFT, then commit the full model",
                parameter=name,
            )
        return self._flag

    def _tally(self) -> dict[str, set[bool]]:
        """Returns the orientations of the base's layers by last name and by parent."""
        if self._votes is None:
            self._votes = {}
            for name, (_, shape) in self._entries.items():
                module, _, last = name.rpartition(".")
                _, bias = self._entries.get(f"{module}.bias", (None, ()))
                if last != "weight" or len(shape) != 2 or len(bias) != 1 or shape[0] == shape[1]:
                    continue
                if bias[0] in shape:
                    parent, _, leaf = module.rpartition(".")
                    for ballot in (f"leaf {leaf}", f"parent {parent}"):
                        self._votes.setdefault(ballot, set()).add(bias[0] == shape[1])
        return self._votes
