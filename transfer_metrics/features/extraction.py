"""One pass of a model over a split: what is asked for, before and while it is done."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import transfer_metrics
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.forward import Batches, Forward
from transfer_metrics.features.layers import LayerSpec, items, layers_and_logits
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.shards import FORMAT
from transfer_metrics.sources.base import Model, Task, describe


@dataclass(frozen=True)
class Extraction:
    """A pass of a model over a split that was asked for, before it is done.

    Attributes:
        forward: how the model is run.
        layers: which layers were asked for.
        key: what the features depend on, and what they are of.
        shard_size: examples per shard.
        device: where to run; None leaves a model where it is.
    """

    forward: Forward
    layers: list[str | int]
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
    ) -> Extraction:
        """What ``extract`` is asked for, with its arguments checked."""
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
        data, resolved = task[split], resolve_pool(pool)
        where = torch.device(device) if device is not None else _device(model.module)
        runs_on = where.type if where is not None else "cuda"
        key = {
            "format": FORMAT,
            "model": model.name,
            "revision": model.revision,
            "model_fingerprint": model.fingerprint,
            "preprocess": describe(model.preprocess),
            "head": model.head,
            "task": task.name,
            "kind": task.kind,
            "split": split,
            "task_fingerprint": data.fingerprint,
            "classes": list(task.classes),
            "n": len(data),
            "pool": resolved.name,
            "dtype": dtype,
            "amp": str(torch.get_autocast_dtype(runs_on)).removeprefix("torch.") if amp else None,
        }
        forward = Forward(
            model, task, split, resolved, batch_size, dtype, amp, num_workers, progress
        )
        return cls(forward, items(layers), key, shard_size, where)

    def manifest(self) -> dict[str, Any]:
        """The manifest of a store without shards; finding the layers takes two examples."""
        forward = self.forward
        with _on(forward.model.module, self.device):
            batch = _two(forward.model, forward.task, forward.split)
            listed, logits = layers_and_logits(forward.model, self.layers, forward.pool, batch)
        kept = logits is not None and forward.task.kind == "classification"
        return {
            **self.key,
            "layers_asked": self.layers,
            "layers": [asdict(layer) for layer in listed],
            "logits": {"path": logits[0], "dim": logits[1]} if kept and logits else None,
            "shard_size": self.shard_size,
            "versions": _versions(),
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
            _on(self.forward.model.module, self.device),
            closing(self.forward.shards(manifest, wanted)) as computed,
        ):
            yield from computed


def _loaded(model: Any, task: Any) -> tuple[Model, Task]:
    from transfer_metrics.sources.models import load_model
    from transfer_metrics.sources.tasks import load_task

    return (
        model if isinstance(model, Model) else load_model(model),
        task if isinstance(task, Task) else load_task(task),
    )


def _two(model: Model, task: Task, split: str) -> Any:
    """A batch of two sequences, so that the axis of the batch can be told from others."""
    data = task[split]
    if data.units is not None:
        return model.dummy(2)  # two words may be of one sentence, which is read once
    return Batches(model, task, split).load([0, min(1, len(data) - 1)])


def _device(module: nn.Module) -> torch.device | None:
    """The device that holds the whole module, None if there are several."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return devices.pop() if len(devices) == 1 else None if devices else torch.device("cpu")


@contextmanager
def _on(module: nn.Module, device: torch.device | None) -> Iterator[None]:
    """Move a module to a device and back."""
    home = _device(module)
    if device is None or home == device:
        yield
        return
    if home is None:
        raise InvalidInputError(
            "the model is spread over several devices and cannot be moved; leave out device="
        )
    try:
        module.to(device)
        yield
    finally:
        module.to(home)


def _versions() -> dict[str, str]:
    names = ("torch", "numpy", "safetensors")
    own = {"transfer_metrics": transfer_metrics.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in names}
