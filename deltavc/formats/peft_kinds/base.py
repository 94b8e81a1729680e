"""What a kind of adapter is to the reader: its keys, its settings, its items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deltavc.delta.tensor import Tensor
from deltavc.errors import ShapeMismatch, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import shown
from deltavc.formats.peft_config import Settings
from deltavc.formats.peft_items import AdapterItem
from deltavc.ids import BlobId

__all__ = ["Kind", "Module"]


@dataclass
class Module:
    """The tensors that an adapter's file holds of one module.

    Attributes:
        name: The module, as the adapter names it.
        parts: The tensors by part.
        keys: Their keys in the file.
        shared: The tensors that all modules share.
        blobs: The ids of the blobs that hold these.
    """

    name: str
    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    blobs: Mapping[str, BlobId] = field(default_factory=dict)

    def take(self, *parts: str, arithmetic: bool = True) -> dict[str, Tensor]:
        """Returns tensors that belong together, all of them.

        Args:
            *parts: Their parts.
            arithmetic: Refuse dtypes that have none.

        Returns:
            The tensors by part.

        Raises:
            UnsafeFile: One of them is missing.
            UnsupportedFormat: One of them is of a dtype without arithmetic.
        """
        missing = [part for part in parts if part not in self.parts]
        if missing:
            raise UnsafeFile(
                f"the adapter holds '{shown(self.name)}' without its '{missing[0]}'",
                module=shown(self.name),
                missing=missing,
            )
        found = {part: self.parts[part] for part in parts}
        for part, tensor in found.items():
            if arithmetic and not tensor.dtype.arithmetic:
                raise UnsupportedFormat(
                    f"'{part}' of '{shown(self.name)}' is {tensor.dtype.name}",
                    hint="deltavc reads adapters in F16, BF16, F32 and F64",
                    module=shown(self.name),
                )
        return found

    def keys_of(self, parts: Mapping[str, Tensor]) -> dict[str, str]:
        """Returns the keys of some of the parts."""
        return {part: self.keys[part] for part in parts if part in self.keys}

    def misfit(self, why: str, **context: Any) -> ShapeMismatch:
        """Returns the refusal of shapes that do not go together."""
        told = ", ".join(f"{part} {list(t.shape)}" for part, t in self.parts.items())
        return ShapeMismatch(
            f"the tensors of '{shown(self.name)}' {why}: {told}",
            hint="take config and weights of the same adapter",
            module=shown(self.name),
            **context,
        )


@dataclass(frozen=True)
class Kind:
    """One kind of adapter.

    Attributes:
        peft_type: Its name in the config.
        ends: Ends of keys, and the part of a module that they hold.
        read: Reads the config and refuses what is not rebuilt.
        items: Makes the items of one module out of the parts that the kind knows.
        shared: Keys of tensors that belong to no module, and their parts.
    """

    peft_type: str
    ends: Mapping[str, str]
    read: Callable[[Mapping[str, Any]], Settings]
    items: Callable[[Module, Any], list[AdapterItem]]
    shared: Mapping[str, str] = field(default_factory=dict)
