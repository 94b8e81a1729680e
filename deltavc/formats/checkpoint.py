"""Opening full weights: a safetensors file or a Hugging Face folder, checked as a whole.

A folder holds ``model.safetensors``, or shards with an index, or one lone
safetensors file; what else lies in it goes along as files. Nothing in a config
is imported, run or used as a pattern, and no name in an index becomes a path
unless it is a plain file name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from deltavc.delta.tensor import Tensor
from deltavc.errors import UnsafeFile, UnsupportedFormat
from deltavc.formats.files import MAX_FILE_BYTES, kind_of, list_folder, read_small, shown
from deltavc.formats.pickles import PICKLE_SUFFIXES, PickledFile, is_pickle, refuse_pickle
from deltavc.formats.safetensors import SafetensorsFile, TensorEntry
from deltavc.formats.ties import find_ties
from deltavc.records.canonical import loads_strict
from deltavc.records.receipt import MAX_BYTES, RECEIPT_FILE, is_receipt

__all__ = ["Checkpoint", "WeightsFile", "open_checkpoint"]

SAFETENSORS = ".safetensors"
INDEX = ".index.json"
ADAPTER_KEYS = "base_model.model."
MAX_INDEX = 100_000_000
MAX_CONFIG = 16 << 20
# other frameworks' copies of the same weights
FOREIGN_WEIGHTS = (
    ".gguf", ".h5", ".mlmodel", ".msgpack", ".npz", ".onnx", ".onnx_data", ".ot", ".pb", ".tflite",
)  # fmt: skip
# what trainers leave beside a model
TRAINING_STATE = ("optimizer", "rng_state", "scaler", "scheduler", "training_args")
TRAINER_STATE = "trainer_state.json"  # what a Trainer needs to go on; other in every checkpoint
COMPARE_STEP = 1 << 22

Source = SafetensorsFile | PickledFile


@dataclass(frozen=True)
class WeightsFile:
    """One weights file of a checkpoint.

    Attributes:
        name: Relative POSIX path in the folder.
        entries: Its tensors in the order of their bytes.
        metadata: Its metadata.
        header: Its first bytes up to the first tensor; empty for a pickle.
    """

    name: str
    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]
    header: bytes = field(default=b"", repr=False)


class Checkpoint:
    """Full weights that lie open; tensors are views of mapped files.

    Attributes:
        path: The folder or file.
        entries: All tensors by name, in the order of files and bytes.
        layout: The weights files in the order of their names.
        files: The other files by relative POSIX path.
        ignored: Files that do not go along, and why.
        config: The model's config; {} without one.
        total_bytes: Bytes of all tensors.
    """

    def __init__(
        self, path: Path, sources: list[Source], files: dict[str, Path], ignored: dict[str, str]
    ) -> None:
        self.path = path
        self.files = files
        self.ignored = ignored
        self._sources = sources
        self._home: dict[str, Source] = {}
        self.entries: dict[str, TensorEntry] = {}
        for source in sources:
            for entry in source.entries:
                if entry.name in self.entries:
                    raise UnsafeFile(
                        f"tensor '{shown(entry.name)}' is in '{shown(self._home[entry.name].name)}'"
                        f" and in '{shown(source.name)}'",
                        tensor=entry.name,
                    )
                self.entries[entry.name] = entry
                self._home[entry.name] = source
        self.layout = [
            WeightsFile(s.name, tuple(s.entries), s.metadata, getattr(s, "header", b""))
            for s in sources
        ]
        self.total_bytes = sum(entry.nbytes for entry in self.entries.values())
        self.config: dict[str, Any] = {}
        if "config.json" in files:
            self.config = _read_object(files["config.json"], MAX_CONFIG)

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor as a view of its file.

        Args:
            name: Its name.

        Returns:
            The tensor.

        Raises:
            UnsupportedFormat: There is none of this name.
        """
        source = self._home.get(name)
        if source is None:
            raise UnsupportedFormat(f"'{shown(self.path)}' has no tensor '{shown(name)}'")
        return source.tensor(name)

    def file_of(self, name: str) -> Path:
        """Returns the weights file that holds a tensor, for copying its bytes.

        Args:
            name: The tensor.

        Returns:
            The file; the entry's offset counts from its start.

        Raises:
            UnsupportedFormat: There is none of this name.
        """
        source = self._home.get(name)
        if source is None:
            raise UnsupportedFormat(f"'{shown(self.path)}' has no tensor '{shown(name)}'")
        return source.path

    @cached_property
    def tied(self) -> dict[str, str]:
        """Names that stand for another tensor: alias to name; see :mod:`deltavc.formats.ties`."""
        shapes = {name: entry.shape for name, entry in self.entries.items()}
        return find_ties(shapes, self.config, self._same)

    def _same(self, one: str, other: str) -> bool:
        a, b = self.tensor(one), self.tensor(other)
        return a.dtype is b.dtype and all(
            np.array_equal(a.bits[i : i + COMPARE_STEP], b.bits[i : i + COMPARE_STEP])
            for i in range(0, a.count, COMPARE_STEP)
        )

    def close(self) -> None:
        """Closes the files; tensors that are in use stay good."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Opens full weights.

    Args:
        path: A safetensors file, or a folder with one, or with shards and an index.
        allow_pickle: Read a pickled checkpoint with torch's weights-only loader.

    Returns:
        The checkpoint; close it, or use it in a ``with`` statement.

    Raises:
        UnsafeFile: Malformed, inconsistent, a pickle, or not regular files.
        UnsupportedFormat: No weights that deltavc reads.
        MissingExtra: The installed torch is too old to read pickles safely.
    """
    path = Path(path)
    if kind_of(path) != "folder":
        found = Checkpoint(path, _open_all([path], allow_pickle=allow_pickle), {}, {})
        if found.entries and all(name.startswith(ADAPTER_KEYS) for name in found.entries):
            found.close()
            raise _is_adapter(path, "give its folder, with adapter_config.json in it")
        return found
    listing = list_folder(path)
    weights, expected = _weights(path, listing.files, allow_pickle=allow_pickle)
    sources = _open_all([listing.files[name] for name in weights], allow_pickle=allow_pickle)
    try:
        if expected is not None:
            _check_index(sources, expected)
        files = _companions(listing.files, weights, listing.ignored)
        return Checkpoint(path, sources, files, listing.ignored)
    except BaseException:
        _close_all(sources)
        raise


