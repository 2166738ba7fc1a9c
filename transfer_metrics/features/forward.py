"""Forward passes over a split, one shard of pooled features at a time."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transfer_metrics.errors import ExtractionError, TransferMetricsError, warn
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.inference import AS_IS, Inference
from transfer_metrics.features.layers import Found, Layer, place
from transfer_metrics.features.pixels import Pixels
from transfer_metrics.features.pooling import Pool, pool_for
from transfer_metrics.features.shards import LABELS, LOGITS
from transfer_metrics.features.store import layers_of
from transfer_metrics.features.trace import call_model
from transfer_metrics.memory import kept_memory
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.example import Word, as_sound
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.tasks.task import Split, Task

_AHEAD = 2
"""Batches that may wait for the network."""
_UNITS = "__units__"
"""Name of the array of a shard that has the number of the sentence of each word."""


class Batches(Dataset):
    """Preprocessed batches of a split, each addressed by the list of its examples.

    An example that cannot be prepared gives the error instead of a batch, since an exception that
    leaves a worker process loses its type and message. ``whole`` says that who asks can read
    examples at the end that it did not ask for. Where decoded images are looked for in ``pixels``,
    batches of images are their pixels.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        split: str,
        *,
        whole: bool = False,
        pixels: Pixels | None = None,
    ) -> None:
        self._model = model
        self._pixels = pixels
        self._examples = task[split].examples
        maps = getattr(self._examples, "maps", None)
        doubts = maps.doubts(model.name, model.input_shape) if maps and model.normalises else ""
        if doubts:
            warn(doubts)
        self._least = model.least if whole else 1
        self._where = f"of {task.name!r} ({split})"

    def __getitem__(self, indices: Sequence[int]) -> tuple[list[int], Any]:
        try:
            batch: Any = self._pixels and self._pixels.batch(indices, self._examples)
            if batch is None:
                examples = [self._examples[index] for index in indices]
                batch = self._model.batch(examples * -(-self._least // len(examples)))
        except TransferMetricsError as error:
            return list(indices), error
        except Exception as error:
            batch = ExtractionError(
                f"{self._failing(indices)} {self._where} could not be prepared for "
                f"{self._model.name!r}: {type(error).__name__}: {error}"
            )
        return list(indices), batch

    def _failing(self, indices: Sequence[int]) -> str:
        """The first of some examples that cannot be prepared alone either, or all of them."""
        for index in indices:
            try:
                self._model.batch([self._examples[index]] * self._least)
            except Exception:
                return f"example {index}"
        return f"examples {min(indices)} to {max(indices)}"

    def load(self, indices: Sequence[int]) -> Any:
        """One batch, or the error of its preparation raised."""
        batch = self[indices][1]
        if isinstance(batch, TransferMetricsError):
            raise batch
        return batch


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
    pixels: Path | None = None
    as_is: bool = False
    inference: Inference = AS_IS

    def shards(
        self, manifest: Mapping[str, Any], wanted: Iterable[int] | None = None
    ) -> Generator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
        """Number, arrays by name, rows and seconds of the shards that a manifest lacks.

        Or of the ``wanted`` ones of them. The model is in evaluation mode until the iterator is
        closed.

        Raises:
            ExtractionError: the forward pass failed, or features are not finite.
        """
        data = self.task[self.split]
        size, n = manifest["shard_size"], len(data)
        missing = {
            index: range(index * size, min(n, (index + 1) * size))
            for index in (range(math.ceil(n / size)) if wanted is None else wanted)
            if str(index) not in manifest["shards"]
        }
        if not missing:
            return
        batches = [
            [rows.start + int(i) for i in batch]
            for rows in missing.values()
            for batch in batches_of(data, rows, self.batch_size, self._sizes)
        ]
        todo = sum(map(len, missing.values()))
        bar = progress_bar(
            f"{self.model.name} on {self.task.name}",
            n,
            self.progress,
            initial=n - todo,
            unit=" examples",
        )
        layers = layers_of(manifest)
        pixels = Pixels.of(self.pixels, self.model, data)
        source = Batches(self.model, self.task, self.split, whole=True, pixels=pixels)
        with (
            bar,
            kept_memory(),
            evaluation(self.model.module),
            self.inference.of(self.model.module),
            closing(_ahead(self._loader(source, batches))) as loaded,
        ):
            for index, rows in missing.items():
                arrays = self._empty(manifest, len(rows))
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
                    pooled = self._pooled(batch, layers, manifest["logits"])
                    self._fill(arrays, pooled, rows.start, indices)
                    seconds += time.perf_counter() - start
                    filled += len(indices)
                    bar.update(len(indices))
                finished = {name: array.numpy() for name, array in arrays.items()}
                yield index, finished | _labels(data, rows), {"rows": filled, "seconds": seconds}

    @property
    def _sizes(self) -> Sizes | None:
        """What the lengths of examples mean for the batches they are in; None for nothing."""
        if needs_equal_lengths(self.model):
            return Sizes(functools.partial(example_length, self.model), equal=True)
        padded = "text" in (self.task.modality, self.model.modality)
        return Sizes(example_size) if padded or self.model.modality == "audio" else None

    def _loader(self, source: Batches, batches: list[list[int]]) -> DataLoader:
        return DataLoader(
            source,
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

    def load(self, indices: Sequence[int]) -> Any:
        """Some examples as one batch."""
        return Batches(self.model, self.task, self.split, whole=True).load(indices)

    def features(self, indices: Sequence[int], found: Found) -> dict[str, Tensor]:
        """Pooled features of some examples in one batch, and what the classifier gives for them."""
        logits = {"path": found.logits[0]} if found.logits else None
        pooled = self._pooled(self.load(indices), found.layers, logits)
        return {name: rows[: len(indices)] for name, rows in pooled.items()}

    def _pooled(
        self, batch: Any, layers: Sequence[Layer], logits: Mapping[str, Any] | None
    ) -> dict[str, Tensor]:
        """Run one batch; the pooled output of each layer, and of the classifier if it is kept."""
        module = self.model.module
        batch = place(batch, module)
        device = next(module.parameters(), torch.empty(0)).device
        path = logits["path"] if logits else None
        taps = LayerTaps(module, layers, pool_for(self.pool, batch), logits=path)
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


def _same(item: Any) -> Any:
    return item


def _ahead(loader: DataLoader) -> Generator[Any]:
    """What is loaded, in its order, each of it while the network works on what comes before.

    Without worker processes a thread loads up to ``_AHEAD`` batches, since decoding and the
    network both work without Python's lock.
    """
    loaded = iter(loader)
    if loader.num_workers or len(loader) < 2:
        yield from loaded
        return
    # Gradients are switched off for each thread apart.
    with ThreadPoolExecutor(1, "loader", torch.set_grad_enabled, (False,)) as thread:
        coming = deque(thread.submit(next, loaded, None) for _ in range(_AHEAD))
        try:
            while (item := coming.popleft().result()) is not None:
                coming.append(thread.submit(next, loaded, None))
                yield item
        finally:
            for future in coming:
                future.cancel()


@dataclass(frozen=True)
class Sizes:
    """How long examples are, for batches in which little or nothing is padded."""

    of: Callable[[Any], int]
    equal: bool = False  # only examples of the same length may share a batch


def batches_of(
    data: Split, rows: range, batch_size: int, sizes: Sizes | None = None
) -> list[np.ndarray]:
    """Cut the examples of a shard into batches, each ascending, as positions within the shard.

    A batch of words is of at most ``batch_size`` sentences, which are not torn apart. By ``sizes``
    examples of like length go together, the longest first; which examples share a batch changes
    features by rounding only.

    >>> data = Split(["a", "a long text", "another text", "b"], np.arange(4))
    >>> [batch.tolist() for batch in batches_of(data, range(4), 2, Sizes(example_size))]
    [[1, 2], [0, 3]]
    """
    units = np.arange(len(rows)) if data.units is None else data.units[rows.start : rows.stop]
    _, firsts, owner = np.unique(units, return_index=True, return_inverse=True)
    numbers = np.arange(len(firsts)) // batch_size
    if sizes is not None and (sizes.equal or len(firsts) > batch_size):
        lengths = np.array([sizes.of(data.examples[rows[first]]) for first in firsts])
        longest_first = np.argsort(-lengths, kind="stable")
        numbers[longest_first] = _numbers(lengths[longest_first], batch_size, sizes.equal)
    batch = numbers[owner]
    order = np.argsort(batch, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(batch[order])) + 1)


def _numbers(sizes: np.ndarray, batch_size: int, equal: bool) -> np.ndarray:
    """Number of the batch of each example; every size begins anew where sizes must be equal."""
    positions = np.arange(len(sizes))
    if not equal:
        return positions // batch_size
    within = positions - np.searchsorted(-sizes, -sizes)
    return np.cumsum(within % batch_size == 0) - 1


def needs_equal_lengths(model: Model) -> bool:
    """Whether a batch must hold examples of one length, since padding would change features."""
    return getattr(model.collate, "equal_lengths", False)


def example_length(model: Model, example: Any) -> int:
    """How long an example is to the network: tokens of a text, samples of a sound."""
    length = getattr(model.collate, "length", None)
    return example_size(example) if length is None else length(example)


def example_size(example: Any) -> int:
    """Samples of a sound; characters of a text, a pair of texts, or the sentence of a word.

    >>> example_size(("a pair", "of texts")), example_size(np.zeros(16000))
    (14, 16000)
    """
    if isinstance(example, Word):
        return sum(map(len, example.sentence)) + len(example.sentence)
    if isinstance(example, Mapping):
        return len(as_sound(example))
    if isinstance(example, (tuple, list)):
        return sum(map(len, example))
    # A picture has no length; the model that reads no pictures says so when it is given one.
    return len(example) if hasattr(example, "__len__") else 0


def _labels(data: Split, rows: range) -> dict[str, np.ndarray]:
    chosen = slice(rows.start, rows.stop)
    kept = {LABELS: np.asarray(data.labels)[chosen]}
    return kept if data.units is None else kept | {_UNITS: data.units[chosen]}


def _title(name: str) -> str:
    return "the classifier's output" if name == LOGITS else f"layer {name!r}"
