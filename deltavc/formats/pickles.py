"""Reading pickled checkpoints, only where somebody asked for it.

A pickle is a program. These files are refused unless the caller allows them;
then torch's weights-only loader reads them, and only from a torch whose loader
has no known hole. What comes out must be a flat dictionary of plain tensors.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

from deltavc.delta.tensor import DTYPES, DType, Tensor
from deltavc.errors import MissingExtra, UnsafeFile, UnsupportedFormat
from deltavc.formats.files import check_tensor_name, open_regular, shown
from deltavc.formats.safetensors import TensorEntry

__all__ = ["PICKLE_SUFFIXES", "PickledFile", "is_pickle", "refuse_pickle"]

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# The weights-only guard was passed twice: CVE-2025-32434 (fixed in torch 2.6)
# and CVE-2026-24747 (fixed in 2.10).
SAFE_TORCH = (2, 10)
_BY_TORCH_NAME = {dtype.torch: dtype for dtype in DTYPES.values()}


def is_pickle(path: Path) -> bool:
    """Tells whether a file name is one that pickled checkpoints have."""
    return path.suffix.lower() in PICKLE_SUFFIXES


def refuse_pickle(path: Path) -> UnsafeFile:
    """Returns the refusal of a pickle."""
    return UnsafeFile(
        f"'{shown(path.name)}' is a pickle, which can run code when it is read",
        hint="write it again with safetensors, or allow the weights-only loader: --allow-pickle",
        path=str(path),
    )


class PickledFile:
    """The tensors of a pickled checkpoint.

    Args:
        path: The file.

    Attributes:
        name: The file's name without folders.
        size: Its size in bytes.
        entries: The tensors in the order of the dictionary; they have no offset.
        metadata: Nothing.

    Raises:
        UnsafeFile: Not a checkpoint, compressed, or refused by the weights-only loader.
        UnsupportedFormat: Anything else than a dictionary of dense tensors.
        MissingExtra: The installed torch is too old to read pickles safely.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self.metadata: dict[str, str] = {}
        self.size, zipped = _look(self.path)
        loaded = _load(self.path, mapped=zipped)
        if not isinstance(loaded, dict) or not loaded:
            raise self._not_a_checkpoint(f"a {type(loaded).__name__}")
        self._tensors: dict[str, Any] = {}
        self.entries: list[TensorEntry] = []
        for name, value in loaded.items():
            if not isinstance(name, str):
                raise self._not_a_checkpoint(f"a key that is a {type(name).__name__}")
            check_tensor_name(name, f"'{shown(self.name)}'")
            self.entries.append(self._entry(name, value))
            self._tensors[name] = value

    def _entry(self, name: str, value: Any) -> TensorEntry:
        import torch

        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise self._not_a_checkpoint(f"'{shown(name)}', a {type(value).__name__}")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise self._not_a_checkpoint(f"'{shown(name)}', which is not a dense tensor")
        nbytes = value.numel() * value.element_size()
        # A view may repeat its storage: a few bytes that stand for terabytes.
        if nbytes > value.untyped_storage().nbytes():
            raise UnsafeFile(
                f"tensor '{shown(name)}' of '{shown(self.name)}' is larger than its data",
                tensor=name,
            )
        return TensorEntry(name, self._dtype(name, value), tuple(value.shape), -1, nbytes)

    def _dtype(self, name: str, value: Any) -> DType:
        dtype = _BY_TORCH_NAME.get(str(value.dtype).removeprefix("torch."))
        if dtype is None:
            raise UnsupportedFormat(
                f"tensor '{shown(name)}' has dtype {value.dtype}, which deltavc does not read",
                tensor=name,
            )
        return dtype

    def _not_a_checkpoint(self, found: str) -> UnsupportedFormat:
        return UnsupportedFormat(
            f"'{shown(self.name)}' is not a dictionary of tensors: it holds {found}",
            hint="save the model's state_dict() alone, with safetensors",
            path=str(self.path),
        )

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor; a view where its elements lie one after another.

        Args:
            name: Its name.

        Returns:
            The tensor.

        Raises:
            UnsupportedFormat: The file has no such tensor.
        """
        import torch

        value = self._tensors.get(name)
        if value is None:
            raise UnsupportedFormat(f"'{shown(self.name)}' has no tensor '{shown(name)}'")
        flat = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy() if flat.numel() else b""
        dtype = self._dtype(name, value)
        return Tensor.from_buffer(dtype, tuple(value.shape), data)

    def close(self) -> None:
        """Lets go of the tensors."""
        self._tensors = {}


def _look(path: Path) -> tuple[int, bool]:
    """Returns a file's size and whether it is a zip, after ruling out compressed members."""
    with open_regular(path) as (file, size):
        if file.read(4) != b"PK\x03\x04":
            return size, False
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UnsafeFile(f"'{shown(path.name)}' is a broken archive: {error}") from error
    stored = sum(member.file_size for member in members)
    if stored > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UnsafeFile(
            f"'{shown(path.name)}' holds compressed data, as no checkpoint does",
            path=str(path),
        )
    return size, True


def _load(path: Path, *, mapped: bool) -> Any:
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < SAFE_TORCH:
        raise MissingExtra(
            f"torch {torch.__version__} cannot read pickles safely",
            hint="upgrade torch to 2.10 or newer: pip install --upgrade torch",
            found=torch.__version__,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would stand between the lines of the answer
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        # The loader meets arbitrary bytes and fails in as many ways; all mean the same.
        raise UnsafeFile(
            f"'{shown(path.name)}' is not a checkpoint that the weights-only loader reads",
            hint="write the model's state_dict() again with safetensors",
            path=str(path),
            reason=shown(error),
        ) from error