def _open_all(paths: list[Path], *, allow_pickle: bool) -> list[Source]:
    sources: list[Source] = []
    try:
        for path in paths:
            if not is_pickle(path):
                sources.append(SafetensorsFile(path))
            elif allow_pickle:
                sources.append(PickledFile(path))
            else:
                raise refuse_pickle(path)
    except BaseException:
        _close_all(sources)
        raise
    return sources


def _close_all(sources: list[Source]) -> None:
    for source in sources:
        source.close()


def _weights(
    folder: Path, files: dict[str, Path], *, allow_pickle: bool
) -> tuple[list[str], dict[str, str] | None]:
    """Returns the weights files of a folder and, for shards, the index's tensor to file map."""
    top = [name for name in files if "/" not in name]
    for suffix, names in ((SAFETENSORS, ("model",)), (".bin", ("pytorch_model",))):
        whole = [name + suffix for name in names if name + suffix in files]
        indexes = [name for name in top if name.endswith(suffix + INDEX)]
        lone = [name for name in top if name.endswith(suffix)]
        if whole:
            return whole, None
        if len(indexes) == 1 and (suffix == SAFETENSORS or allow_pickle):
            expected = _read_index(files[indexes[0]], suffix)
            missing = sorted(set(expected.values()) - set(top))
            if missing:
                raise UnsafeFile(
                    f"'{shown(indexes[0])}' names {len(missing)} files that are not there,"
                    f" such as '{shown(missing[0])}'",
                    hint="download the model again",
                    missing=[shown(name) for name in missing[:20]],
                )
            return sorted(set(expected.values())), expected
        if len(lone) == 1 and suffix == SAFETENSORS and not lone[0].startswith("adapter_"):
            return lone, None
    return [_last_resort(folder, top)], None


