"""Real adaptations of a small encoder, for the demo and the benchmarks.

A classifier of maintenance work orders: the encoder's mean-pooled states and a
linear head. It is trained as people do, with PEFT and torch, on one thread and
with fixed seeds, and each result is kept in the cache under a key of everything
that went into it: a second run trains nothing.

A LoRA comes out as the folder that PEFT writes, a full fine-tune as a checkpoint
under the base's own names, the head beside them as ``head.weight`` and ``head.bias``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.assets import CACHE, built, sha256_of
from benchmarks.classifier import (
    Batches,
    Classifier,
    class_means,
    fit,
    load_encoder,
    measure,
    reproducible,
)
from benchmarks.tasks import Task, load_task

__all__ = [
    "ATTENTION",
    "EVERY_MATRIX",
    "Score",
    "Trained",
    "bf16_base",
    "evaluate",
    "merged_checkpoint",
    "read_state",
    "train_bf16_full",
    "train_full",
    "train_lora",
]

ATTENTION = ("query", "value")
EVERY_MATRIX = ("query", "key", "value", "dense")

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Score:
    """How well a model does on a task's test orders.

    Attributes:
        accuracy: Share of the test orders that got the right label.
        samples: Number of test orders.
        trained_head: False if the model had no head and class means of the
            training examples stood in for one.
    """

    accuracy: float
    samples: int
    trained_head: bool


@dataclass(frozen=True)
class Trained:
    """One adaptation, kept in the cache.

    Attributes:
        folder: A PEFT folder, or a checkpoint folder; to be read only.
        kind: ``lora`` or ``full``.
        score: On the task's test orders, of the very model that was trained.
        cpu_seconds: Of the training alone, when it was done.
        cached: Whether this call trained nothing.
    """

    folder: Path
    kind: str
    score: Score
    cpu_seconds: float
    cached: bool

    @property
    def weight_bytes(self) -> int:
        """Size of the safetensors files."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def train_lora(
    base: Path,
    task: Task,
    *,
    rank: int = 8,
    targets: Sequence[str] = ATTENTION,
    start_from: Sequence[Path] = (),
    head: str | None = "head",
    epochs: int = 8,
    rate: float = 1e-3,
    cache: Path = CACHE,
) -> Trained:
    """Trains a LoRA with PEFT, on the base or on top of other LoRAs.

    The LoRAs in ``start_from`` are merged into the weights first, in their order,
    so the new one is a delta against that model. The adapter holds its head whole
    in ``modules_to_save``: whoever adds it to a model takes the head's values from
    the last adapter that names it; they are not to be summed. A head that
    ``start_from`` knows by this name, with as many classes, is trained further.

    Args:
        base: Folder of the base.
        task: What to learn.
        rank: Rank of the factors; alpha is twice as much.
        targets: Ends of the names of the adapted layers.
        start_from: PEFT folders whose model is the start.
        head: Name of the head to train and save; None keeps the one that the last
            of ``start_from`` saved, and the new adapter then holds factors only.
        epochs: Passes over the training examples.
        rate: Learning rate.
        cache: Folder of results.

    Returns:
        The adaptation; its folder is what ``save_pretrained`` wrote.

    Raises:
        ValueError: No head is to be trained, and there is none to start from.
    """
    if head is None and not start_from:
        raise ValueError("without a head of its own an adapter needs one to start from")
    recipe = {
        "base": _weights_digest(base),
        "rank": rank,
        "targets": list(targets),
        "start": [_weights_digest(folder) for folder in start_from],
        "head": head,
        "epochs": epochs,
        "rate": rate,
    }
    with _result("lora", task, recipe, cache) as (target, folder):
        if folder is not None:
            with reproducible(task.seed):
                model = _merged(Classifier(load_encoder(base)), start_from)
                train, test = load_task(task)
                batches = Batches(base)
                in_use = head if head is not None else model.heads()[-1]
                if not model.uses(in_use, len(task.classes)):
                    model.add_head(in_use, class_means(model, batches, train))
                tuned = _with_lora(model, rank, targets, head)
                seconds = fit(tuned, batches, train, epochs, rate, rate, task.seed)
                score = Score(measure(tuned, batches, test), len(test), trained_head=True)
                tuned.save_pretrained(folder / "adapter", save_embedding_layers=False)
                _note(folder, score, seconds)
    return _read_result(target, "lora", "adapter", cached=folder is None)


