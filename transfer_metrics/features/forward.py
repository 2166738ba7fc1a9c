"""Forward passes over a split, one shard of pooled features at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transfer_metrics.errors import ExtractionError, TransferMetricsError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import place
from transfer_metrics.features.pooling import Pool
from transfer_metrics.features.shards import LABELS, LOGITS
from transfer_metrics.features.store import layers_of
from transfer_metrics.features.trace import call_model, evaluation
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.base import Model, Split, Task


class Batches(Dataset):
    """Preprocessed batches of a split, each addressed by the list of its examples.

    An example that cannot be prepared gives the error instead of a batch, since an exception that
    leaves a worker process loses its type and message.
    """

    def __init__(self, model: Model, task: Task, split: str) -> None:
        self._model = model
        self._examples = task[split].examples
        self._where = f"of {task.name!r} ({split})"

    def __getitem__(self, indices: Sequence[int]) -> tuple[list[int], Any]:
        try:
            batch = self._model.batch([self._examples[index] for index in indices])
        except TransferMetricsError as error:
            return list(indices), error
        except Exception as error:
            batch = ExtractionError(
                f"examples {indices[0]} to {indices[-1]} {self._where} could not be prepared for "
                f"{self._model.name!r}: {type(error).__name__}: {error}"
            )
        return list(indices), batch

    def load(self, indices: Sequence[int]) -> Any:
        """One batch, or the error of its preparation raised."""
        return _checked(self[indices][1])


@dataclass(frozen=True)
class Forward:
    """How to run a model over a split; see ``extract`` for what the fields mean."""

    model: Model
    task: Task
    split: str
    pool: Pool
    batch_size: int
    dtype: str
    amp: bool
    num_workers: int
    progress: bool

    def shards(
        self, manifest: Mapping[str, Any]
    ) -> Generator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
        """Compute the shards that a manifest lacks.

        The model is in evaluation mode and has hooks until the iterator is closed.

        Yields:
            Number of the shard, its arrays by name, and its rows and seconds.

        Raises:
            ExtractionError: the forward pass failed, or features are not finite.
        """
        data = self.task[self.split]
        size, n = manifest["shard_size"], len(data)
        missing = {
            index: range(index * size, min(n, (index + 1) * size))
            for index in range(math.ceil(n / size))
            if str(index) not in manifest["shards"]
        }
        if not missing:
            return
        batches = [
            list(rows[start : start + self.batch_size])
            for rows in missing.values()
            for start in range(0, len(rows), self.batch_size)
        ]
        todo = sum(map(len, missing.values()))
        logits = manifest["logits"]
        taps = LayerTaps(
            self.model.module,
            layers_of(manifest),
            self.pool,
            logits=logits["path"] if logits else None,
        )
        bar = progress_bar(
            f"{self.model.name} on {self.task.name}",
            n,
            self.progress,
            initial=n - todo,
            unit=" examples",
        )
        with bar, evaluation(self.model.module), taps:
            loader = iter(self._loader(batches))
            for index, rows in missing.items():
                arrays = self._empty(manifest, len(rows))
                seconds, filled = 0.0, 0
                while filled < len(rows):
                    indices, batch = next(loader)
                    start = time.perf_counter()
                    self._fill(arrays, filled, _checked(batch), taps, indices)
                    seconds += time.perf_counter() - start
                    filled += len(indices)
                    bar.update(len(indices))
                finished = {name: array.numpy() for name, array in arrays.items()}
                yield index, finished | _labels(data, rows), {"rows": filled, "seconds": seconds}

    def _loader(self, batches: list[list[int]]) -> DataLoader:
        return DataLoader(
            Batches(self.model, self.task, self.split),
            sampler=batches,
            batch_size=None,
            collate_fn=_same,
            num_workers=self.num_workers,
            pin_memory=next(self.model.module.parameters(), torch.empty(0)).is_cuda,
            generator=torch.Generator(),  # or the caller's random state would advance
        )

    def _empty(self, manifest: Mapping[str, Any], rows: int) -> dict[str, Tensor]:
        dtype = getattr(torch, self.dtype)
        arrays = {
            layer["name"]: torch.empty(rows, layer["dim"], dtype=dtype)
            for layer in manifest["layers"]
        }
        if manifest["logits"]:
            arrays[LOGITS] = torch.empty(rows, manifest["logits"]["dim"])
        return arrays

    def _fill(
        self,
        arrays: Mapping[str, Tensor],
        start: int,
        batch: Any,
        taps: LayerTaps,
        indices: list[int],
    ) -> None:
        """Run one batch and put the features into the shard's rows from ``start``."""
        module = self.model.module
        batch = place(batch, module)
        device = next(module.parameters(), torch.empty(0)).device
        with torch.autocast(device.type, enabled=self.amp):
            call_model(self.model, batch)
        features = taps.collect()
        if LOGITS in arrays and taps.logits is not None:
            features[LOGITS] = taps.logits
        for name, array in arrays.items():
            pooled, kept = features[name], array[start : start + len(indices)]
            if pooled.shape != kept.shape:
                raise ExtractionError(
                    f"{_title(name)} of {self.model.name!r} has shape {tuple(pooled.shape)} for "
                    f"{len(indices)} examples, expected {tuple(kept.shape)}"
                )
            kept.copy_(pooled)
            if not torch.isfinite(kept).all():
                raise self._not_finite(name, pooled, kept, indices)

    def _not_finite(
        self, name: str, pooled: Tensor, kept: Tensor, indices: list[int]
    ) -> ExtractionError:
        bad = (~torch.isfinite(kept)).any(1).nonzero()[0, 0].item()
        where = (
            f"{_title(name)} of {self.model.name!r} on example {indices[int(bad)]} of "
            f"{self.task.name!r} ({self.split})"
        )
        if torch.isfinite(pooled).all():
            return ExtractionError(
                f"{where} reaches {pooled.abs().max().item():.4g}, beyond float16's 65504; "
                f"use dtype='float32'"
            )
        cure = "use amp=False" if self.amp else "check the model's weights and the example"
        return ExtractionError(f"{where} holds NaN or infinity; {cure}, or leave the layer out")


def _same(item: Any) -> Any:
    return item


def _checked(batch: Any) -> Any:
    if isinstance(batch, TransferMetricsError):
        raise batch
    return batch


def _labels(data: Split, rows: range) -> dict[str, np.ndarray]:
    return {LABELS: np.asarray(data.labels)[rows.start : rows.stop]}


def _title(name: str) -> str:
    return "the classifier's output" if name == LOGITS else f"layer {name!r}"