def _last_resort(folder: Path, top: list[str]) -> str:
    """Returns the only pickle of a folder, or says what is wrong with the folder."""
    pickles = [name for name in top if name.lower().endswith(PICKLE_SUFFIXES)]
    models = [name for name in pickles if not name.startswith(TRAINING_STATE)]
    safe = [name for name in top if name.endswith(SAFETENSORS)]
    if "adapter_config.json" in top:
        raise _is_adapter(folder, "read it as one: --as peft")
    if len(models) == 1 and not safe:
        return models[0]
    if pickles and not safe:
        raise refuse_pickle(folder / pickles[0])
    raise UnsupportedFormat(
        f"'{shown(folder)}' holds {len(safe)} safetensors files and no index"
        if safe
        else f"there are no model weights in '{shown(folder)}'",
        hint="give one of the files, or a folder with model.safetensors or an index",
        path=str(folder),
        found=[shown(name) for name in safe[:20]],
    )


def _is_adapter(path: Path, hint: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"'{shown(path)}' is a PEFT adapter, not a full model", hint=hint, path=str(path)
    )


def _read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    what = f"'{shown(path.name)}'"
    value = loads_strict(read_small(path, max_bytes=max_bytes), what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise UnsafeFile(f"{what} is not a JSON object", path=str(path))
    return value


def _read_index(path: Path, suffix: str) -> dict[str, str]:
    shards = _read_object(path, MAX_INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UnsafeFile(f"'{shown(path.name)}' has no weight map", path=str(path))
    for name, shard in shards.items():
        plain = (
            isinstance(shard, str)
            and shard.endswith(suffix)
            and not shard.startswith(".")
            and "/" not in shard
            and "\\" not in shard
            and shard.isprintable()
        )
        if not plain:
            raise UnsafeFile(
                f"'{shown(path.name)}' puts '{shown(name)}' into '{shown(shard)}',"
                " which is not a plain file name",
                path=str(path),
            )
    return shards


def _check_index(sources: list[Source], expected: dict[str, str]) -> None:
    """Refuses shards that do not hold just what the index says."""
    found: dict[str, str] = {}
    for source in sources:
        for entry in source.entries:
            found.setdefault(entry.name, source.name)
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        name = wrong[0]
        where, said = found.get(name), expected.get(name)
        raise UnsafeFile(
            f"the index and the shards differ in {len(wrong)} tensors: '{shown(name)}' is "
            + (f"in '{shown(where)}'" if where else "in no shard")
            + (f", the index says '{shown(said)}'" if said else ", the index lacks it"),
            hint="download the model again",
            tensors=[shown(name) for name in wrong[:20]],
        )


def _companions(
    files: dict[str, Path], weights: list[str], ignored: dict[str, str]
) -> dict[str, Path]:
    """Returns the files that go along with the weights, and notes those that do not."""
    safe_folders = {name.rpartition("/")[0] for name in files if name.endswith(SAFETENSORS)}
    taken: dict[str, Path] = {}
    for name, path in files.items():
        folder, _, last = name.rpartition("/")
        if name in weights or (not folder and last.endswith((SAFETENSORS + INDEX, ".bin" + INDEX))):
            continue
        reason = None
        if name == RECEIPT_FILE:
            if _size(path) <= MAX_BYTES and is_receipt(read_small(path, max_bytes=MAX_BYTES)):
                continue  # our own, of the version that was written here
            reason = "the name of deltavc's receipt"
        elif last.lower().endswith(FOREIGN_WEIGHTS) or (last.endswith(SAFETENSORS) and not folder):
            reason = "other weights"
        elif last.lower().endswith(PICKLE_SUFFIXES):
            # A module of sentence-transformers in its own folder may have no other form.
            alone = last == "pytorch_model.bin" and folder and folder not in safe_folders
            reason = None if alone else "a pickle"
        elif name == TRAINER_STATE:
            reason = "training state"
        elif _size(path) > MAX_FILE_BYTES:
            reason = f"larger than {MAX_FILE_BYTES >> 20} MiB"
        if reason is None:
            taken[name] = path
        else:
            ignored[name] = reason
    return taken


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UnsafeFile(f"'{shown(path)}' cannot be read: {error.strerror}") from error
