"""Features of all wanted layers of a model on a task, in one pass over the data."""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import transfer_metrics
from transfer_metrics.errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    InvalidInputError,
    StorageError,
    check_whole,
    reason,
    warn,
)
from transfer_metrics.features.batches import fitting_batch_size
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.layers import LayerSpec, items
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.proof import Proof, prove
from transfer_metrics.features.shards import FORMAT, MANIFEST, StoreFolder, verify_shard
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.files import check_folder, locked
from transfer_metrics.sources.models.identity import describe
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import device_of, is_lazy
from transfer_metrics.sources.specs import refuse_among_examples
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import visible

_LEAST = {"batch_size": 1, "shard_size": 1, "num_workers": 0}


@dataclass(frozen=True)
class Extraction:
    """A pass of a model over a split that was asked for, before it is done."""

    forward: Forward
    given: Model  # as it came
    layers: list[str | int]  # as they were asked for
    proof: Proof  # what a few examples said of the network
    key: Mapping[str, Any]  # what the features depend on, and what they are of
    shard_size: int

    @classmethod
    def of(
        cls,
        model: Model | nn.Module | str,
        task: Task | Any,
        layers: LayerSpec | Iterable[LayerSpec],
        pool: str | Pool | Callable[..., Tensor],
        *,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        shard_size: int = 1024,
        allow_random: bool = False,
        **how: Any,
    ) -> Extraction:
        """What ``extract`` is asked for, once the arguments and the network are proven.

        ``how`` are further fields of ``Forward``.
        """
        pooling = resolve_pool(pool)
        model = load_model(model)
        task = task if isinstance(task, Task) else load_task(task)
        where = torch.device(device) if device is not None else device_of(model.module)
        forward = Forward(model, task, pool=pooling, device=where, **how)
        check_pass(
            batch_size=batch_size,
            shard_size=shard_size,
            num_workers=forward.num_workers,
            dtype=forward.dtype,
        )
        data, asked = forward.data, items(layers, model.name)
        forward = forward.materialised()
        runs_on = where.type if where is not None else "cuda"
        autocast = torch.get_autocast_dtype(runs_on) if forward.amp else None
        proof = prove(forward, asked, allow_random)
        key = {
            "format": FORMAT,
            "model": model.name,
            "revision": model.revision,
            "model_fingerprint": forward.model.fingerprint,
            "preprocess": describe(model.preprocess),
            "head": proof.found.head,
            "behaviour": proof.behaviour,
            "settings": proof.settings.digest,
            "task": task.name,
            "kind": task.kind,
            "split": forward.split,
            "task_fingerprint": data.fingerprint,
            "classes": list(task.classes),
            "n": len(data),
            "pool": pooling.name,
            "dtype": forward.dtype,
            "amp": autocast and str(autocast).removeprefix("torch."),
        }
        size = batch_size or fitting_batch_size(proof.found.input_bytes, where)
        proven = dataclasses.replace(
            forward, model=proof.model(forward.model), inference=proof.inference, batch_size=size
        )
        return cls(proven, model, asked, proof, key, shard_size)

    def on(self, part: Task) -> Extraction:
        """The same pass over some of the examples."""
        data = part[self.forward.split]
        key = {**self.key, "task_fingerprint": data.fingerprint, "n": len(data)}
        return dataclasses.replace(
            self, forward=dataclasses.replace(self.forward, task=part), key=key
        )

    def manifest(self) -> dict[str, Any]:
        """The manifest of a store without shards."""
        found = self.proof.found
        kept = found.logits if self.forward.task.kind == "classification" else None
        return {
            **self.key,
            "named": self.forward.task.named,
            "spec": self.given.spec,
            "layers_asked": self.layers,
            "layers": [asdict(layer) for layer in found.layers],
            "logits": kept and {"path": kept[0], "dim": kept[1]},
            "changing": list(self.proof.settings.changing),
            "notes": list(self.proof.notes),
            "shard_size": self.shard_size,
            "batch_size": self.forward.batch_size,
            "versions": versions("torch", "numpy", "safetensors"),
            "shards": {},
        }

    def shards(
        self, manifest: Mapping[str, Any]
    ) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, Any]]]:
        """Those that a manifest lacks; as ``Forward.shards``."""
        made, lazy = self.forward.model.module, self.given.module
        with closing(self.forward.shards(manifest)) as computed:
            for index, shard, record in computed:
                self.proof.confirm(self.forward, index * manifest["shard_size"], shard)
                yield index, shard, record
        if is_lazy(lazy):  # it gets the weights that its features were made with
            for own, given in zip(lazy.modules(), made.modules(), strict=True):
                own.__class__ = given.__class__
                own.__dict__ |= {k: v for k, v in vars(given).items() if k != "_modules"}

    def store(self, out: str | Path | None = None) -> FeatureStore:
        """The features, in memory or in a folder, where those that are there are kept."""
        if out is None:
            manifest = self.manifest()
            arrays = []
            for index, shard, record in self.shards(manifest):
                arrays.append(shard)
                manifest["shards"][str(index)] = record
            return FeatureStore(manifest, arrays)
        folder = Path(out)
        try:
            (folder / "shards").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder {folder}: {reason(error)}; choose another out="
            ) from error
        files = StoreFolder(folder)
        with locked(folder / ".lock"):
            manifest = _resumed(files, self)
            for index, shard, record in self.shards(manifest):
                manifest["shards"][str(index)] = record | files.add(index, shard)
                files.write(manifest)
        return FeatureStore(manifest, files.shards(len(manifest["shards"])))

    def mended(self, folder: Path) -> FeatureStore:
        """The features in a folder, where what cannot be used is computed anew, with a warning."""
        for everything in (False, True):
            try:
                return self.store(folder)
            except (CorruptStoreError, IncompatibleStoreError) as error:
                told = str(error).partition(";")[0]  # without its advice to delete by hand
                warn(
                    f"features in the cache cannot be used ({told}); what is damaged is computed "
                    f"anew"
                )
                _discard_damaged(folder, everything or isinstance(error, IncompatibleStoreError))
        return self.store(folder)


