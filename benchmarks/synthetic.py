"""Models of a known size with random weights, adapters for them, and merged checkpoints.

For speed and memory, where only sizes and dtypes matter. Names and shapes are those
of a Llama, so PEFT and transformers load the folders as they are. Every tensor comes
from its own seed in pieces, so a 2 GB model needs little memory and both cores, and
part of an adapter can change without the rest. Written without torch and without
deltavc's own readers and writers: its results are held against these files.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.assets import CACHE, built

__all__ = [
    "LLAMA_1B",
    "Shape",
    "adapter",
    "linear_names",
    "merged",
    "model",
    "open_tensors",
    "some",
    "tuned",
    "widen",
]

_PIECE = 1 << 20  # elements made at once: 4 MB of float32, near the size of a core's cache
_TILE = 1 << 18  # elements merged at once: a few float32 temporaries in a core's cache
_WRITE = 256 << 10  # larger writes are far slower where a hypervisor takes freed memory back
_DTYPES = {"BF16": ("<u2", "bfloat16"), "F16": ("<f2", "float16"), "F32": ("<f4", "float32")}
_SPREAD = 0.02  # standard deviation of the weights
_DELTA = 0.02  # norm of an adapter's delta over that of the weights
_VERSION = 1  # of the values made here; part of the names in the cache
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Llama with grouped-query attention and tied embeddings.

    Attributes:
        hidden: Width of the states.
        inner: Width of the MLP.
        layers: Number of layers.
        kv: Width of keys and values.
        vocab: Number of tokens.
        dtype: BF16, F16 or F32.
    """

    hidden: int = 2048
    inner: int = 8192
    layers: int = 16
    kv: int = 512
    vocab: int = 32000
    dtype: str = "BF16"

    def scaled(self, divisor: int, *, layers: int | None = None, dtype: str | None = None) -> Shape:
        """Returns a shape whose widths are this many times smaller."""
        return replace(
            self,
            hidden=self.hidden // divisor,
            inner=self.inner // divisor,
            kv=max(_HEAD_WIDTH, self.kv // divisor),
            vocab=self.vocab // divisor,
            layers=self.layers if layers is None else layers,
            dtype=self.dtype if dtype is None else dtype,
        )

    def linear(self) -> dict[str, tuple[int, int]]:
        """Returns rows and columns of each linear layer's matrix, by the layer's name."""
        sizes = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.kv, self.hidden),
            "self_attn.v_proj": (self.kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }
        return {
            f"model.layers.{layer}.{name}": size
            for layer in range(self.layers)
            for name, size in sizes.items()
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each parameter, by name."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab, self.hidden)
        }
        for name, size in self.linear().items():
            shapes[f"{name}.weight"] = size
        for layer in range(self.layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"model.layers.{layer}.{norm}.weight"] = (self.hidden,)
        shapes["model.norm.weight"] = (self.hidden,)
        return shapes

    def config(self) -> dict[str, Any]:
        """Returns what transformers needs to build the model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // _HEAD_WIDTH,
            "num_key_value_heads": self.kv // _HEAD_WIDTH,
            "head_dim": _HEAD_WIDTH,
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": _DTYPES[self.dtype][1],
        }


LLAMA_1B = Shape()


def model(shape: Shape = LLAMA_1B, *, seed: int = 0, cache: Path = CACHE) -> Path:
    """Returns the folder of a model with random weights: one safetensors file and a config.

    Args:
        shape: Dimensions and dtype; the default makes a file of 2.077 GB.
        seed: Of the weights.
        cache: Folder of results.

    Returns:
        A folder that ``LlamaForCausalLM.from_pretrained`` loads; to be read only.
    """
    target = _named(cache, "model", shape, {"seed": seed})
    with built(target) as folder:
        if folder is not None:
            shapes = shape.tensors()
            pieces = (
                _weights(name, size, shape.dtype, seed, spread=_SPREAD)
                for name, size in shapes.items()
            )
            dtypes = dict.fromkeys(shapes, shape.dtype)
            _write(folder / "model.safetensors", shapes, dtypes, pieces)
            _write_json(folder / "config.json", shape.config())
    return target


def linear_names(shape: Shape) -> list[str]:
    """Returns the names of the linear layers in the model's order."""
    return list(shape.linear())


