"""Features that several heads of one model read, taken in one pass over each split."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.features.extract import extract
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.layers import Layer, items, memory_bytes
from transfer_metrics.features.pooling import JointPool, Pool, resolve_pool
from transfer_metrics.features.proof import settings_of
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import device_of
from transfer_metrics.sources.tasks.task import Task

_IN_MEMORY = 2 << 30
"""Features of a model are kept in memory up to this size, and beyond it on disk."""


@dataclass(frozen=True)
class _Read:
    """A layer that is read with a pooling; one that has no name is the function itself."""

    layer: str
    pool: str | Pool


@dataclass(frozen=True)
class _Pass:
    """What a pass over a split gave: the columns of each reading in the layers of a store."""

    store: FeatureStore
    columns: Mapping[_Read, slice]
    seconds: float


class SharedFeatures:
    """Features of one model on the splits of one task, which one head after the other asks for.

    What is asked for first is read together with what others were said to need. Where that cannot
    be read, as where a layer depends on the batch, each has its own read alone. Features that are
    too large for memory are in the cache as long as they are needed, or in a folder of their own.
    ``saved`` are the seconds of passes so far that were made for another head.
    """

    def __init__(self, cache: ResultCache | None = None) -> None:
        self.saved = 0.0
        self._cache = cache
        self._expected: Sequence[tuple[Any, Any]] = ()
        self._listed: dict[Any, dict[_Read, Layer]] = {}
        self._passes: dict[str, list[_Pass]] = {}
        self._alone = False
        self._bytes = 0
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)

    @property
    def spent(self) -> float:
        """Seconds of all passes so far."""
        return sum(one.seconds for passes in self._passes.values() for one in passes)

    def expect(self, asked: Iterable[tuple[Any, Any]]) -> None:
        """Say which layers and poolings will be asked for."""
        self._expected = list(asked)

    def store(
        self,
        model: Model,
        task: Task,
        layers: Any,
        pool: Any,
        *,
        split: str,
        batch_size: int | None = None,
        device: Any = None,
        progress: bool = False,
    ) -> FeatureStore:
        """What ``extract`` would return, but for ``behaviour``, that of all that was read."""
        began = time.perf_counter()
        device = device_of(model.module) if device is None else device
        pooling = resolve_pool(pool)
        forward = Forward(model, task, split, pooling, device=device, progress=progress)
        forward = forward.materialised()
        own = self._layers_of(forward, layers, pool)
        passes = self._passes.setdefault(task[split].fingerprint, [])
        missing = _missing(passes, own)
        if missing:
            wanted = missing if self._alone else self._with_others(forward, passes, own)
            try:
                passes.append(self._pass(forward, wanted, batch_size))
            except TransferMetricsError:
                if wanted == missing:
                    raise
                self._alone = True
                passes.append(self._pass(forward, missing, batch_size))
        used = {read: next(p for p in passes if read in p.columns) for read in own}
        made = list({id(one): one for one in used.values()}.values())
        self.saved += sum(one.seconds for one in made) - (time.perf_counter() - began)
        manifest = {
            **made[0].store.manifest,
            "layers_asked": items(layers, model.name),
            "layers": [dataclasses.asdict(layer) for layer in own.values()],
            "pool": forward.pool.name,
        }
        columns = {r.layer: (made.index(one), one.columns[r]) for r, one in used.items()}
        shards = zip(*(one.store.shards() for one in made), strict=True)
        return FeatureStore(manifest, [_Columns(shard, columns) for shard in shards])

    def _layers_of(self, forward: Forward, layers: Any, pool: Any) -> dict[_Read, Layer]:
        """The layers that are asked for, in their order."""
        asked = items(layers, forward.model.name)
        key = pool if isinstance(pool, str) else forward.pool
        known = {read: layer for every in self._listed.values() for read, layer in every.items()}
        named = [_Read(str(name), key) for name in asked]
        if all(read in known for read in named):
            return {read: known[read] for read in named}
        if (tuple(asked), key) not in self._listed:
            found = forward.found(asked).layers
            self._listed[tuple(asked), key] = {_Read(one.name, key): one for one in found}
        return self._listed[tuple(asked), key]

    def _with_others(
        self, forward: Forward, passes: Sequence[_Pass], own: Mapping[_Read, Layer]
    ) -> dict[_Read, Layer]:
        """What is missing, and what others lack that can be listed."""
        every = dict(own)
        for layers, pool in self._expected:
            try:
                like = dataclasses.replace(forward, pool=resolve_pool(pool))
                every |= self._layers_of(like, layers, pool)
            except TransferMetricsError:
                continue  # it is told when it is asked for
        return _missing(passes, every)

    def _pass(
        self, forward: Forward, wanted: Mapping[_Read, Layer], batch_size: int | None
    ) -> _Pass:
        began = time.perf_counter()
        parts: dict[str, list[Pool]] = {}
        columns: dict[_Read, slice] = {}
        ends: dict[str, int] = {}
        for read, layer in wanted.items():
            parts.setdefault(read.layer, []).append(resolve_pool(read.pool))
            start = ends.get(read.layer, 0)
            ends[read.layer] = start + layer.dim
            columns[read] = slice(start, start + layer.dim)
        n = len(forward.task[forward.split])
        self._bytes += memory_bytes(list(wanted.values()), n)
        out = self._folder(forward, wanted) if self._bytes > _IN_MEMORY else None
        store = extract(
            forward.model, forward.task, list(parts), JointPool.of(parts), out,
            split=forward.split,
            batch_size=batch_size, device=forward.device, progress=forward.progress,
        )  # fmt: skip
        return _Pass(store, columns, time.perf_counter() - began)

    def _folder(self, forward: Forward, wanted: Iterable[_Read]) -> Any:
        """A folder that is there until this object goes; where it was killed it goes on there."""
        if self._cache is None:
            return self._open.enter_context(TemporaryDirectory(prefix="transfer-metrics-"))
        key = content_key(
            shared=sorted(f"{read.layer} {resolve_pool(read.pool).name}" for read in wanted),
            model=forward.model.fingerprint,
            settings=settings_of(forward.model, forward.task, forward.split, forward.device).digest,
            split=forward.task[forward.split].fingerprint,
        )
        self._open.callback(self._cache.drop_features, key)
        return self._open.enter_context(self._cache.using(key, keep=False))


def _missing(passes: Sequence[_Pass], wanted: Mapping[_Read, Layer]) -> dict[_Read, Layer]:
    known = {read for one in passes for read in one.columns}
    return {read: layer for read, layer in wanted.items() if read not in known}


class _Columns(Mapping[str, np.ndarray]):
    """Some columns of arrays of one shard of several stores, each read when it is asked for."""

    def __init__(
        self, shards: Sequence[Mapping[str, np.ndarray]], columns: Mapping[str, tuple[int, slice]]
    ) -> None:
        self._shards, self._columns = shards, columns

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            return self._shards[0][name]
        which, columns = self._columns[name]
        return self._shards[which][name][:, columns]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards[0])

    def __len__(self) -> int:
        return len(self._shards[0])
