"""Statistics of a range of shards, built while the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.features.extraction import Extraction
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.ranking.pieces import Group, Pieces
from transfer_metrics.ranking.score import probabilities
from transfer_metrics.statistics.saving import Saved


@dataclass(frozen=True, eq=False)
class Partial(Saved):
    """What a range of shards says of one layer.

    Attributes:
        groups: the statistics of each group of metrics, or why there are none.
    """

    groups: tuple[Pieces | str, ...]

    def __add__(self, other: Partial) -> Partial:
        return Partial(tuple(map(_added, self.groups, other.groups)))


def _added(a: Pieces | str, b: Pieces | str) -> Pieces | str:
    if isinstance(a, str) or isinstance(b, str):
        return a if isinstance(a, str) else b
    return a + b


@dataclass(frozen=True)
class Asked:
    """What is to be built of each example.

    Attributes:
        groups: groups of metrics by name of the layer, ``LOGITS`` for the head.
        units: number of the example that each row belongs to, (N,).
        mean: whether the mean of the layers stands for them.
    """

    groups: Mapping[str, Sequence[Group]]
    units: np.ndarray
    mean: bool = False


def read_range(
    extraction: Extraction, manifest: Mapping[str, Any], wanted: Iterable[int], asked: Asked
) -> tuple[dict[str, Partial], dict[str, Any]]:
    """Run a model over some shards, and keep the statistics of each layer only.

    Args:
        extraction: the model and the task.
        manifest: the manifest of the extraction, of the layers that are wanted.
        wanted: numbers of the shards.
        asked: what is built.

    Returns:
        Statistics by layer, and what the manifest of a store records of each shard.

    Raises:
        ExtractionError: as for ``extract``.

    Cost: the forward passes and the statistics; memory one shard of features and the statistics of
    all layers.
    """
    found: dict[str, Partial] = {}
    records = {}
    size = manifest["shard_size"]
    for index, arrays, record in extraction.shards(manifest, wanted):
        shard = {**manifest, "n": record["rows"], "shards": {"0": record}}
        store = FeatureStore(shard, [arrays])
        store = MeanStore(store) if asked.mean else store
        rows = slice(index * size, index * size + record["rows"])
        for name in [*store.names, *([LOGITS] if manifest["logits"] else [])]:
            groups = asked.groups.get(name, ())
            if not groups:
                continue
            x = probabilities(arrays[LOGITS]) if name == LOGITS else store[name]
            new = Partial(tuple(_pieces(group, x, asked.units[rows], rows) for group in groups))
            found[name] = found[name] + new if name in found else new
        records[str(index)] = record
    return found, records


def _pieces(group: Group, x: np.ndarray, units: np.ndarray, rows: slice) -> Pieces | str:
    if group.error is not None:
        return group.error
    try:
        return Pieces.of_batch(group.needs, x, group.labels[rows], units)
    except InvalidInputError as error:
        return str(error)