def some(names: Sequence[str], share: float) -> list[str]:
    """Returns a share of the names, evenly spread, so that each kind of layer is among them."""
    count = max(1, round(share * len(names)))
    return [names[i * len(names) // count] for i in range(count)]


def adapter(
    shape: Shape = LLAMA_1B,
    *,
    rank: int = 16,
    dtype: str = "F32",
    names: Sequence[str] | None = None,
    seed: int = 1,
    changed: Iterable[str] = (),
    cache: Path = CACHE,
) -> Path:
    """Returns a PEFT LoRA folder with random factors, neither of them zero.

    A is as wide as PEFT draws it; B so that the delta has 2 % of the weights' norm.

    Args:
        shape: The model it is for.
        rank: Rank of the factors; alpha is twice as much.
        dtype: Of the factors.
        names: Adapted layers; None for every linear layer.
        seed: Of the factors.
        changed: Layers whose factors come from the next seed instead: an adapter
            that differs from its sibling in these only.
        cache: Folder of results.

    Returns:
        A folder that ``PeftModel.from_pretrained`` loads; to be read only.
    """
    layers = linear_names(shape) if names is None else list(names)
    other = set(changed)
    recipe = {
        "rank": rank,
        "dtype": dtype,
        "names": layers,
        "seed": seed,
        "changed": sorted(other),
        "delta": _DELTA,
    }
    target = _named(cache, "adapter", shape, recipe)
    with built(target) as folder:
        if folder is not None:
            shapes: dict[str, tuple[int, ...]] = {}
            pieces = []
            for name in layers:
                rows, columns = shape.linear()[name]
                own = seed + (name in other)
                a_spread = 1 / math.sqrt(3 * columns)
                b_spread = _DELTA * _SPREAD / (2 * math.sqrt(rank) * a_spread)
                for factor, size, spread in (
                    ("lora_A", (rank, columns), a_spread),
                    ("lora_B", (rows, rank), b_spread),
                ):
                    key = f"base_model.model.{name}.{factor}.weight"
                    shapes[key] = size
                    pieces.append(_weights(key, size, dtype, own, spread))
            dtypes = dict.fromkeys(shapes, dtype)
            _write(folder / "adapter_model.safetensors", shapes, dtypes, pieces)
            _write_json(folder / "adapter_config.json", _adapter_config(rank, layers))
    return target


def merged(base: Path, lora: Path, *, cache: Path = CACHE) -> Path:
    """Returns a checkpoint with an adapter merged in, as PEFT does on a CPU.

    scale * (B @ A) and the sum in float32, one rounding to the base's dtype. Another
    matrix product may differ in the last place: often in float32, hardly ever in bfloat16.

    Args:
        base: Folder of a model made here.
        lora: Folder of an adapter made here, with float32 factors.
        cache: Folder of results.

    Returns:
        A model folder; to be read only.
    """
    target = cache / "synthetic" / f"merged-{base.name}-{lora.name.removeprefix('adapter-')}"
    weights = open_tensors(base / "model.safetensors")
    factors = open_tensors(lora / "adapter_model.safetensors")
    settings = json.loads((lora / "adapter_config.json").read_text(encoding="utf-8"))
    scale = np.float32(settings["lora_alpha"] / settings["r"])
    with built(target) as folder:
        if folder is not None:
            shapes = {name: value.shape for name, (_, value) in weights.items()}
            dtypes = {name: dtype for name, (dtype, _) in weights.items()}
            pieces = (_sum(name, weights, factors, scale) for name in weights)
            # BLAS threads beside our own two cost 5 to 10 times the CPU time on a busy machine.
            with threadpool_limits(1):
                _write(folder / "model.safetensors", shapes, dtypes, pieces)
            config = (base / "config.json").read_text(encoding="utf-8")
            (folder / "config.json").write_text(config, encoding="utf-8")
    return target


def tuned(base: Path, *, seed: int, share: float = 0.05, cache: Path = CACHE) -> Path:
    """Returns a checkpoint that differs from a model in nearly every weight, as full training does.

    Args:
        base: Folder of a model made here.
        seed: Of the differences.
        share: Their standard deviation over that of the weights.
        cache: Folder of results.

    Returns:
        A model folder; to be read only.
    """
    target = cache / "synthetic" / f"tuned-{base.name}-{seed}-{share}"
    weights = open_tensors(base / "model.safetensors")
    with built(target) as folder:
        if folder is not None:
            shapes = {name: value.shape for name, (_, value) in weights.items()}
            dtypes = {name: dtype for name, (dtype, _) in weights.items()}
            pieces = (_moved(name, weights, seed, share * _SPREAD) for name in weights)
            _write(folder / "model.safetensors", shapes, dtypes, pieces)
            config = (base / "config.json").read_text(encoding="utf-8")
            (folder / "config.json").write_text(config, encoding="utf-8")
    return target


def open_tensors(path: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """Returns dtype and mapped values of each tensor of a trusted safetensors file.

    bfloat16 comes as its bit patterns; :func:`widen` turns them into numbers.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            element = _DTYPES[entry["dtype"]][0] if entry["dtype"] in _DTYPES else "<i8"
            view = data[first:last].view(element).reshape(entry["shape"])
            found[name] = (entry["dtype"], view)
    return found


def widen(dtype: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """Returns stored values as float32, exactly."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32)


def _narrow(dtype: str, values: NDArray[np.float32]) -> NDArray[Any]:
    """Rounds finite float32 values to a stored dtype, ties to even."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
    return values.astype(_DTYPES[dtype][0])


def _weights(
    name: str, size: tuple[int, ...], dtype: str, seed: int, spread: float
) -> Iterator[NDArray[Any]]:
    """Yields the flat pieces of one random tensor; norms' weights lie around 1."""
    count = math.prod(size)
    centre = np.float32(1.0 if len(size) == 1 else 0.0)

    def piece(first: int) -> NDArray[Any]:
        key = [seed, zlib.crc32(name.encode()), first]
        draw = np.random.Generator(np.random.SFC64(key))
        values = draw.standard_normal(min(_PIECE, count - first), dtype=np.float32)
        values *= np.float32(spread)
        values += centre
        return _narrow(dtype, values)

    return _in_order(piece, range(0, count, _PIECE))


def _sum(
    name: str,
    weights: dict[str, tuple[str, NDArray[Any]]],
    factors: dict[str, tuple[str, NDArray[Any]]],
    scale: np.float32,
) -> Iterator[NDArray[Any]]:
    """Yields the pieces of one merged tensor, or of the base's if it has no factors."""
    dtype, base = weights[name]
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{stem}.lora_A.weight" not in factors:
        return iter([base])
    a = widen(*factors[f"{stem}.lora_A.weight"])
    b = widen(*factors[f"{stem}.lora_B.weight"])
    rows = max(1, _TILE // base.shape[1])

    def piece(first: int) -> NDArray[Any]:
        delta = (b[first : first + rows] @ a) * scale
        return _narrow(dtype, widen(dtype, base[first : first + rows]) + delta)

    return _in_order(piece, range(0, base.shape[0], rows))


def _moved(
    name: str, weights: dict[str, tuple[str, NDArray[Any]]], seed: int, spread: float
) -> Iterator[NDArray[Any]]:
    """Yields the flat pieces of one tensor that training moved at random."""
    dtype, base = weights[name]
    flat = base.reshape(-1)

    def piece(first: int) -> NDArray[Any]:
        draw = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode()), first]))
        held = widen(dtype, flat[first : first + _PIECE])
        held += draw.standard_normal(held.size, dtype=np.float32) * np.float32(spread)
        return _narrow(dtype, held)

    return _in_order(piece, range(0, flat.size, _PIECE))


