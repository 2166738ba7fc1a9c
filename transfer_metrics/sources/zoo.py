"""The models and tasks that come with the package.

Names and records are read from the manifests without loading torch; a file is used only if its
bytes have the recorded sha256. ``data/README.md`` says how every file was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import CorruptStoreError
from transfer_metrics.registry import resolve
from transfer_metrics.sources.bundled import data_folder, entries, entry, verified

if TYPE_CHECKING:
    from torch import nn


def names() -> list[str]:
    """Names of the bundled models, sorted.

    Raises:
        CorruptStoreError: the manifest is missing or cannot be read.

    >>> "resnet-random" in names()
    True
    """
    return sorted(entries(data_folder() / "zoo", "models"))


def record(name: str) -> dict[str, Any]:
    """What the manifest says of one bundled model.

    Args:
        name: one of :func:`names`.

    Returns:
        A new dictionary: ``file``, ``sha256`` and ``bytes``; ``architecture`` (``factory`` as
        ``"module:function"`` and ``kwargs``) and ``params``; ``input_size`` (C, H, W), ``mean``,
        ``std``, ``interpolation`` and ``crop_pct`` of the preprocessing; ``classifier``, the name
        of the head; ``source``, ``source_classes`` and ``num_classes``; ``test_accuracy`` in per
        cent, ``None`` for random weights; and the training ``recipe``.

    Raises:
        UnknownNameError: there is no such model.
        CorruptStoreError: the manifest is missing or cannot be read.

    >>> record("resnet-random")["classifier"]
    'head'
    """
    return entry(data_folder() / "zoo", "models", name)


def build(name: str) -> nn.Module:
    """Build one bundled model with its weights.

    Args:
        name: one of :func:`names`.

    Returns:
        The network in eval mode with float32 weights. It maps (N, 3, 32, 32) to source logits and
        has a ``pretrained_cfg`` attribute with the preprocessing and the classifier's name.

    Raises:
        UnknownNameError: there is no such model.
        CorruptStoreError: the weights are missing, altered or do not fit the architecture.

    >>> build("resnet-random").head.out_features
    10
    """
    import safetensors.torch

    known = record(name)
    path = data_folder() / "zoo" / known["file"]
    state = safetensors.torch.load(verified(path, known["sha256"]))
    architecture = known["architecture"]
    module = resolve(architecture["factory"])(**architecture["kwargs"])
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CorruptStoreError(
            f"{path}: the weights do not fit the architecture of this version; "
            f"reinstall transfer-metrics ({error})"
        ) from error
    module.pretrained_cfg = {
        "input_size": tuple(known["input_size"]),
        "mean": tuple(known["mean"]),
        "std": tuple(known["std"]),
        "interpolation": known["interpolation"],
        "crop_pct": known["crop_pct"],
        "classifier": known["classifier"],
    }
    return module.eval()


def task_names() -> list[str]:
    """Names of the bundled task files, sorted.

    >>> task_names()
    ['glyphs']
    """
    return sorted(entries(data_folder() / "tasks", "tasks"))


def task_path(name: str) -> Path:
    """The npz file of one bundled task, its bytes verified.

    The file holds ``x_<split>`` (uint8, N x 32 x 32), ``y_<split>`` (int64) and ``classes``.

    Raises:
        UnknownNameError: there is no such task.
        CorruptStoreError: the file is missing or altered.

    >>> task_path("glyphs").name
    'glyphs.npz'
    """
    folder = data_folder() / "tasks"
    known = entry(folder, "tasks", name)
    path = folder / known["file"]
    verified(path, known["sha256"])
    return path
