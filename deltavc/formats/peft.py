"""Opening a PEFT LoRA folder: what it changes, module by module, not yet on any base.

``adapter_config.json`` and ``adapter_model.safetensors`` become a list of
items. An item knows its module as the adapter names it and makes its delta
once the base's shape is known; finding the base's parameter is the work of
:mod:`deltavc.formats.peft_match`. What the file holds must be understood to
the last tensor: an adapter is never taken in part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deltavc.delta.kinds import Delta, lowrank, replace_rows
from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import kind_of, read_small, shown
from deltavc.formats.peft_config import LoraSettings, read_settings
from deltavc.formats.pickles import PickledFile, refuse_pickle
from deltavc.formats.safetensors import SafetensorsFile
from deltavc.records.canonical import loads_strict

__all__ = ["Adapter", "AdapterItem", "Factors", "Rows", "Whole", "is_adapter", "open_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
KEY_PREFIX = "base_model.model."
MAX_CONFIG = 16 << 20
MAX_ATTACHMENT = 64 << 20
ATTACHMENTS = (
    "README.md", "added_tokens.json", "chat_template.jinja", "chat_template.json", "merges.txt",
    "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip

# ends of keys, and the part of a module's change that they hold
PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".token_adapter.trainable_tokens_delta": "rows",
    ".base_layer.weight": "copy",
}
NOT_REBUILT = {
    ".lora_B.bias": "lora_bias",
    ".lora_magnitude_vector": "use_dora",
    ".lora_magnitude_vector.weight": "use_dora",
}
# A training aid that no forward pass reads.
SKIPPED = ("lora_velora_embed",)


@dataclass(frozen=True, eq=False)
class AdapterItem:
    """One change that an adapter makes.

    Attributes:
        module: The module, as the adapter names it.
        suffix: The parameter in the module: weight, bias, ….
    """

    module: str
    suffix: str

    @property
    def kind(self) -> str:
        """``lowrank``, ``rows``, ``replace`` or ``bias``."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The parameter, as the adapter names it."""
        return f"{self.module}.{self.suffix}" if self.module else self.suffix


