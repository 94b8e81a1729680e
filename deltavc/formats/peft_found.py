"""Writes a PEFT folder of any kind from tensors and a config that are there already.

What the tensors are is decided elsewhere: :mod:`deltavc.formats.peft_write` makes a
LoRA of a sum, and an adapter that goes out as it came in has them as found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltavc.delta.kinds import Delta
from deltavc.delta.tensor import Tensor
from deltavc.formats.peft_config import tokens_of
from deltavc.formats.writer import Written, write_folder
from deltavc.formats.writer_plan import FolderPlan, Held, Planned, PlannedFile, Seal

__all__ = [
    "CONFIG_FILE",
    "KEY_PREFIX",
    "WEIGHTS_FILE",
    "WrittenAdapter",
    "planned_weights",
    "rows_as_listed",
    "rows_in_order",
    "write_found",
]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
KEY_PREFIX = "base_model.model."
# The order of the reference writer: widest dtype first, then by name.
_FILE_ORDER = (
    "U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E4M3", "F8_E5M2",
    "I8", "U8", "BOOL",
)  # fmt: skip


@dataclass
class WrittenAdapter(Written):
    """What was written.

    Attributes:
        config: What ``adapter_config.json`` says.
        rounded: Parameters whose factors had to be rounded, by request.
        count: Tensors, where they were written one by one.
    """

    config: dict[str, Any] = field(default_factory=dict)
    rounded: tuple[str, ...] = ()
    count: int = 0


def write_found(
    target: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor] | bytes,
    *,
    base_name: str | None = None,
    files: Mapping[str, Path | bytes] | None = None,
    seal: Seal | None = None,
    replace: bool = False,
) -> WrittenAdapter:
    """Writes an adapter of any kind as it came in.

    Args:
        target: The folder that is to be.
        config: Its config.
        weights: Its tensors by key, or its weights file as it was.
        base_name: ``base_model_name_or_path``; without it the config's own stays.
        files: Other files of the folder: README.
        seal: The file that is made last.
        replace: Take the place of a folder that is there.

    Returns:
        What was written.

    Raises:
        NameTaken: The target is there and not to be replaced.
        RepositoryUnwritable: Disk full, read-only, no permission.
    """
    made = {**config} if base_name is None else {**config, "base_model_name_or_path": base_name}
    text = json.dumps(made, indent=2, sort_keys=True).encode()
    if isinstance(weights, bytes):
        kept = {**(files or {}), WEIGHTS_FILE: weights, CONFIG_FILE: text}
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        plan, count = FolderPlan([], kept, seal), len(header.keys() - {"__metadata__"})
    else:
        kept = {**(files or {}), CONFIG_FILE: text}
        plan, count = FolderPlan([planned_weights(weights)], kept, seal), len(weights)
    done = write_folder(target, plan, durable=False, replace=replace)
    return WrittenAdapter(**vars(done), config=made, count=count)


def planned_weights(tensors: Mapping[str, Tensor]) -> PlannedFile:
    """Returns the weights file with tensors in the order of the reference writer."""
    ordered = sorted(
        tensors.items(), key=lambda item: (_FILE_ORDER.index(item[1].dtype.name), item[0])
    )
    return PlannedFile(
        WEIGHTS_FILE,
        {"format": "pt"},
        [Planned(key, t.dtype, t.shape, Held.later(t)) for key, t in ordered],
    )


def rows_as_listed(delta: Delta, config: Mapping[str, Any], key: str) -> Tensor:
    """Returns an embedding's trained rows in the order in which a config lists them.

    Args:
        delta: The replacement, whose rows ascend.
        config: The config of the adapter that it came from.
        key: The rows' key in the adapter's file.

    Returns:
        The rows.
    """
    module = key.removeprefix(KEY_PREFIX).rpartition(".token_adapter.")[0]
    known, said = delta.row_index().tolist(), tokens_of(config)
    if isinstance(said, dict):
        said = next((t for k, t in said.items() if module == k or module.endswith(f".{k}")), [])
    return rows_in_order(delta, said if sorted(said) == known else known)


def rows_in_order(delta: Delta, order: Sequence[int]) -> Tensor:
    """Returns the values of replaced rows, in another order than ascending."""
    place = {row: i for i, row in enumerate(delta.row_index().tolist())}
    values = delta.values()
    bits = values.bits.reshape(len(place), -1)[[place[row] for row in order]]
    return Tensor(values.dtype, (len(place), *delta.shape[1:]), bits.reshape(-1))
