"""One pass of a model over a split: what is asked for, before and while it is done."""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import transfer_metrics
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.layers import LayerSpec, items
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.proof import Proof, prove
from transfer_metrics.features.shards import FORMAT
from transfer_metrics.features.trial import hand_over, materialised
from transfer_metrics.sources.models.identity import describe
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import device_of, on_device
from transfer_metrics.sources.tasks.task import Task


@dataclass(frozen=True)
class Extraction:
    """A pass of a model over a split that was asked for, before it is done.

    Attributes:
        forward: how the model is run.
        given: the model as it came.
        layers: which layers were asked for.
        proof: what a few examples said of the network.
        key: what the features depend on, and what they are of.
        shard_size: examples per shard.
        device: where to run; None leaves a model where it is.
    """

    forward: Forward
    given: Model
    layers: list[str | int]
    proof: Proof
    key: Mapping[str, Any]
    shard_size: int
    device: torch.device | None

    @classmethod
    def of(
        cls,
        model: Model | nn.Module | str,
        task: Task | Any,
        layers: LayerSpec | Iterable[LayerSpec] = "blocks",
        pool: str | Pool | Callable[..., Tensor] = "avg",
        *,
        split: str = "train",
        batch_size: int = 64,
        device: str | torch.device | None = None,
        amp: bool = False,
        dtype: str = "float32",
        num_workers: int = 0,
        shard_size: int = 1024,
        progress: bool = True,
        allow_random: bool = False,
        pixels: str | Path | None = None,
        as_is: bool = False,
    ) -> Extraction:
        """What ``extract`` is asked for, with its arguments checked, and the network too.

        Raises:
            InvalidInputError: an argument cannot be used.
            ExtractionError: the network's features cannot; see ``prove``.
        """
        pooling = resolve_pool(pool)
        model, task = _loaded(model, task)
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("shard_size", shard_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise InvalidInputError(f"{name}={value!r}; use a whole number of at least {least}")
        if dtype not in ("float32", "float16"):
            raise InvalidInputError(f"dtype={dtype!r}; use 'float32' or 'float16'")
        data, asked = task[split], items(layers, model.name)
        kept = Path(pixels) if pixels is not None else None
        how = (pooling, batch_size, dtype, amp, num_workers, progress)
        forward = materialised(Forward(model, task, split, *how, kept, as_is))
        given, model = model, forward.model
        where = torch.device(device) if device is not None else device_of(model.module)
        runs_on = where.type if where is not None else "cuda"
        proof = prove(forward, asked, device=where, allow_random=allow_random)
        key = {
            "format": FORMAT,
            "model": model.name,
            "revision": model.revision,
            "model_fingerprint": model.fingerprint,
            "preprocess": describe(model.preprocess),
            "head": proof.found.head,
            "behaviour": proof.behaviour,
            "settings": proof.settings.digest,
            "task": task.name,
            "kind": task.kind,
            "split": split,
            "task_fingerprint": data.fingerprint,
            "classes": list(task.classes),
            "n": len(data),
            "pool": forward.pool.name,
            "dtype": dtype,
            "amp": str(torch.get_autocast_dtype(runs_on)).removeprefix("torch.") if amp else None,
        }
        proven = dataclasses.replace(forward, model=proof.model, inference=proof.inference)
        return cls(proven, given, asked, proof, key, shard_size, where)

    def manifest(self) -> dict[str, Any]:
        """The manifest of a store without shards."""
        found = self.proof.found
        kept = found.logits is not None and self.forward.task.kind == "classification"
        return {
            **self.key,
            "layers_asked": self.layers,
            "layers": [asdict(layer) for layer in found.layers],
            "logits": {"path": found.logits[0], "dim": found.logits[1]}
            if kept and found.logits
            else None,
            "changing": list(self.proof.settings.changing),
            "notes": list(self.proof.notes),
            "shard_size": self.shard_size,
            "versions": dict(_versions()),
            "shards": {},
        }

    def shards(
        self, manifest: Mapping[str, Any], wanted: Iterable[int] | None = None
    ) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
        """Compute the shards that a manifest lacks, or those of them that are wanted.

        Yields:
            Number of the shard, its arrays by name, and its rows and seconds.

        Raises:
            ExtractionError: the forward pass failed, or features are not finite.
        """
        with (
            on_device(self.forward.model.module, self.device),
            closing(self.forward.shards(manifest, wanted)) as computed,
        ):
            yield from computed
        hand_over(self.forward.model.module, self.given.module)


def _loaded(model: Any, task: Any) -> tuple[Model, Task]:
    from transfer_metrics.sources.models.load_model import load_model
    from transfer_metrics.sources.tasks.load_task import load_task

    return (
        model if isinstance(model, Model) else load_model(model),
        task if isinstance(task, Task) else load_task(task),
    )


@functools.cache  # 30 ms
def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "safetensors")
    own = {"transfer_metrics": transfer_metrics.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in names}