@dataclass(frozen=True, eq=False)
class Factors(AdapterItem):
    """Low-rank factors.

    Attributes:
        b: (out, r), or (out, r, 1, …) of a convolution.
        a: (r, in), or (r, in, k, …).
        scale: alpha / r, or the float64 nearest to alpha / sqrt(r).
        layer: linear, embedding or conv.
    """

    b: Tensor
    a: Tensor
    scale: Fraction
    layer: str

    @property
    def kind(self) -> str:
        """``lowrank``."""
        return "lowrank"

    @property
    def rank(self) -> int:
        """The factors' inner dimension."""
        return self.a.shape[0]

    def orientations(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns in which ways the product fits a parameter: as it is, transposed, both, none."""
        product = (self.b.shape[0], *self.a.shape[1:])
        if self.layer == "conv":
            return (False,) if shape == product else ()
        if self.layer == "embedding":
            return (True,) if shape == product[::-1] else ()
        return tuple(t for t in (False, True) if shape == (product[::-1] if t else product))

    def delta(self, shape: tuple[int, ...], *, transposed: bool) -> Delta:
        """Returns the delta on a parameter of this shape.

        Args:
            shape: The parameter's shape.
            transposed: The parameter is the transpose of B @ A.

        Returns:
            The delta.
        """
        return lowrank(
            self.b, self.a, self.scale, shape=shape, transposed=transposed, layer=self.layer
        )


@dataclass(frozen=True, eq=False)
class Rows(AdapterItem):
    """Trained rows of an embedding, which stand instead of the base's.

    Attributes:
        index: Ascending row numbers.
        values: The rows.
    """

    index: NDArray[np.uint64]
    values: Tensor

    @property
    def kind(self) -> str:
        """``rows``."""
        return "rows"

    def delta(self, shape: tuple[int, ...], values: Tensor | None = None) -> Delta:
        """Returns the delta on a parameter of this shape.

        Args:
            shape: The parameter's shape.
            values: The rows in the parameter's dtype, where it is not the adapter's.

        Returns:
            The delta.
        """
        return replace_rows(self.index, self.values if values is None else values, shape)


@dataclass(frozen=True, eq=False)
class Whole(AdapterItem):
    """A parameter that the adapter brings whole.

    Attributes:
        values: The parameter.
        copied: It is the adapter's copy of what the base has under its factors.
        saved: The config names its module in ``modules_to_save``.
    """

    values: Tensor
    copied: bool = False
    saved: bool = False

    @property
    def kind(self) -> str:
        """``bias`` or ``replace``."""
        return "bias" if self.suffix == "bias" else "replace"


@dataclass
class Adapter:
    """An open adapter; its tensors are views of the file.

    Attributes:
        path: The folder.
        config: The parsed config.
        config_bytes: The config as found.
        settings: What of the config is read.
        items: What the adapter changes, in the order of the file.
        files: Files that go along: README and tokenizer.
        bytes_read: Bytes of config and weights.
        metadata: Metadata of the weights file.
    """

    path: Path
    config: dict[str, Any]
    config_bytes: bytes
    settings: LoraSettings
    items: list[AdapterItem]
    files: dict[str, Path]
    bytes_read: int
    metadata: dict[str, str]
    _source: SafetensorsFile | PickledFile = field(repr=False)

    def close(self) -> None:
        """Closes the file; tensors that are in use stay good."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_adapter(path: Path) -> bool:
    """Tells whether a path is a folder with an adapter's config."""
    return kind_of(Path(path) / CONFIG) is not None


def open_adapter(path: Path, *, allow_pickle: bool = False) -> Adapter:
    """Opens a PEFT LoRA folder.

    Args:
        path: The folder.
        allow_pickle: Read pickled weights with torch's weights-only loader.

    Returns:
        The adapter; close it, or use it in a ``with`` statement.

    Raises:
        UnsafeFile: Malformed, a pickle, or not regular files.
        UnsupportedFormat: Not an adapter, or one that deltavc does not rebuild.
        ShapeMismatch: Factors that do not fit each other or the config.
        NonFiniteTensor: A tensor holds NaN or infinity.
        MissingExtra: The installed torch is too old to read pickles safely.
    """
    path = Path(path)
    if not is_adapter(path):
        raise UnsupportedFormat(
            f"there is no {CONFIG} in '{shown(path)}'",
            hint="give the folder that PEFT's save_pretrained wrote",
            path=str(path),
        )
    config_bytes = read_small(path / CONFIG, max_bytes=MAX_CONFIG)
    config = loads_strict(config_bytes, f"'{CONFIG}'", max_bytes=MAX_CONFIG)
    if not isinstance(config, dict):
        raise UnsafeFile(f"'{CONFIG}' is not a JSON object", path=str(path))
    settings = read_settings(config)
    source = _open_weights(path, allow_pickle=allow_pickle)
    try:
        items = _collect(source, settings)
    except BaseException:
        source.close()
        raise
    files = {name: path / name for name in ATTACHMENTS if _is_attachment(path / name)}
    size = len(config_bytes) + source.size
    return Adapter(
        path, config, config_bytes, settings, items, files, size, source.metadata, source
    )


def _open_weights(path: Path, *, allow_pickle: bool) -> SafetensorsFile | PickledFile:
    if kind_of(path / WEIGHTS) is not None:
        return SafetensorsFile(path / WEIGHTS)
    if kind_of(path / PICKLED_WEIGHTS) is None:
        raise UnsupportedFormat(
            f"there is no {WEIGHTS} in '{shown(path)}'",
            hint="save the adapter again with PEFT's save_pretrained",
            path=str(path),
        )
    if not allow_pickle:
        raise refuse_pickle(path / PICKLED_WEIGHTS)
    return PickledFile(path / PICKLED_WEIGHTS)


def _is_attachment(path: Path) -> bool:
    return kind_of(path) == "file" and path.stat().st_size <= MAX_ATTACHMENT


def _collect(source: SafetensorsFile | PickledFile, settings: LoraSettings) -> list[AdapterItem]:
    """Sorts the file's tensors by module and makes the items."""
    modules: dict[str, dict[str, Tensor]] = {}
    for entry in source.entries:
        split = _split(entry.name)
        if split is None:
            continue
        module, part = split
        tensor = source.tensor(entry.name)
        _check_numbers(entry.name, tensor)
        parts = modules.setdefault(module, {})
        if part in parts and not parts[part].same_bits(tensor):
            raise UnsafeFile(
                f"the adapter holds '{shown(entry.name)}' twice, with different values",
                key=shown(entry.name),
            )
        parts[part] = tensor
    items: list[AdapterItem] = []
    for module, parts in modules.items():
        items += _items(module, parts, settings)
    if not items:
        raise UnsupportedFormat(
            "the adapter's file holds no tensors", hint="save it again with PEFT"
        )
    wanted = len(settings.tokens) if isinstance(settings.tokens, dict) else bool(settings.tokens)
    if wanted and not any(isinstance(item, Rows) for item in items):
        raise UnsafeFile("the adapter's config names trained tokens and its file holds none")
    return items


def _split(key: str) -> tuple[str, str] | None:
    """Returns module and part; None for what is passed over."""
    if not key.startswith(KEY_PREFIX):
        raise UnsupportedFormat(
            f"the adapter's key '{shown(key)}' does not start with '{KEY_PREFIX}'",
            hint="save the adapter again with PEFT's save_pretrained",
            key=shown(key),
        )
    rest = "." + key.removeprefix(KEY_PREFIX)
    for end, flag in NOT_REBUILT.items():
        if rest.endswith(end):
            raise UnsupportedFormat(
                f"the adapter holds '{shown(key)}', as adapters with '{flag}' do",
                hint="merge it with PEFT first",
                flag=flag,
            )
    known = next((end for end in PARTS if rest.endswith(end)), "")
    if known:
        path, part = rest.removesuffix(known).split(".")[1:], PARTS[known]
    else:
        *path, part = rest.split(".")[1:]
        if "original_module" in path or part in SKIPPED:
            return None  # the base's own values beside those in modules_to_save
        if any(name.startswith("lora_") for name in [*path, part]):
            raise UnsupportedFormat(
                f"the adapter's key '{shown(key)}' is of no kind that deltavc knows",
                hint="upgrade deltavc, or merge the adapter with PEFT first",
                key=shown(key),
            )
        part = f"whole {part}"
    if known and "base_layer" in path:
        # torch's MultiheadAttention: PEFT 0.21 adds the output projection's
        # delta twice, in forward and in its merge, and others may add it once.
        raise UnsupportedFormat(
            f"the adapter's key '{shown(key)}' lies in another adapted layer",
            hint="leave MultiheadAttention out of target_modules, or merge with PEFT first",
            key=shown(key),
        )
    # PEFT wraps modules; the base knows nothing of the wrappers.
    return ".".join(n for n in path if n not in ("base_layer", "modules_to_save")), part


def _check_numbers(key: str, tensor: Tensor) -> None:
    if not tensor.is_finite():
        raise NonFiniteTensor(
            f"the adapter's tensor '{shown(key)}' holds NaN or infinity", tensor=shown(key)
        )


def _items(module: str, parts: dict[str, Tensor], settings: LoraSettings) -> list[AdapterItem]:
    """Makes the items of one module."""
    items: list[AdapterItem] = []
    for a, b in (("a", "b"), ("embedding_a", "embedding_b")):
        if (a in parts) != (b in parts):
            raise UnsafeFile(
                f"the adapter holds one of two factors of '{shown(module)}'", module=shown(module)
            )
        if a in parts:
            embedding = a == "embedding_a"
            items.append(_factors(module, parts[a], parts[b], settings, embedding=embedding))
    if len(items) > 1:
        raise UnsafeFile(
            f"the adapter has '{shown(module)}' both as embedding and as linear layer",
            module=shown(module),
        )
    if "copy" in parts:
        items.append(Whole(module, "weight", parts["copy"], copied=bool(items)))
    if "rows" in parts:
        items.append(_rows(module, parts["rows"], settings))
    items += [
        Whole(module, part.removeprefix("whole "), tensor, saved=settings.saves(module))
        for part, tensor in parts.items()
        if part.startswith("whole ")
    ]
    return items


def _factors(
    module: str, a: Tensor, b: Tensor, settings: LoraSettings, *, embedding: bool
) -> Factors:
    shapes = f"A {a.shape} and B {b.shape} of '{shown(module)}'"
    if not (a.dtype.arithmetic and b.dtype.arithmetic):
        raise UnsupportedFormat(
            f"the factors of '{shown(module)}' are {b.dtype.name} and {a.dtype.name}",
            hint="deltavc reads factors in F16, BF16, F32 and F64",
        )
    fits = len(a.shape) >= 2 and len(a.shape) == len(b.shape) and a.count and b.count
    if not fits or any(dim != 1 for dim in b.shape[2:]) or (embedding and len(a.shape) > 2):
        raise ShapeMismatch(f"{shapes} are not factors", module=shown(module))
    rank = a.shape[0]
    if len(a.shape) > 2 and b.shape[1] != rank and rank % b.shape[1] == 0:
        raise UnsupportedFormat(
            f"'{shown(module)}' is a grouped convolution, and its factors have no product",
            hint="leave grouped convolutions out of target_modules",
            module=shown(module),
        )
    if b.shape[1] != rank:
        raise ShapeMismatch(f"{shapes} have no common rank", module=shown(module))
    said = settings.rank_of(module)
    if rank != said:
        raise ShapeMismatch(
            f"'{shown(module)}' has rank {rank}, and the adapter's config says {said}",
            hint="take config and weights of the same adapter",
            module=shown(module),
            expected=said,
            found=rank,
        )
    layer = "embedding" if embedding else "linear" if len(a.shape) == 2 else "conv"
    return Factors(module, "weight", b, a, settings.scale_of(module, rank), layer)


def _rows(module: str, values: Tensor, settings: LoraSettings) -> Rows:
    tokens = settings.tokens
    if isinstance(tokens, dict):
        tokens = next(
            (t for key, t in tokens.items() if module == key or module.endswith(f".{key}")), []
        )
    if len(values.shape) != 2 or values.shape[0] != len(tokens) or not tokens:
        raise ShapeMismatch(
            f"the adapter has rows {values.shape} for {len(tokens)} tokens of '{shown(module)}'",
            hint="take config and weights of the same adapter",
            module=shown(module),
        )
    if not values.dtype.arithmetic:
        raise UnsupportedFormat(f"the rows of '{shown(module)}' are {values.dtype.name}")
    # The file has the rows in the order of the config; a delta has them ascending.
    order = np.argsort(np.array(tokens, dtype=np.uint64), kind="stable")
    rows = values.bits.reshape(values.shape)[order].reshape(-1)
    index = np.array(tokens, dtype=np.uint64)[order]
    return Rows(module, "weight", index, Tensor(values.dtype, values.shape, rows))
