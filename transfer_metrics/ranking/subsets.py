"""Nested random subsets of a split, each with the classes in their shares."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer_metrics.sources.base import Split, Task

SEED = 0


@dataclass(frozen=True, eq=False)
class Subset:
    """The examples that one round of a race looks at.

    Attributes:
        increments: the task cut down to what each round up to this one added.
        positions: where the examples lie in the split, in the order of the increments, (n,).
        fingerprint: of the contents; that of the split where the subset is all of it.
    """

    increments: tuple[Task, ...]
    positions: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.positions)


def nested_order(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """An order of the examples of which every beginning is a stratified random sample.

    Every class has one example as soon as s, the length of the beginning, reaches the number C of
    classes. So a class of which there are c of n examples has at most one more than ``c s / n``,
    and at most ``C c / n`` fewer, what the first examples of the rare classes displace. Regression
    targets are shuffled. The order depends on the labels and on a fixed seed only.

    Args:
        labels: class numbers (n,), or targets, of which only the number matters.
        num_classes: number of classes, 0 for regression.

    Returns:
        (n,) positions.

    Cost: O(n log n).

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> [np.bincount(labels[nested_order(labels, 2)[:s]]).tolist() for s in (2, 3, 6)]
    [[1, 1], [2, 1], [4, 2]]
    """
    shuffled = np.random.default_rng(SEED).permutation(len(labels))
    if not num_classes:
        return shuffled
    share = np.empty(len(labels))
    for c in range(num_classes):
        members = shuffled[labels[shuffled] == c]
        share[members] = np.arange(len(members)) / max(len(members), 1)
    # Stable, so that examples of equal share stay shuffled.
    return shuffled[np.argsort(share[shuffled], kind="stable")]


def nested_subsets(task: Task, split: str, sizes: Sequence[int]) -> list[Subset]:
    """Subsets of growing size, each of which contains the one before.

    Args:
        task: the task.
        split: which of its splits.
        sizes: numbers of examples, increasing.

    Returns:
        One subset per size. Positions are ascending within each increment.
    """
    whole = task[split]
    order = nested_order(whole.labels, task.num_classes)
    increments: list[Task] = []
    positions = np.empty(0, dtype=np.int64)
    found = []
    for start, stop in zip([0, *sizes], sizes, strict=False):
        new = np.sort(order[start:stop])
        positions = np.concatenate([positions, new])
        part = _part(whole, new)
        increments.append(dataclasses.replace(task, splits={"train": part, split: part}))
        all_of_it = len(positions) == len(whole)
        fingerprint = whole.fingerprint if all_of_it else _fingerprint(whole, positions)
        found.append(Subset(tuple(increments), positions, fingerprint))
    return found


def _part(whole: Split, positions: np.ndarray) -> Split:
    part = whole.rows(positions)
    # What it holds follows from the whole, so that no example is decoded to hash it again.
    part.__dict__["fingerprint"] = _fingerprint(whole, positions)
    return part


def _fingerprint(whole: Split, positions: np.ndarray) -> str:
    digest = hashlib.sha256(f"{whole.fingerprint}\0rows\0".encode())
    digest.update(np.ascontiguousarray(positions, dtype=np.int64).tobytes())
    return digest.hexdigest()
