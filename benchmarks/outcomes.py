"""Which test orders a model gets right: what paired comparisons and slices are made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.classifier import Batches, Classifier, class_means, load_encoder, reproducible
from benchmarks.tasks import Example, Task, load_task
from benchmarks.training import Score, read_state

__all__ = ["Outcomes", "outcomes"]


@dataclass(frozen=True)
class Outcomes:
    """The answers of one model to the test orders of one task.

    Attributes:
        right: By the order's text, 1 if its label was found.
        labels: By the order's text, the label that it has.
        trained_head: Whether the model has a head for the task; class means stand in for one.
    """

    right: dict[str, int]
    labels: dict[str, str]
    trained_head: bool

    @property
    def score(self) -> Score:
        """How well it does on all of them."""
        return Score(sum(self.right.values()) / len(self.right), len(self.right), self.trained_head)

    def only(self, label: str) -> Outcomes:
        """Returns the slice of the orders that have a label."""
        labels = {text: name for text, name in self.labels.items() if name == label}
        return Outcomes({text: self.right[text] for text in labels}, labels, self.trained_head)

    def write(self, path: Path) -> None:
        """Writes the values for ``deltavc kpi add --values``: a JSON object by the order's text."""
        path.write_text(json.dumps(self.right, indent=0, sort_keys=True), encoding="utf-8")


@torch.no_grad()
def outcomes(folder: Path, task: Task, *, base: Path, head: str) -> Outcomes:
    """Asks a checkpoint for the label of each test order.

    Args:
        folder: The checkpoint, under the base's own names.
        task: The task; its training examples make the head if the checkpoint has none.
        base: Folder with config and tokenizer.
        head: Name of the head.

    Returns:
        The answers; their score is what ``benchmarks.training.evaluate`` gives.
    """
    state = read_state(folder)
    model = Classifier(load_encoder(base))
    for name, parameter in model.encoder.named_parameters():
        parameter.copy_(state[name])
    train, test = load_task(task)
    batches = Batches(base)
    trained = f"{head}.weight" in state
    with reproducible(task.seed):
        if trained:
            model.add_head(head, state[f"{head}.weight"], state[f"{head}.bias"])
        else:
            model.add_head(head, class_means(model, batches, train))
        right = _right(model, batches, test)
    labels = {text: task.classes[label] for text, label in test}
    return Outcomes(right, labels, trained)


def _right(model: Classifier, batches: Batches, test: list[Example]) -> dict[str, int]:
    model.eval()
    by_length = sorted(test, key=lambda example: len(example[0]))  # little padding
    found = [
        int(answer)
        for inputs, labels in batches(by_length, 64)
        for answer in model(**inputs).argmax(-1) == labels
    ]
    return {text: value for (text, _), value in zip(by_length, found, strict=True)}