def train_full(
    base: Path,
    task: Task,
    *,
    dtype: torch.dtype = torch.float32,
    epochs: int = 8,
    rate: float = 1e-4,
    cache: Path = CACHE,
) -> Trained:
    """Trains every weight of the encoder and a head.

    The optimiser works on float32 weights that start from the base's values, as in
    mixed precision; they are rounded to ``dtype`` once, when the checkpoint is written.

    Args:
        base: Folder of the base.
        task: What to learn.
        dtype: Of the checkpoint.
        epochs: Passes over the training examples.
        rate: Learning rate of the encoder; the head's is ten times as much.
        cache: Folder of results.

    Returns:
        The adaptation; its folder holds the base's names, the head, config and tokenizer.
    """
    recipe = {
        "base": _weights_digest(base),
        "dtype": str(dtype),
        "epochs": epochs,
        "rate": rate,
    }
    with _result("full", task, recipe, cache) as (target, folder):
        if folder is not None:
            with reproducible(task.seed):
                model = Classifier(load_encoder(base))
                train, _ = load_task(task)
                batches = Batches(base)
                model.add_head("head", class_means(model, batches, train))
                seconds = fit(model, batches, train, epochs, rate, 10 * rate, task.seed)
                _write_checkpoint(base, model.own_state(), folder / "checkpoint", dtype)
                score = evaluate(folder / "checkpoint", task)
                _note(folder, score, seconds)
    return _read_result(target, "full", "checkpoint", cached=folder is None)


def train_bf16_full(base: Path, task: Task, *, cache: Path = CACHE) -> tuple[Path, Trained]:
    """Trains a full fine-tune that starts and ends in bfloat16.

    Args:
        base: Folder of the float32 base.
        task: What to learn.
        cache: Folder of results.

    Returns:
        The folder of the bfloat16 base, and the adaptation of it.
    """
    rounded = bf16_base(base, cache=cache)
    return rounded, train_full(rounded, task, dtype=torch.bfloat16, cache=cache)


def bf16_base(base: Path, *, cache: Path = CACHE) -> Path:
    """Returns the folder of the base with its floats rounded to bfloat16 once."""
    target = cache / "bases" / f"bf16-{_weights_digest(base)[:12]}"
    with built(target) as folder:
        if folder is not None:
            _write_checkpoint(base, {}, folder, torch.bfloat16)
    return target


def merged_checkpoint(base: Path, adapter: Path, *, cache: Path = CACHE) -> Path:
    """Returns a checkpoint into which PEFT merged an adapter, in the base's own dtype.

    Args:
        base: Folder of the base.
        adapter: PEFT folder.
        cache: Folder of results.

    Returns:
        A checkpoint folder under the base's names; to be read only.
    """
    key = _digest([_weights_digest(base), _weights_digest(adapter), version("peft")])
    target = cache / "merged" / key[:12]
    with built(target) as folder:
        if folder is not None:
            with reproducible(0):
                model = _merged(Classifier(load_encoder(base, dtype=None)), [adapter])
            _write_checkpoint(base, model.own_state(), folder, None)
    return target