def _in_order(piece: Any, starts: range) -> Iterator[NDArray[Any]]:
    """Computes pieces on two threads, at most eight ahead, and yields them in order."""
    with ThreadPoolExecutor(2) as pool:
        for first in range(0, len(starts), 8):
            yield from pool.map(piece, starts[first : first + 8])


def _write(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    dtypes: dict[str, str],
    tensors: Iterable[Iterator[NDArray[Any]]],
) -> None:
    """Writes a safetensors file from tensors that come in pieces."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shapes.items():
        first = end
        end += math.prod(size) * np.dtype(_DTYPES[dtypes[name]][0]).itemsize
        header[name] = {
            "dtype": dtypes[name],
            "shape": list(size),
            "data_offsets": [first, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        os.posix_fallocate(stream.fileno(), 0, 8 + len(text) + end)
        for pieces in tensors:
            for values in pieces:
                data = np.ascontiguousarray(values).data.cast("B")
                for first in range(0, len(data), _WRITE):
                    stream.write(data[first : first + _WRITE])


def _adapter_config(rank: int, layers: list[str]) -> dict[str, Any]:
    return {
        "base_model_name_or_path": "synthetic-llama",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": layers,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _named(cache: Path, kind: str, shape: Shape, recipe: dict[str, Any]) -> Path:
    key = json.dumps([_VERSION, asdict(shape), recipe], sort_keys=True)
    return cache / "synthetic" / f"{kind}-{shape.hidden}-{zlib.crc32(key.encode()):08x}"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