def _discard_damaged(folder: Path, everything: bool) -> None:
    """Remove shards that are not what the manifest says, or ``everything`` of another store."""
    with locked(folder / ".lock"):
        kept: dict[Path, Any] = {}
        files = StoreFolder(folder)
        with suppress(CorruptStoreError):
            if not everything:
                kept = {files.shard(int(k)): v for k, v in files.read()["shards"].items()}
        if not kept:
            (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.glob("shards/*.safetensors"):
            try:
                verify_shard(path, kept[path])
            except (CorruptStoreError, KeyError):
                path.unlink(missing_ok=True)


def check_pass(**given: Any) -> None:
    """Refuse numbers of examples below one, of ``num_workers`` below none, and other precisions."""
    for name, value in given.items():
        if name == "dtype" and value not in ("float32", "float16"):
            raise InvalidInputError(f"dtype={value!r}; use 'float32' or 'float16'")
        if name in _LEAST and not (name == "batch_size" and value is None):
            check_whole(_LEAST[name], **{name: value})


def extract(
    model: Model | nn.Module | str,
    task: Task | Any,
    layers: LayerSpec | Iterable[LayerSpec] = "blocks",
    pool: str | Pool | Callable[..., Tensor] = "avg",
    out: str | Path | None = None,
    *,
    split: str = "train",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    amp: bool = False,
    dtype: str = "float32",
    num_workers: int = 0,
    shard_size: int = 1024,
    progress: bool = True,
    allow_random: bool = False,
    pixels: str | Path | None = None,
    as_is: bool = False,
) -> FeatureStore:
    """Run a model over a task once and keep the pooled output of every wanted layer.

    The model runs in evaluation mode without gradients and is afterwards as it was. Where it has a
    classifier and the task is a classification, the classifier's output is kept too.

    With ``out``, shards are written as they are finished. The same call on the same folder keeps
    them and computes what is missing, so an interrupted extraction can be run again, and a
    finished one costs no more than a look at a few examples.

    Args:
        model: a loaded model, or whatever ``load_model`` takes.
        task: a loaded task, or whatever ``load_task`` takes.
        layers: which layers, as in ``list_layers``.
        pool: how each output becomes one vector, as in ``resolve_pool``.
        out: folder for the features; None keeps them in memory.
        split: which split of the task.
        batch_size: examples per forward pass; of words, sentences. None takes 64, and on a CPU
            fewer of large inputs (32 of 3 x 224 x 224), as the bar and the manifest say. Features
            do not depend on it beyond rounding.
        device: where to run, such as ``"cuda"``; None leaves the model where it is.
        amp: run in mixed precision (float16 on CUDA, bfloat16 on the CPU). Poolings still add up
            in float32.
        dtype: ``"float32"`` or ``"float16"``, how features are kept.
        num_workers: processes that load and preprocess examples; 0 for a thread, which loads
            up to two batches while the network works.
        shard_size: examples per file; a store that exists keeps its own.
        progress: show a progress bar on stderr.
        allow_random: take one draw of the features of a network that draws random numbers in its
            forward pass, which is refused otherwise.
        pixels: folder that keeps images as the pixels of the size that this model reads, so that
            another model of that size need not decode them again; None keeps none.
        as_is: run every network as it is. Otherwise convolutional networks in float32 run faster on
            a CPU: with channels last in memory, and with batch normalisation inside convolutions
            whose output no layer is read from. Layers are the same, and features to rounding,
            which is seen on a few examples. Which networks run so depends on their layers, never
            on times, so they are the same wherever and however often features are made.

    Returns:
        The features.

    Raises:
        InvalidInputError: an argument or an example cannot be used.
        LayerNotFoundError: a layer that the model does not have.
        InvalidInputError: ``out`` holds other files, or is where the examples are.
        IncompatibleStoreError: ``out`` holds features of something else; says of what.
        CorruptStoreError: a file in ``out`` is damaged; says which and what to do.
        ExtractionError: the forward pass failed, features are NaN or infinite or too large for
            float16, or a file cannot be written; or the same example has other features when it is
            read again or in another batch, which is tried on a few examples first.

    Cost: the bare forward passes and, from some 500 examples on, at most a tenth more for all
    blocks of a network (six or nine examples are read beforehand); and
    ``memory_bytes`` of storage; in memory one shard at a time if ``out`` is given.

    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> X, y = torch.randn(10, 2).numpy(), [0, 1] * 5
    >>> store = extract(network, (X, y), layers="last", progress=False)
    >>> store["2:input"].shape, store.source_logits.shape, store.num_classes
    ((10, 8), (10, 3), 2)
    """
    if out is not None:
        refuse_among_examples(out, task)
        check_folder(out, (MANIFEST, "shards"))
    return Extraction.of(
        model, task, layers, pool, split=split, batch_size=batch_size, device=device, amp=amp,
        dtype=dtype, num_workers=num_workers, shard_size=shard_size, progress=progress,
        allow_random=allow_random, pixels=pixels, as_is=as_is,
    ).store(out)  # fmt: skip


def _resumed(files: StoreFolder, plan: Extraction) -> dict[str, Any]:
    """The manifest of a folder: its own after checking everything in it, or a fresh one, written.

    Refused are a folder that was written for something else, and damaged shards.
    """
    folder = files.path
    for stray in [*folder.glob("*.tmp"), *folder.glob("shards/*.tmp")]:
        stray.unlink(missing_ok=True)  # from a process that was killed while writing
    if not (folder / MANIFEST).exists():
        if any(folder.glob("shards/*.safetensors")):
            raise CorruptStoreError(
                f"{folder} has shards but no {MANIFEST}, so nothing says what they are; delete the "
                f"folder, or choose another out="
            )
        manifest = plan.manifest()
        files.write(manifest)
        return manifest
    manifest = files.read()
    key, wanted = plan.key, plan.layers
    differing = [field for field in key if manifest.get(field) != key[field]]
    other_layers = manifest.get("layers_asked") != wanted and (
        [layer["name"] for layer in plan.manifest()["layers"]]
        != [layer["name"] for layer in manifest["layers"]]
    )
    told = [
        f"{field} is {_shown(manifest.get(field))}, not {_shown(key[field])}"
        for field in differing
        if field not in ("behaviour", "settings")
    ]
    if other_layers and not told:
        told = [f"layers is {_shown(manifest['layers_asked'])}, not {_shown(wanted)}"]
    if "settings" in differing and not told:
        told = ["code, hooks or attributes of the network were others then"]
    if differing and not told:
        told = ["the network gave others then, though its weights are the same"]
    if told:
        raise IncompatibleStoreError(
            f"{folder} holds other features: {'; '.join(told)}; choose another out=, or delete "
            f"the folder"
        )
    recorded = list(manifest["shards"])
    for index in recorded:
        if files.shard(int(index)).exists():
            files.verify(manifest, int(index))
        else:
            del manifest["shards"][index]  # deleted in order to be computed anew
    if list(manifest["shards"]) != recorded:
        files.write(manifest)
    return manifest


def _shown(value: Any) -> str:
    return visible(repr(value), 60)


def versions(*packages: str) -> dict[str, str]:
    """Those of this package, of Python, and of others."""
    own = {"transfer_metrics": transfer_metrics.__version__, "python": platform.python_version()}
    return own | {package: _version(package) for package in packages}


_version = functools.cache(version)  # 10 ms
