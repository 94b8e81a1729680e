"""Opening a PEFT folder: what it changes, module by module, not yet on any base.

``adapter_config.json`` and ``adapter_model.safetensors`` become a list of
items (:mod:`deltavc.formats.peft_items`); what the tensors of a kind mean is in
:mod:`deltavc.formats.peft_kinds`. What the file holds must be understood to the
last tensor: an adapter is never taken in part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from deltavc.delta.tensor import Tensor
from deltavc.errors import NonFiniteTensor, ShapeMismatch, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import kind_of, read_small, shown
from deltavc.formats.peft_config import LoraSettings, Settings
from deltavc.formats.peft_items import AdapterItem, Change, Factors, Rows, Whole, blob_of
from deltavc.formats.peft_kinds import KINDS, MARKS, WEIGHTLESS, Kind, Module
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

# Ends of keys that adapters of all kinds have, and what they hold.
ROWS, COPY = ".token_adapter.trainable_tokens_delta", ".base_layer.weight"
# PEFT wraps modules; the base knows nothing of the wrappers.
WRAPPERS = ("base_layer", "modules_to_save", "ln_tuning_layers")
# A training aid that no forward pass reads.
SKIPPED = ("lora_velora_embed",)


@dataclass
class Adapter:
    """An open adapter; its tensors are views of the file.

    Attributes:
        path: The folder.
        config: The parsed config.
        config_bytes: The config as found.
        kind: What kind of adapter it is, as the config names it.
        settings: What of the config is read.
        items: What the adapter changes, in the order of the file; nothing, if it acts
            beside the weights.
        empty: The tensors of its file that hold no element, by key.
        files: Files that go along: README and tokenizer.
        bytes_read: Bytes of config and weights.
        metadata: Metadata of the weights file.
    """

    path: Path
    config: dict[str, Any]
    config_bytes: bytes
    kind: str
    settings: Settings
    items: list[AdapterItem]
    empty: dict[str, Tensor]
    files: dict[str, Path]
    bytes_read: int
    metadata: dict[str, str]
    _source: SafetensorsFile | PickledFile = field(repr=False)

    @property
    def weightless(self) -> bool:
        """Whether it has no form as weights: a prompt, a prefix."""
        return self.kind in WEIGHTLESS

    @property
    def plain(self) -> bool:
        """Whether it is a LoRA of which :mod:`deltavc.formats.peft_write` can make another one."""
        return (
            isinstance(self.settings, LoraSettings)
            and self.kind == "LORA"
            and (self.settings.plain)
        )

    def verbatim(self) -> bool:
        """Tells whether the items hold all tensors of the file as they are in it."""
        held = {key for item in self.items for key in _keys(item)}
        changes = [item for item in self.items if isinstance(item, Change)]
        shared = KINDS[self.kind].shared if not self.weightless else {}
        left = {e.name for e in self._source.entries} - held - self.empty.keys() - shared.keys()
        return all(c.verbatim for c in changes) and all(_passed_over(key) for key in left)

    def file_bytes(self) -> bytes:
        """Returns the weights file as it is.

        Raises:
            UnsafeFile: It is a pickle, which is not handed on.
        """
        if isinstance(self._source, PickledFile):
            raise UnsafeFile(
                f"the adapter in '{shown(self.path)}' must be kept as it is, and is a pickle",
                hint="save it again with PEFT as safetensors",
                path=str(self.path),
            )
        return (self.path / WEIGHTS).read_bytes()

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
    name = config.get("peft_type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None and not (isinstance(name, str) and name in WEIGHTLESS):
        raise UnsupportedFormat(
            f"adapters of type '{shown(name)}' are not supported",
            hint="merge the adapter into its model with PEFT, then commit the full model",
            peft_type=shown(name),
        )
    settings = kind.read(config) if kind is not None else Settings()
    source = _open_weights(path, allow_pickle=allow_pickle)
    try:
        tensors = {entry.name: source.tensor(entry.name) for entry in source.entries}
        for key, tensor in tensors.items():
            _check_numbers(key, tensor)
        if kind is None:
            _check_weightless(str(name), tensors)
        items = _collect(tensors, kind, settings) if kind is not None else []
    except BaseException:
        source.close()
        raise
    files = {file: path / file for file in ATTACHMENTS if _is_attachment(path / file)}
    size = len(config_bytes) + source.size
    return Adapter(
        path=path,
        config=config,
        config_bytes=config_bytes,
        kind=str(name),
        settings=settings,
        items=items,
        empty={key: tensor for key, tensor in tensors.items() if not tensor.count},
        files=files,
        bytes_read=size,
        metadata=source.metadata,
        _source=source,
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


def _check_weightless(kind: str, tensors: dict[str, Tensor]) -> None:
    """Refuses a file that changes weights under a config which says that it does not."""
    for key in tensors:
        if any(part.startswith(MARKS) for part in key.split(".")):
            raise UnsupportedFormat(
                f"the adapter's key '{shown(key)}' does not belong to the type {kind}",
                hint="correct peft_type, or save the adapter again with PEFT",
                key=shown(key),
            )


def _is_attachment(path: Path) -> bool:
    return kind_of(path) == "file" and path.stat().st_size <= MAX_ATTACHMENT


def _keys(item: AdapterItem) -> list[str]:
    """Returns the keys of the tensors that an item holds."""
    if isinstance(item, Change):
        return list(item.keys.values())
    return [item.key] if isinstance(item, Rows | Whole) else []


def _passed_over(key: str) -> bool:
    """Tells whether a tensor of the file says nothing about the model."""
    return key.endswith(COPY) or "original_module" in key.split(".") or key.endswith(SKIPPED)


@dataclass
class _Parts:
    """The tensors of one module: those of its kind, and those that all kinds have."""

    module: Module
    rows: Tensor | None = None
    rows_key: str = ""
    copy: Tensor | None = None
    whole: dict[str, tuple[str, Tensor]] = field(default_factory=dict)


def _collect(tensors: dict[str, Tensor], kind: Kind, settings: Settings) -> list[AdapterItem]:
    """Sorts the file's tensors by module and makes the items."""
    shared = {part: tensors[key] for key, part in kind.shared.items() if key in tensors}
    blobs = {part: blob_of(tensor) for part, tensor in shared.items()}
    modules: dict[str, _Parts] = {}
    for key, tensor in tensors.items():
        if key in kind.shared or _is_skipped(key):
            continue
        path, end = _split(key, kind)
        name = ".".join(n for n in path if n not in WRAPPERS)
        found = modules.setdefault(name, _Parts(Module(name, shared=shared, blobs=blobs)))
        if end == ROWS:
            found.rows, found.rows_key = tensor, key
        elif end == COPY:
            found.copy = tensor
        elif end in kind.ends:
            _put(found.module, key, tensor, kind.ends[end], path, settings)
        else:
            _check_once(key, found.whole.get(end, ("", tensor))[1], tensor)
            found.whole[end] = (key, tensor)
    items: list[AdapterItem] = []
    for found in modules.values():
        items += _items(found, kind, settings)
    if not modules:
        raise UnsupportedFormat(
            "the adapter's file holds no tensors", hint="save it again with PEFT"
        )
    wanted = len(settings.tokens) if isinstance(settings.tokens, dict) else bool(settings.tokens)
    if wanted and not any(isinstance(item, Rows) for item in items):
        raise UnsafeFile("the adapter's config names trained tokens and its file holds none")
    return items


