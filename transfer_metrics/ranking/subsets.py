"""Nested random subsets of a split, each with the classes in their shares."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer_metrics.sources.tasks.subtasks import nested_order
from transfer_metrics.sources.tasks.task import Split, Task


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
        part = part_of(whole, new)
        increments.append(dataclasses.replace(task, splits={"train": part, split: part}))
        all_of_it = len(positions) == len(whole)
        fingerprint = whole.fingerprint if all_of_it else _fingerprint(whole, positions)
        found.append(Subset(tuple(increments), positions, fingerprint))
    return found


def part_of(whole: Split, positions: np.ndarray) -> Split:
    """The examples at some positions, whose hash follows from that of the whole.

    So no example is read to hash it again.
    """
    part = dataclasses.replace(whole.rows(positions), whole=whole.whole or whole)
    part.__dict__["fingerprint"] = _fingerprint(whole, positions)
    return part


def _fingerprint(whole: Split, positions: np.ndarray) -> str:
    digest = hashlib.sha256(f"{whole.fingerprint}\0rows\0".encode())
    digest.update(np.ascontiguousarray(positions, dtype=np.int64).tobytes())
    return digest.hexdigest()
