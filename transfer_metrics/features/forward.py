"""Forward passes over a split, one shard of pooled features at a time."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, TransferMetricsError
from transfer_metrics.features.batches import MOST, Batches, batches_of
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.inference import Inference
from transfer_metrics.features.layers import Found, Layer, find_layers
from transfer_metrics.features.operations import Operations
from transfer_metrics.features.pixels import Pixels
from transfer_metrics.features.pooling import Pool, pool_for, resolve_pool
from transfer_metrics.features.shards import LABELS, LOGITS, layers_of
from transfer_metrics.features.trace import batch_size
from transfer_metrics.memory import kept_memory
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.models.model import Model, call_model, place
from transfer_metrics.sources.models.modules import (
    copied,
    evaluation,
    is_lazy,
    on_device,
    tried,
)
from transfer_metrics.sources.tasks.sequences import Rows
from transfer_metrics.sources.tasks.task import Split, Task

_UNITS = "__units__"
"""Name of the array of a shard that has the number of the sentence of each word."""
_LOOKED_AT = 64
"""Examples of which the lengths are compared to choose a few."""
_HANDED_ON = 100
"""Operations in the time of which a number is handed from operation to operation on a CPU."""
_MADE: WeakKeyDictionary[Model, Model] = WeakKeyDictionary()
_COSTS: WeakKeyDictionary[nn.Module, tuple[str, int]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Forward:
    """How to run a model over a split; see ``extract`` for what the fields mean."""

    model: Model
    task: Task
    split: str = "train"
    pool: Pool = field(default_factory=functools.partial(resolve_pool, "avg"))
    batch_size: int = MOST
    device: str | torch.device | None = None
    dtype: str = "float32"
    amp: bool = False
    num_workers: int = 0
    progress: bool = True
    pixels: str | Path | None = None
    as_is: bool = False
    inference: Inference = field(default_factory=Inference)

    def shards(
        self, manifest: Mapping[str, Any]
    ) -> Generator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
        """Number, arrays by name, rows and seconds of the shards that a manifest lacks.

        The model is in evaluation mode until the iterator is closed.
        """
        data = self.data
        size, n = manifest["shard_size"], len(data)
        missing = {
            index: range(index * size, min(n, (index + 1) * size))
            for index in range(math.ceil(n / size))
            if str(index) not in manifest["shards"]
        }
        if not missing:
            return
        equal = self.model.equal_lengths
        padded = "text" in (self.task.modality, self.model.modality)
        by_length = equal or padded or self.model.modality == "audio"
        length = self.model.length if by_length else None
        batches = [
            [rows.start + int(i) for i in batch]
            for rows in missing.values()
            for batch in batches_of(data, rows, self.batch_size, length, equal)
        ]
        todo = sum(map(len, missing.values()))
        bar = progress_bar(
            f"{self.model.name} on {self.task.name}, {self.batch_size} at a time",
            n,
            self.progress,
            initial=n - todo,
            unit=" examples",
        )
        layers, logits = layers_of(manifest), manifest["logits"]
        pixels = Pixels.of(self.pixels, self.model, data)
        source = self._batches(pixels)
        with (
            bar,
            kept_memory,
            on_device(self.model.module, self.device),
            evaluation(self.model.module),
            self.inference.of(self.model.module),
            closing(source.ahead(batches, self.num_workers)) as loaded,
        ):
            for index, rows in missing.items():
                kept = getattr(torch, self.dtype)
                arrays = {one.name: torch.empty(len(rows), one.dim, dtype=kept) for one in layers}
                if logits:
                    arrays[LOGITS] = torch.empty(len(rows), logits["dim"])
                seconds, filled = 0.0, 0
                while filled < len(rows):
                    indices, batch = next(loaded)
                    start = time.perf_counter()
                    if isinstance(batch, TransferMetricsError):
                        # Some data sets can be read by the thread only in which they were opened.
                        batch = source.load(indices)
                    if pixels and isinstance(batch, Tensor) and batch.dtype == torch.uint8:
                        pixels.add(indices, batch)
                        batch = pixels.preprocess.normalised(batch)
                    pooled = self._pooled(batch, layers, logits and logits["path"])
                    self._fill(arrays, pooled, rows.start, indices)
                    seconds += time.perf_counter() - start
                    filled += len(indices)
                    bar.update(len(indices))
                finished = {name: array.numpy() for name, array in arrays.items()}
                finished[LABELS] = np.asarray(data.labels)[rows.start : rows.stop]
                if data.units is not None:
                    finished[_UNITS] = data.units[rows.start : rows.stop]
                yield index, finished, {"rows": filled, "seconds": seconds}

    @property
    def data(self) -> Split:
        """The split."""
        return self.task[self.split]

    @functools.cached_property
    def few(self) -> list[int]:
        """Positions of three examples: one of middle length, the longest, and the shortest.

        Where batches are of equal length, all three are of the most frequent one.
        """
        data, model = self.data, self.model
        firsts = np.arange(len(data))
        if data.units is not None:
            firsts = np.unique(data.units, return_index=True)[1]
        some = firsts[np.unique(np.linspace(0, len(firsts) - 1, _LOOKED_AT).astype(int))]
        if model.modality in ("text", "audio"):
            sizes = np.array([model.length(data.examples[int(i)]) for i in some])
            if model.equal_lengths:
                some = some[sizes == np.bincount(sizes).argmax()]
            else:
                some = some[np.argsort(sizes, kind="stable")][int((sizes == 0).sum()) :]
                some = some if len(some) else firsts  # all are empty, which the pass will say
        elif isinstance(data.examples, Rows):  # those that differ, so that what they share shows
            rows = data.examples.values[some].reshape(len(some), -1).astype(float)
            some = some[np.argsort(np.linalg.norm(rows, axis=1), kind="stable")]
        return [int(some[len(some) // 2]), int(some[-1]), int(some[0])]

    def materialised(self) -> Forward:
        """The same with a network whose weights have shapes, which lazy ones take from a batch.

        That is a copy, so that the caller's stays lazy should anything fail. Its weights are drawn
        from a fixed seed, since every worker makes its own.
        """
        model = self.model
        if not is_lazy(model.module):
            return self
        if model not in _MADE:
            made = dataclasses.replace(model, module=copied(model.module))
            with tried(made.module):
                torch.manual_seed(0)
                dataclasses.replace(self, model=made).run(self.few)
            _MADE[model] = made
        return dataclasses.replace(self, model=_MADE[model])

    def load(self, indices: Sequence[int]) -> Any:
        """Some examples as one batch."""
        return self._batches().load(indices)

    def _batches(self, pixels: Pixels | None = None) -> Batches:
        where = f"of {self.task.name!r} ({self.split})"
        return Batches(self.model, self.data.examples, where, whole=True, pixels=pixels)

    def run(self, indices: Sequence[int]) -> None:
        """Let the network read some examples in one batch."""
        call_model(self.model, place(self.load(indices), self.model.module))

    def found(self, layers: list[str | int]) -> Found:
        """What a pass over two examples tells of the network, nothing of which is proven yet."""
        # Two words may be of one sentence, which is read once.
        words = self.data.units is not None and len(set(self.few)) == 1
        with tried(self.model.module, self.device):
            two = self.model.dummy(2) if words else self.load(self.few[1:])
            return find_layers(self.model, layers, self.pool, two)

    def cost(self) -> int:
        """What a pass takes for one example, in operations; the same on every machine.

        Convolutions, matrix products and attention count as torch counts them, and each number
        that any operation writes as a hundred, since depthwise convolutions, normalisations,
        padding and the like take the time of reading and writing: with both, 21 networks of
        photographs at sizes of 64 to 224 took what is counted to a third, of differences of 23
        times. Zero where nothing can be counted.
        """
        module = self.model.module
        known = _COSTS.get(module)
        if known is None or known[0] != self.data.fingerprint:
            known = _COSTS[module] = self.data.fingerprint, self._counted()
        return known[1]

    def _counted(self) -> int:
        module = self.model.module
        try:
            batch = self.load(self.few[:1])
            with tried(module, self.device), self.inference.of(module), Operations() as counted:
                call_model(self.model, place(batch, module))
        except Exception:  # of code that counting does not understand
            return 0
        total = counted.multiplied + _HANDED_ON * counted.written
        return total // max(batch_size(batch), 1)

    def features(self, indices: Sequence[int], found: Found) -> dict[str, Tensor]:
        """Pooled features of some examples in one batch, and what the classifier gives for them."""
        logits = found.logits and found.logits[0]
        pooled = self._pooled(self.load(indices), found.layers, logits)
        return {name: rows[: len(indices)] for name, rows in pooled.items()}

    def _pooled(self, batch: Any, layers: Sequence[Layer], logits: str | None) -> dict[str, Tensor]:
        """Run one batch; the pooled output of each layer, and of the classifier if it is kept."""
        module = self.model.module
        batch = place(batch, module)
        device = next(module.parameters(), torch.empty(0)).device
        taps = LayerTaps(module, layers, pool_for(self.pool, batch), logits=logits)
        with torch.autocast(device.type, enabled=self.amp), taps:
            call_model(self.model, batch)
            features = taps.collect()
            if taps.logits is not None:
                features[LOGITS] = taps.logits
        return features

    def _fill(
        self,
        arrays: Mapping[str, Tensor],
        features: Mapping[str, Tensor],
        first: int,
        indices: list[int],
    ) -> None:
        """Put the features of a batch into the shard whose first example is ``first``."""
        places = torch.tensor(indices) - first
        for name, array in arrays.items():
            pooled, expected = features[name][: len(indices)], (len(indices), array.shape[1])
            if pooled.shape != expected:
                raise ExtractionError(
                    f"{_title(name)} of {self.model.name!r} has shape {tuple(pooled.shape)} for "
                    f"{len(indices)} examples, expected {expected}"
                )
            kept = pooled.to("cpu", array.dtype)
            if not torch.isfinite(kept).all():
                raise self._not_finite(name, pooled, kept, indices)
            if array.dtype == torch.float16 and _loses(pooled.cpu(), kept):
                raise ExtractionError(
                    f"float16 has too few digits for what {_title(name)} of {self.model.name!r} "
                    f"varies by: its numbers are too small, or too large beside their differences; "
                    f"use dtype='float32'"
                )
            array[places] = kept

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


def _loses(rows: Tensor, kept: Tensor) -> bool:
    """Whether a lower precision is off by more than a twentieth of what examples differ by."""
    spread = (rows - rows.mean(0)).norm()
    # Below, it is the rounding of equal rows.
    varies = spread > 1e-6 * rows.norm()
    return bool(varies and (kept.float() - rows).norm() > 0.05 * spread)


def _title(name: str) -> str:
    return "the classifier's output" if name == LOGITS else f"layer {name!r}"