def evaluate(
    source: Path | Mapping[str, Any], task: Task, *, base: Path | None = None, head: str = "head"
) -> Score:
    """Measures a model on a task's test orders.

    Args:
        source: Folder of a checkpoint, or a state dict under the base's own names;
            bfloat16 and float16 are computed in float32.
        task: The task; its training examples make the head if the model has none.
        base: Folder with config and tokenizer, if the source is no folder that has them.
        head: Name of the head, for models that carry several.

    Returns:
        Accuracy, number of orders, and whether the model's own head was used.

    Raises:
        ValueError: Weights of the encoder are missing, or do not fit.
    """
    frame = base if base is not None else source
    if not isinstance(frame, Path):
        raise ValueError("a state dict needs the base's folder beside it")
    state = read_state(source) if isinstance(source, Path) else source
    tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    model = Classifier(load_encoder(frame))
    missing = {name for name, _ in model.encoder.named_parameters()} - tensors.keys()
    if missing:
        raise ValueError(f"weights are missing: {sorted(missing)[:3]}")
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if parameter.shape != tensors[name].shape:
                raise ValueError(f"shape of {name} does not fit")
            parameter.copy_(tensors[name])
    train, test = load_task(task)
    batches = Batches(frame)
    own = f"{head}.weight" in tensors
    with reproducible(task.seed):
        if own:
            model.add_head(head, tensors[f"{head}.weight"], tensors[f"{head}.bias"])
        else:
            model.add_head(head, class_means(model, batches, train))
        return Score(measure(model, batches, test), len(test), trained_head=own)


def read_state(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of all safetensors files in a folder."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    return {name: value for path in files for name, value in load_file(path).items()}


def _merged(model: Classifier, adapters: Sequence[Path]) -> Classifier:
    """Returns the model with adapters merged by PEFT, one after the other."""
    from peft import PeftModel
    from safetensors.torch import load_file

    for folder in adapters:
        tensors = load_file(folder / "adapter_model.safetensors")
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        for name in config["modules_to_save"] or ():
            model.add_head(name, tensors[f"base_model.model.{name}.weight"])
        tuned: Any = PeftModel.from_pretrained(model, folder)
        model = tuned.merge_and_unload()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _with_lora(model: Classifier, rank: int, targets: Sequence[str], head: str | None) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules=list(targets),
        modules_to_save=None if head is None else [head],
    )
    return get_peft_model(model, config)


def _write_checkpoint(
    base: Path, changed: Mapping[str, torch.Tensor], out: Path, dtype: torch.dtype | None
) -> None:
    """Writes the base with some tensors changed or added, and its config and tokenizer."""
    from safetensors.torch import save_file

    out.mkdir(exist_ok=True)
    tensors = {**read_state(base), **changed}
    if dtype is not None:
        tensors = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in tensors.items()
        }
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(contiguous, out / _WEIGHTS, metadata={"format": "pt"})
    for path in (*base.glob("*.json"), *base.glob("vocab.txt")):
        if not path.name.endswith("data_config.json"):
            shutil.copyfile(path, out / path.name)


@contextmanager
def _result(
    kind: str, task: Task, recipe: dict[str, Any], cache: Path
) -> Iterator[tuple[Path, Path | None]]:
    """Gives the folder of a result, and one to build it in if it is not in the cache."""
    here = Path(__file__)
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
    code = [
        sha256_of(here.with_name(name)) for name in ("training.py", "classifier.py", "tasks.py")
    ]
    key = _digest([kind, asdict(task), recipe, libraries, code])
    target = cache / "training" / f"{task.name}-{kind}-{key[:12]}"
    with built(target) as folder:
        yield target, folder


def _note(folder: Path, score: Score, seconds: float) -> None:
    text = json.dumps({"score": asdict(score), "cpu_seconds": round(seconds, 2)})
    (folder / "trained.json").write_text(text, encoding="utf-8")


def _read_result(target: Path, kind: str, inner: str, *, cached: bool) -> Trained:
    note = json.loads((target / "trained.json").read_text(encoding="utf-8"))
    return Trained(target / inner, kind, Score(**note["score"]), note["cpu_seconds"], cached)


def _weights_digest(folder: Path) -> str:
    return _digest([sha256_of(path) for path in sorted(folder.glob("*.safetensors"))])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
