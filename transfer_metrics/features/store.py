"""Pooled features of one model on one split of one task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from transfer_metrics.errors import CorruptStoreError, LayerNotFoundError
from transfer_metrics.features.layers import MEAN, Layer
from transfer_metrics.features.shards import LABELS, LOGITS, Shard, StoreFolder, layers_of
from transfer_metrics.registry import choose

_KEY = (
    "format",
    "model",
    "revision",
    "model_fingerprint",
    "preprocess",
    "head",
    "behaviour",
    "settings",
    "task",
    "kind",
    "split",
    "task_fingerprint",
    "classes",
    "n",
    "pool",
    "dtype",
    "amp",
)
"""Fields of a manifest that, with the names of the layers, decide what a store holds."""


class FeatureStore:
    """Layer features of one model, task and split, with their labels.

    Features are read when asked for, one layer at a time; nothing is cached. Made by ``extract``
    or ``FeatureStore.open``.

    Args:
        manifest: what the store holds.
        shards: one file, or one mapping of arrays, per shard.
    """

    def __init__(
        self, manifest: Mapping[str, Any], shards: Sequence[Path | Mapping[str, np.ndarray]]
    ) -> None:
        self.manifest = dict(manifest)
        self._shards = [Shard(one) if isinstance(one, Path) else one for one in shards]

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a finished store.

        Args:
            path: the folder that was given to ``extract`` as ``out``.

        Returns:
            The store, every file of it verified against its SHA-256, and against the sizes and
            types that the manifest says. Only files inside the folder are read.

        Raises:
            CorruptStoreError: a file is missing, truncated, altered or does not fit the others, or
                extraction has not finished.
            IncompatibleStoreError: another version of the format.

        Cost: reads every file once, about a second per gigabyte.
        """
        folder = StoreFolder(Path(path))
        manifest = folder.read()
        count = -(-manifest["n"] // manifest["shard_size"])
        done = sum(int(index) < count for index in manifest["shards"])
        if done < count:
            raise CorruptStoreError(
                f"{path} is unfinished: {done} of {count} shards; run the same extraction again "
                f"to complete it"
            )
        for index in range(count):
            folder.verify(manifest, index)
        return cls(manifest, folder.shards(count))

    @property
    def layers(self) -> list[Layer]:
        """The layers, in call order."""
        return layers_of(self.manifest)

    @property
    def names(self) -> list[str]:
        """Names of the layers, in call order."""
        return [layer["name"] for layer in self.manifest["layers"]]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.manifest["model"]

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.manifest["task"]

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.manifest["split"]

    @property
    def kind(self) -> str:
        """``classification``, ``regression`` or ``multilabel``."""
        return self.manifest["kind"]

    @property
    def named(self) -> bool:
        """Whether its classes are names however they look; see ``Task``."""
        return bool(self.manifest.get("named", False))

    @property
    def num_classes(self) -> int:
        """Number of classes, of which each example has one; 0 for other kinds."""
        return len(self.manifest["classes"]) if self.kind == "classification" else 0

    @property
    def seconds(self) -> float:
        """Time spent in forward passes, over all shards, whenever they were computed."""
        return sum(record["seconds"] for record in self.manifest["shards"].values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the features depend on: weights, preprocessing, data, layers, pooling."""
        key = [self.manifest.get(field) for field in _KEY] + self.names
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 class numbers, or (N,) or (N, K) float64 targets."""
        return self._read(LABELS)

    @property
    def source_logits(self) -> np.ndarray | None:
        """(N, Z) float32 output of the model's own classifier, where it was kept."""
        return self._read(LOGITS) if self.manifest["logits"] else None

    def __len__(self) -> int:
        return self.manifest["n"]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        """Features of one layer, (N, D) in the stored precision.

        Raises:
            LayerNotFoundError: the store does not have the layer.
        """
        choose("layer", name, self.names, LayerNotFoundError)
        return self._read(name)

    def batches(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (n, D) and labels of one layer, shard by shard.

        Raises:
            LayerNotFoundError: the store does not have the layer.
        """
        choose("layer", name, self.names, LayerNotFoundError)
        return ((shard[name], shard[LABELS]) for shard in self._shards)

    def shards(self) -> Iterator[Mapping[str, np.ndarray]]:
        """The arrays of each shard by name, each read when it is asked for."""
        return iter(self._shards)

    def rows(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Features (k, D) of the examples at some positions, in the order asked for.

        Files are mapped into memory and only the pages that hold those rows are read.

        Raises:
            LayerNotFoundError: the store does not have the layer.
        """
        choose("layer", name, self.names, LayerNotFoundError)
        shard_of, within = np.divmod(positions, self.manifest["shard_size"])
        order = np.argsort(shard_of, kind="stable")
        shards, starts = np.unique(shard_of[order], return_index=True)
        found = []
        for number, chosen in zip(shards, np.split(order, starts[1:]), strict=True):
            shard, places = self._shards[number], within[chosen]
            is_file = isinstance(shard, Shard)
            found.append(shard.rows(name, places) if is_file else shard[name][places])
        rows = np.concatenate(found)
        rows[order] = rows.copy()
        return rows

    def __repr__(self) -> str:
        return (
            f"FeatureStore({self.model!r} on {self.task!r} {self.split}: "
            f"{len(self)} examples, {len(self.names)} layers)"
        )

    def _read(self, name: str) -> np.ndarray:
        return np.concatenate([shard[name] for shard in self._shards])


class Batch(Mapping[str, np.ndarray]):
    """Pooled features (n, D) of some examples by the name of the layer, each read when asked for.

    Under ``LOGITS`` is the classifier's output as source probabilities (n, Z), and under ``MEAN``
    the mean, in float32, of the layers that are ``averaged``.
    """

    def __init__(self, shard: Mapping[str, np.ndarray], averaged: Sequence[str] = ()) -> None:
        self._shard, self._averaged = shard, averaged

    def __getitem__(self, name: str) -> np.ndarray:
        if name == LOGITS:
            return softmax(self._shard[LOGITS].astype(np.float64), axis=1)
        if name == MEAN and self._averaged:
            return mean_of([self._shard[part] for part in self._averaged])
        return self._shard[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._shard, *([MEAN] if self._averaged else [])])

    def __len__(self) -> int:
        return sum(1 for _ in self)  # a list asks for its length


def mean_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of features of several layers, example by example, in float32."""
    total = parts[0].astype(np.float32)
    for part in parts[1:]:
        total += part
    return total / len(parts)
