"""Features of all wanted layers of a model on a task, in one pass over the data."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transfer_metrics
from transfer_metrics.errors import (
    CorruptStoreError,
    ExtractionError,
    IncompatibleStoreError,
    InvalidInputError,
)
from transfer_metrics.features.forward import Batches, Forward
from transfer_metrics.features.layers import LayerSpec, items, layers_and_logits
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.shards import (
    FORMAT,
    MANIFEST,
    locked,
    read_manifest,
    shard_path,
    verify_shard,
    write_manifest,
    write_shard,
)
from transfer_metrics.features.store import KEY, FeatureStore
from transfer_metrics.sources.base import Model, Task, describe


def extract(
    model: Model | nn.Module | str,
    task: Task | Any,
    layers: LayerSpec | Iterable[LayerSpec] = "blocks",
    pool: str | Pool | Callable[..., Tensor] = "avg",
    out: str | Path | None = None,
    *,
    split: str = "train",
    batch_size: int = 64,
    device: str | torch.device | None = None,
    amp: bool = False,
    dtype: str = "float32",
    num_workers: int = 0,
    shard_size: int = 1024,
    progress: bool = True,
) -> FeatureStore:
    """Run a model over a task once and keep the pooled output of every wanted layer.

    The model runs in evaluation mode without gradients and is afterwards as it was. Where it has a
    classifier and the task is a classification, the classifier's output is kept too.

    With ``out``, shards are written as they are finished. The same call on the same folder keeps
    them and computes what is missing, so an interrupted extraction can be run again, and a
    finished one costs no forward pass.

    Args:
        model: a loaded model, or whatever ``load_model`` takes.
        task: a loaded task, or whatever ``load_task`` takes.
        layers: which layers, as in ``list_layers``.
        pool: how each output becomes one vector, as in ``resolve_pool``.
        out: folder for the features; None keeps them in memory.
        split: which split of the task.
        batch_size: examples per forward pass; of words, sentences. Features do not depend on it
            beyond rounding.
        device: where to run, such as ``"cuda"``; None leaves the model where it is.
        amp: run in mixed precision (float16 on CUDA, bfloat16 on the CPU). Poolings still add up
            in float32.
        dtype: ``"float32"`` or ``"float16"``, how features are kept.
        num_workers: processes that load and preprocess examples.
        shard_size: examples per file; a store that exists keeps its own.
        progress: show a progress bar on stderr.

    Returns:
        The features.

    Raises:
        InvalidInputError: an argument or an example cannot be used.
        LayerNotFoundError: a layer that the model does not have.
        IncompatibleStoreError: ``out`` holds features of something else; says of what.
        CorruptStoreError: a file in ``out`` is damaged; says which and what to do.
        ExtractionError: the forward pass failed, features are NaN or infinite or too large for
            float16, or a file cannot be written.

    Cost: the bare forward passes and at most a tenth more for all blocks of a network, and
    ``memory_bytes`` of storage; in memory one shard at a time if ``out`` is given.

    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> X, y = torch.randn(10, 2).numpy(), [0, 1] * 5
    >>> store = extract(network, (X, y), layers="last", progress=False)
    >>> store["2:input"].shape, store.source_logits.shape, store.num_classes
    ((10, 8), (10, 3), 2)
    """
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
    data = task[split]
    wanted, resolved = items(layers), resolve_pool(pool)
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

    forward = Forward(model, task, split, resolved, batch_size, dtype, amp, num_workers, progress)

    def plan() -> dict[str, Any]:
        batch = _two(model, task, split)
        listed, logits = layers_and_logits(model, wanted, resolved, batch)
        if logits is not None and task.kind == "classification":
            kept = {"path": logits[0], "dim": logits[1]}
        else:
            kept = None
        return key | {
            "layers_asked": wanted,
            "layers": [asdict(layer) for layer in listed],
            "logits": kept,
            "shard_size": shard_size,
            "versions": _versions(),
            "shards": {},
        }

    with _on(model.module, where):
        if out is None:
            manifest = plan()
            arrays = []
            with closing(forward.shards(manifest)) as computed:
                for index, shard, record in computed:
                    arrays.append(shard)
                    manifest["shards"][str(index)] = record
            return FeatureStore(manifest, arrays)
        folder = _folder(out)
        with locked(folder):
            manifest = _resumed(folder, key, wanted, plan)
            with closing(forward.shards(manifest)) as computed:
                for index, shard, record in computed:
                    record |= write_shard(shard_path(folder, index), shard)
                    manifest["shards"][str(index)] = record
                    write_manifest(folder, manifest)
    count = len(manifest["shards"])
    return FeatureStore(manifest, [shard_path(folder, index) for index in range(count)])


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


def _folder(out: str | Path) -> Path:
    """Make the store's folders."""
    folder = Path(out)
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExtractionError(
            f"cannot make the folder {folder}: {error.strerror or error}; choose another out="
        ) from error
    return folder


def _resumed(
    folder: Path,
    key: Mapping[str, Any],
    wanted: list[str | int],
    plan: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """The manifest of a folder: its own after checking everything in it, or a new one, written.

    Raises:
        IncompatibleStoreError: it was written for something else.
        CorruptStoreError: a finished shard is damaged.
    """
    for stray in [*folder.glob("*.tmp"), *folder.glob("shards/*.tmp")]:
        stray.unlink(missing_ok=True)  # from a process that was killed while writing
    if not (folder / MANIFEST).exists():
        if any(folder.glob("shards/*.safetensors")):
            raise CorruptStoreError(
                f"{folder} has shards but no {MANIFEST}, so nothing says what they are; delete the "
                f"folder, or choose another out="
            )
        manifest = plan()
        write_manifest(folder, manifest)
        return manifest
    manifest = read_manifest(folder)
    differing = [field for field in KEY if manifest.get(field) != key[field]]
    told = [
        f"{field} is {_short(manifest.get(field))}, not {_short(key[field])}" for field in differing
    ]
    if not differing and manifest.get("layers_asked") != wanted:
        listed = [layer["name"] for layer in plan()["layers"]]
        if listed != [layer["name"] for layer in manifest["layers"]]:
            told = [f"layers is {_short(manifest['layers_asked'])}, not {_short(wanted)}"]
    if told:
        raise IncompatibleStoreError(
            f"{folder} holds other features: {'; '.join(told)}; choose another out=, or delete "
            f"the folder"
        )
    recorded = dict(manifest["shards"])
    for index, record in recorded.items():
        path = shard_path(folder, int(index))
        if path.exists():
            verify_shard(path, record)
        else:
            del manifest["shards"][index]  # deleted in order to be computed anew
    if manifest["shards"] != recorded:
        write_manifest(folder, manifest)
    return manifest


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + "…" + text[-3:]


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
