"""Maintenance work orders as classification tasks: few labelled orders, tested on later ones.

Real free text ("REPAIR LOOSE BUCKET CYLINDER") with labels that the data set's
authors derived by keyword rules, so that a bag of words does well with many
labels; with a few a class, adapting a language model pays.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from dataclasses import dataclass

from benchmarks.assets import ORDERS_FILE, WORK_ORDERS

__all__ = ["LABELS", "Example", "Task", "load_task"]

Example = tuple[str, int]

# Column of the file and the classes that are frequent enough to be learnt and tested.
LABELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "failure": (
        "FM",
        (
            "Leak",
            "Structural Integrity",
            "Missing / Loose",
            "Over Temp",
            "Fail to Start_Unspecified",
            "Fail to Stop",
        ),
    ),
    "system": (
        "MajorSystem",
        (
            "Hydraulic System",
            "Bucket",
            "Engine",
            "Superstructure",
            "Hydraulic Cylinders",
            "Final Drive",
        ),
    ),
    "action": ("Action", ("Replace", "Repair", "Minor Maint")),
}

_TEST_FROM = "2009-01-01"


@dataclass(frozen=True)
class Task:
    """What is to be learnt, from which labelled orders.

    Attributes:
        name: A key of LABELS: failure, system or action.
        per_class: Labelled orders a class at most.
        seed: Draws the training orders; never the test orders.
        skip: Orders a class passed over first, so that a later round learns from new ones.
        assets: Machines whose orders are used, for training and testing.
        shuffled: Whether the labels are shuffled: an adaptation that goes wrong.
        tests: Test orders at most.
    """

    name: str
    per_class: int = 16
    seed: int = 0
    skip: int = 0
    assets: str = "ABCDE"
    shuffled: bool = False
    tests: int = 400

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, in the order of the head's rows."""
        return LABELS[self.name][1]


def load_task(task: Task) -> tuple[list[Example], list[Example]]:
    """Returns training and test examples; no text is in both.

    Orders before 2009 train, later ones test. The test orders depend on the
    task's name, assets and number only, so that accuracies compare.

    Args:
        task: What to load.

    Returns:
        Training and test examples, shuffled.

    Raises:
        MissingExtra: The data's package is not installed.
        ObjectCorrupt: The data is not the pinned file.
    """
    known, later = _orders(task)
    by_class: dict[int, list[Example]] = defaultdict(list)
    for text, label in known.items():
        by_class[label].append((text, label))
    draw = random.Random(task.seed)
    train: list[Example] = []
    for label in sorted(by_class):
        draw.shuffle(by_class[label])
        train += by_class[label][task.skip : task.skip + task.per_class]
    draw.shuffle(train)
    if task.shuffled:
        wrong = [label for _, label in train]
        draw.shuffle(wrong)
        train = [(text, label) for (text, _), label in zip(train, wrong, strict=True)]
    test = list(later.items())
    random.Random(2009).shuffle(test)
    return train, test[: task.tests]


def _orders(task: Task) -> tuple[dict[str, int], dict[str, int]]:
    """Returns text and label of the orders before and from the cut; the first label counts."""
    column, classes = LABELS[task.name]
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    path = WORK_ORDERS.folder() / ORDERS_FILE
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row[column] in classes and row["Asset"] in task.assets:
                text = row["OriginalShorttext"].strip().lower()
                side = before if row["BscStartDate"] < _TEST_FROM else after
                side.setdefault(text, classes.index(row[column]))
    return before, {text: label for text, label in after.items() if text not in before}
