"""A small text classifier: mean-pooled encoder states and linear heads.

Trained and measured on one thread from fixed seeds. It knows nothing of tasks,
folders of results or deltas.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# Read by the libraries when they are imported: no network, and no threads that spin on few cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from benchmarks.tasks import Example

__all__ = [
    "Batches",
    "Classifier",
    "class_means",
    "fit",
    "load_encoder",
    "measure",
    "reproducible",
]

_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
_SHARPNESS = 8.0  # pooled states have length 1; the head sees them this much longer
_BATCH = 16


class Classifier(nn.Module):
    """Mean-pooled encoder with linear heads; the one added last is in use."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.name_or_path = _HUB_NAME  # PEFT writes it into the adapter's config
        self._heads: list[str] = []

    def heads(self) -> list[str]:
        """Names of the heads, the one in use last."""
        return list(self._heads)

    def uses(self, name: str, classes: int) -> bool:
        """Puts a head into use if there is one of this name and size."""
        if name not in self._heads or getattr(self, name).out_features != classes:
            return False
        self._heads.remove(name)
        self._heads.append(name)
        return True

    def add_head(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Adds a head with these weights, or replaces it, and puts it into use."""
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(torch.zeros(weight.shape[0]) if bias is None else bias)
        setattr(self, name, layer)
        self._heads = [known for known in self._heads if known != name] + [name]

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns one vector of length 1 a text."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the head in use."""
        layer = getattr(self, self._heads[-1])
        logits: torch.Tensor = layer(_SHARPNESS * self.embed(input_ids, attention_mask))
        return logits

    def own_state(self) -> dict[str, torch.Tensor]:
        """Returns the weights as a checkpoint names them: the encoder's own names, then heads."""
        prefix = "encoder."
        return {name.removeprefix(prefix): value for name, value in self.state_dict().items()}


class Batches:
    """Texts to tensors, with the tokenizer of a folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load_tokenizer(folder)

    def __call__(
        self, examples: Sequence[Example], size: int
    ) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Yields the encoder's inputs and the labels, in the order of the examples."""
        for first in range(0, len(examples), size):
            part = examples[first : first + size]
            encoded = self._tokenizer(
                [text for text, _ in part],
                padding=True,
                truncation=True,
                max_length=32,
                return_tensors="pt",
            )
            inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            yield inputs, torch.tensor([label for _, label in part])


def fit(
    model: nn.Module,
    batches: Batches,
    examples: Sequence[Example],
    epochs: int,
    rate: float,
    head_rate: float,
    seed: int,
) -> float:
    """Trains what requires a gradient; returns CPU seconds."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[".encoder." not in f".{name}"].append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": groups[False], "lr": rate}, {"params": groups[True], "lr": head_rate}],
        weight_decay=0.0,
    )
    steps = epochs * -(-len(examples) // _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    order, draw = list(examples), random.Random(seed)
    model.train()
    started = time.process_time()
    for _ in range(epochs):
        draw.shuffle(order)
        for inputs, labels in batches(order, _BATCH):
            optimiser.zero_grad()
            loss: Any = nn.functional.cross_entropy(model(**inputs), labels)
            loss.backward()
            optimiser.step()
            schedule.step()
    return time.process_time() - started


@torch.no_grad()
def measure(model: nn.Module, batches: Batches, examples: Sequence[Example]) -> float:
    model.eval()
    by_length = sorted(examples, key=lambda example: len(example[0]))  # little padding
    right = sum(
        int((model(**inputs).argmax(-1) == labels).sum())
        for inputs, labels in batches(by_length, 64)
    )
    return right / len(examples)


@torch.no_grad()
def class_means(model: Classifier, batches: Batches, examples: Sequence[Example]) -> torch.Tensor:
    """Returns the normalised mean vector of each class: a head that no training made."""
    model.eval()
    pairs = [(model.embed(**inputs), labels) for inputs, labels in batches(examples, 64)]
    vectors, labels = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
    means = [vectors[labels == label].mean(0) for label in range(int(labels.max()) + 1)]
    return nn.functional.normalize(torch.stack(means), dim=-1)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Runs on one thread from this seed, and leaves torch as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def load_encoder(folder: Path, dtype: torch.dtype | None = torch.float32) -> nn.Module:
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    encoder: nn.Module = AutoModel.from_pretrained(
        folder, add_pooling_layer=False, dtype="auto" if dtype is None else dtype
    )
    return encoder


@cache
def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
