"""Heads on disk: ``head.json`` says what it is, ``head.safetensors`` holds the numbers.

Nothing in the files is executed. A folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

import transfer_metrics
from transfer_metrics.errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    InvalidInputError,
    TransferMetricsError,
    TransferMetricsWarning,
)
from transfer_metrics.features.store import layers_of
from transfer_metrics.heads.folder import write_folder
from transfer_metrics.heads.names import HEADS
from transfer_metrics.heads.source import ModelRef
from transfer_metrics.untrusted import read_json, visible

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head

FORMAT = "transfer_metrics head 1"
RECORD, TENSORS = "head.json", "head.safetensors"
_COLUMNS, _FITTED, _NETWORK = "columns.", "fitted.", "network."


def save(head: Head, path: str | os.PathLike[str]) -> None:
    """Write a fitted head to a folder.

    Raises:
        InvalidInputError: the folder holds something else, cannot be written, or the head pools
            with a function that has no name.
        NotFittedError: the head is not fitted.

    Cost: the size of the head's weights, and for a trained network of all its weights.
    """
    from safetensors.torch import save as to_bytes

    check_is_fitted(head, "classes_")
    tensors = _tensors(head)
    data = to_bytes(tensors)
    record = _record(head) | {
        "tensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    write_folder(Path(path), {RECORD: text.encode(), TENSORS: data}, owner=RECORD)


def load_head(path: str | os.PathLike[str], model: Any = None) -> Head:
    """Read a head that ``save`` wrote.

    Args:
        path: the folder.
        model: the model that it was fitted on, which is checked; by default it is loaded by its
            name when it is first needed.

    Returns:
        The fitted head, of the class that was saved.

    Raises:
        InvalidInputError: there is no head at ``path``.
        CorruptStoreError: a file is missing, truncated or altered.
        IncompatibleStoreError: another version of the format, or ``model`` is another model.
        UnknownNameError: a head of a class that is not registered here.
    """
    folder = Path(path)
    record = _read_record(folder)
    tensors = _read_tensors(folder, record)
    try:
        params = _decoded(record["params"])
        # A file says what a head is, not where it may write to.
        params.pop("checkpoint", None)
        head = HEADS[record["head"]](**params)
        _restore(head, record, tensors)
        _check(head)
    except Exception as error:  # whatever a file can make of a constructor
        if isinstance(error, TransferMetricsError):
            raise
        told = visible(f"{type(error).__name__}: {error}", 300)
        raise CorruptStoreError(
            f"{folder / RECORD} is damaged ({told}); save the head again"
        ) from error
    if model is not None:
        head._source().adopt(model)
    return head


def _record(head: Head) -> dict[str, Any]:
    from transfer_metrics.features.pooling import resolve_pool

    if head.pool_ is not None and head.source_ is not None:
        try:
            resolve_pool(head.pool_)
        except TransferMetricsError as error:
            raise InvalidInputError(
                f"the head pools with the function {head.pool_}, which a file cannot hold; "
                f"register it under a name: POOLINGS.register(name, function)"
            ) from error
    fitted = {name: getattr(head, name) for name in head._saved if hasattr(head, name)}
    names = ("transfer_metrics", "python", "torch", "numpy", "scikit-learn")
    own = {"transfer_metrics": transfer_metrics.__version__, "python": platform.python_version()}
    return {
        "format": FORMAT,
        "head": head.name,
        "params": _plain_params(head),
        "fitted_on": head.fitted_on_,
        "n_features_in": getattr(head, "n_features_in_", None),
        "layers": [asdict(layer) for layer in head.layers_],
        "pool": head.pool_,
        "unit_norm": head.unit_norm_,
        "classes": {"dtype": head.classes_.dtype.str, "values": head.classes_.tolist()},
        "class_names": list(head.class_names_),
        "model": None if head.source_ is None else head.source_.record(),
        "fitted": {k: _plain(v) for k, v in fitted.items() if not isinstance(v, np.ndarray)},
        "versions": {name: own.get(name) or version(name) for name in names},
    }


def _tensors(head: Head) -> dict[str, Tensor]:
    arrays = {"coef": head.coef_, "intercept": head.intercept_}
    for name, columns in (head.layer_columns_ or {}).items():
        arrays[_COLUMNS + name] = np.asarray(columns, np.int64)
    for name in head._saved:
        value = getattr(head, name, None)
        if isinstance(value, np.ndarray):
            arrays[_FITTED + name] = value
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    for name, tensor in (head._trained_state() or {}).items():
        # Tied weights share memory, which the format refuses.
        tensors[_NETWORK + name] = (
            tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        )
    return tensors


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not folder.is_dir():
        raise InvalidInputError(f"there is no head at {folder}; give the folder it was saved to")
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise CorruptStoreError(
            f"{folder} has no {RECORD}, so it is no saved head or a damaged one; save it again"
        ) from None
    except (ValueError, OSError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}); save the head again") from error
    if not isinstance(record, dict) or "format" not in record:
        raise CorruptStoreError(f"{path} does not describe a head; save it again")
    if record["format"] != FORMAT:
        raise IncompatibleStoreError(
            f"{folder} has the format {record['format']!r} and this version reads {FORMAT!r}; "
            f"fit and save the head again"
        )
    return record


def _read_tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = folder / TENSORS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptStoreError(
            f"{path} cannot be read ({error.strerror or error}); save the head again"
        ) from error
    try:
        if hashlib.sha256(data).hexdigest() != record["tensors"]["sha256"]:
            raise CorruptStoreError(
                f"{path} was altered or truncated: its SHA-256 is not the one in {RECORD}; save "
                f"the head again"
            )
        return from_bytes(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}); save the head again") from error


def _restore(head: Head, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    classes = record["classes"]
    dtype = np.dtype(classes["dtype"])
    # An item of a text type has room for its longest value, whatever the file says that is.
    if dtype.kind not in "biufUO" or dtype.itemsize > 4 * max(16, *map(_length, classes["values"])):
        raise ValueError(f"classes of type {dtype}")
    head.classes_ = np.array(classes["values"], dtype=dtype)
    head.class_names_ = tuple(record["class_names"])
    head.layers_ = tuple(layers_of(record))
    head.pool_, head.unit_norm_ = record["pool"], bool(record["unit_norm"])
    head.fitted_on_ = record["fitted_on"]
    head.source_ = None if record["model"] is None else ModelRef.of_record(record["model"])
    head.coef_, head.intercept_ = tensors["coef"].numpy(), tensors["intercept"].numpy()
    columns = {
        name.removeprefix(_COLUMNS): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(_COLUMNS)
    }
    head.layer_columns_ = columns or None
    state = {
        name.removeprefix(_NETWORK): tensor
        for name, tensor in tensors.items()
        if name.startswith(_NETWORK)
    }
    head.network_, head._state = None, state or None
    if record["n_features_in"] is not None:
        head.n_features_in_ = int(record["n_features_in"])
    for name in head._saved:
        if name in record["fitted"]:
            setattr(head, name, _decoded(record["fitted"][name]))
        elif _FITTED + name in tensors:
            setattr(head, name, tensors[_FITTED + name].numpy())


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0


def _check(head: Head) -> None:
    """Compare the parts of a head that was read with each other.

    Raises:
        ValueError: they do not fit.
    """
    coef, intercept, columns = head.coef_, head.intercept_, head.layer_columns_ or {}
    fits = coef.ndim == 2 and intercept.shape == coef.shape[:1] and coef.dtype.kind == "f"
    if not (fits and intercept.dtype.kind == "f" and np.isfinite(coef).all()):
        raise ValueError(f"weights of shapes {coef.shape} and {intercept.shape}")
    if head.classes_.shape != (len(coef),) or len(head.class_names_) not in (0, len(coef)):
        raise ValueError("other classes than rows of weights")
    if not all(isinstance(name, str) for name in (*head.class_names_, head.fitted_on_ or "")):
        raise ValueError("names that are no text")
    dims = {layer.name: layer.dim for layer in head.layers_}
    for name, chosen in columns.items():
        good = chosen.ndim == 1 and chosen.dtype == np.int64 and (chosen >= 0).all()
        if not good or (chosen >= dims.get(name, np.inf)).any():
            raise ValueError(f"columns of layer {name!r}")


def _plain_params(head: Head) -> dict[str, Any]:
    params = {}
    for name, value in head.get_params(deep=False).items():
        try:
            params[name] = _plain(value)
        except TypeError:
            warnings.warn(
                f"parameter {name}={value!r} cannot be kept in a file; the head that is loaded "
                f"predicts the same but has {name}'s default",
                TransferMetricsWarning,
                stacklevel=4,
            )
    return params


def _plain(value: Any) -> Any:
    """What JSON can hold of a value; tuples are marked, so that they come back as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (torch.device, os.PathLike)):
        return str(value)
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in value]}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return {"tuple": value.tolist()}
    if isinstance(value, dict):
        return {"dict": {str(name): _plain(item) for name, item in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"tuple"}:
            return tuple(_decoded(item) for item in value["tuple"])
        inner = value["dict"] if set(value) == {"dict"} else value
        return {name: _decoded(item) for name, item in inner.items()}
    return value
