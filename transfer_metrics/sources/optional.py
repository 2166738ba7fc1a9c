"""Imports of optional packages, with errors that say what to install."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any

from transfer_metrics.errors import MissingDependencyError

_OPERATOR_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A torch library definition lives as long as its object.
_declared: list[Any] = []


def require(package: str, purpose: str, *, install: str = "'transfer-metrics[hubs]'") -> ModuleType:
    """Import an optional package, or say how to install it.

    ``purpose`` completes the sentence "… needs <package>"; ``install`` is what pip is given.

    >>> require("no_such_package_at_all", "the impossible")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    transfer_metrics.errors.MissingDependencyError: the impossible needs no_such_package_at_all: ...
    """
    if old := _too_old(package):
        raise MissingDependencyError(f"{purpose} needs {old}")
    if package in ("torchvision", "timm", "transformers"):
        mend_torchvision()
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, AttributeError) as error:
        advice, reason = f"pip install --upgrade {package}", f"it does not import ({error})"
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            advice, reason = f"pip install {install}", "it is not installed"
        elif "torchvision" in str(error):
            advice = (
                "install a torchvision that fits the installed torch, from the index that torch "
                "came from: pip install --force-reinstall --no-deps torchvision --index-url "
                "https://download.pytorch.org/whl/cpu"
            )
        raise MissingDependencyError(f"{purpose} needs {package}: {reason}; {advice}") from error


def _too_old(package: str) -> str:
    """What is needed in place of the version that is installed; empty where that will do.

    An older one may give other features without a word, of texts or of rotated photos.
    """
    from packaging.requirements import Requirement

    try:
        found = importlib.metadata.version(package)
        needed = map(Requirement, importlib.metadata.requires("transfer-metrics") or ())
    except importlib.metadata.PackageNotFoundError:
        return ""
    for one in needed:
        if one.name == package and not one.specifier.contains(found, prereleases=True):
            wanted = f"{package}{one.specifier}"
            return f"{wanted}, and {found} is installed; pip install --upgrade '{wanted}'"
    return ""


def is_mended() -> bool:
    """Whether torchvision imports here only since it was mended."""
    return bool(_declared)


def mend_torchvision() -> None:
    """Make a torchvision built for CUDA importable beside a CPU build of torch.

    Its import stops because the schemas of two compiled operators are unknown. Declaring them lets
    everything else work; calling NMS still raises. Nothing else that fails is touched.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _OPERATOR_MISSING not in str(error):
            return
        import torch

        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
    except (ImportError, AttributeError):
        return
