"""Several stores of one model on parts of one split, read as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import IncompatibleStoreError
from transfer_metrics.features.store import KEY, FeatureStore


class JoinedStore(FeatureStore):
    """The examples of several stores, one store after the other.

    Nothing is copied: features are read from where they lie.

    Args:
        stores: finished stores that differ in their examples only.
        only: names of the layers to keep; all of them unless given.

    Raises:
        IncompatibleStoreError: they differ in more than their examples.

    >>> from torch import nn
    >>> from transfer_metrics.features.extract import extract
    >>> network = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> parts = [([[0.0], [1.0]], [0, 1]), ([[2.0], [3.0], [4.0]], [1, 0, 1])]
    >>> stores = [extract(network, part, "last", progress=False) for part in parts]
    >>> joined = JoinedStore(stores)
    >>> len(joined), joined["2:input"].shape, joined.labels.tolist()
    (5, (5, 4), [0, 1, 1, 0, 1])
    """

    def __init__(self, stores: Sequence[FeatureStore], only: Sequence[str] | None = None) -> None:
        first = stores[0]
        same = [field for field in KEY if field not in ("task_fingerprint", "behaviour", "n")]
        for other in stores[1:]:
            differing = [f for f in same if other.manifest[f] != first.manifest[f]]
            differing += ["layers"] if other.names != first.names else []
            if differing:
                raise IncompatibleStoreError(
                    f"stores of {first.model!r} and {other.model!r} differ in "
                    f"{', '.join(differing)}; join stores of one model on parts of one split"
                )
        records = [record for s in stores for record in _in_order(s)]
        contents = "+".join(s.manifest["task_fingerprint"] for s in stores)
        layers = [
            layer for layer in first.manifest["layers"] if only is None or layer["name"] in only
        ]
        manifest = {
            **first.manifest,
            "n": sum(len(s) for s in stores),
            "task_fingerprint": hashlib.sha256(contents.encode()).hexdigest(),
            "layers": layers,
            "shards": {str(index): record for index, record in enumerate(records)},
        }
        super().__init__(manifest, [shard for s in stores for shard in s._shards])
        self._stores = list(stores)
        self._ends = np.cumsum([len(s) for s in stores])

    def rows(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Features (k, D) of the examples at some positions, in the order asked for.

        Raises:
            LayerNotFoundError: the stores do not have the layer.
        """
        self._check(name)
        store_of = np.searchsorted(self._ends, positions, side="right")
        order = np.argsort(store_of, kind="stable")
        numbers, starts = np.unique(store_of[order], return_index=True)
        found = [
            self._stores[i].rows(name, positions[chosen] - self._ends[i] + len(self._stores[i]))
            for i, chosen in zip(numbers, np.split(order, starts[1:]), strict=True)
        ]
        rows = np.concatenate(found)
        rows[order] = rows.copy()
        return rows


def _in_order(store: FeatureStore) -> list[dict[str, Any]]:
    """What a store recorded of its shards, in their order."""
    return [record for _, record in sorted(store.manifest["shards"].items(), key=_number)]


def _number(item: tuple[str, Any]) -> int:
    return int(item[0])