def _is_skipped(key: str) -> bool:
    # the base's own values beside those in modules_to_save
    return "original_module" in key.split(".") or key.endswith(tuple(f".{s}" for s in SKIPPED))


def _split(key: str, kind: Kind) -> tuple[list[str], str]:
    """Returns the path of the module, wrappers and all, and the end of the key."""
    if not key.startswith(KEY_PREFIX):
        raise UnsupportedFormat(
            f"the adapter's key '{shown(key)}' does not start with '{KEY_PREFIX}'",
            hint="save the adapter again with PEFT's save_pretrained",
            key=shown(key),
        )
    rest = "." + key.removeprefix(KEY_PREFIX)
    known = next((end for end in (*kind.ends, ROWS, COPY) if rest.endswith(end)), "")
    if known:
        return rest.removesuffix(known).split(".")[1:], known
    *path, last = rest.split(".")[1:]
    if any(name.startswith(MARKS) for name in [*path, last]):
        raise UnsupportedFormat(
            f"the adapter's key '{shown(key)}' is of no kind that deltavc knows",
            hint="upgrade deltavc, or merge the adapter with PEFT first",
            key=shown(key),
        )
    return path, last


def _put(
    module: Module, key: str, tensor: Tensor, part: str, path: list[str], settings: Settings
) -> None:
    """Enters a tensor of the kind, under its depth where PEFT wraps a module several times."""
    depth = path.count("base_layer")
    if depth and not (isinstance(settings, LoraSettings) and settings.parameters):
        # torch's MultiheadAttention: PEFT 0.21 adds the output projection's
        # delta twice, in forward and in its merge, and others may add it once.
        raise UnsupportedFormat(
            f"the adapter's key '{shown(key)}' lies in another adapted layer",
            hint="leave MultiheadAttention out of target_modules, or merge with PEFT first",
            key=shown(key),
        )
    part = f"{part}@{depth}" if depth else part
    _check_once(key, module.parts.get(part, tensor), tensor)
    module.parts[part], module.keys[part] = tensor, key


def _check_once(key: str, one: Tensor, other: Tensor) -> None:
    if one is not other and not one.same_bits(other):
        raise UnsafeFile(
            f"the adapter holds '{shown(key)}' twice, with different values", key=shown(key)
        )


def _check_numbers(key: str, tensor: Tensor) -> None:
    if not tensor.is_finite():
        raise NonFiniteTensor(
            f"the adapter's tensor '{shown(key)}' holds NaN or infinity", tensor=shown(key)
        )


def _items(found: _Parts, kind: Kind, settings: Settings) -> list[AdapterItem]:
    """Makes the items of one module."""
    name = found.module.name
    items = kind.items(found.module, settings)
    if found.copy is not None:
        items.append(Whole(name, "weight", found.copy, copied=bool(items)))
    if found.rows is not None:
        items.append(_rows(found, found.rows, settings))
    for suffix, (key, tensor) in found.whole.items():
        items.append(Whole(name, suffix, tensor, saved=settings.saves(name), key=key))
    return items


def _rows(found: _Parts, values: Tensor, settings: Settings) -> Rows:
    module, tokens = found.module.name, settings.tokens
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
    ordered = Tensor(values.dtype, values.shape, rows)
    return Rows(module, "weight", index, ordered, key=found.rows_key)
