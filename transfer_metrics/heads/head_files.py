"""Heads on disk: ``head.json`` says what it is, ``head.safetensors`` holds the numbers.

Nothing in the files is executed. A folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from transfer_metrics.errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    InvalidInputError,
    TransferMetricsError,
    reason,
    warn,
)
from transfer_metrics.features.extract import versions
from transfer_metrics.features.pooling import resolve_pool
from transfer_metrics.features.shards import layers_of
from transfer_metrics.files import ADVICE, TEMPORARY, check_folder
from transfer_metrics.heads.objective import QUALITY, Answers
from transfer_metrics.heads.origin import ModelRef
from transfer_metrics.heads.predictor import Predictor
from transfer_metrics.naming import a_type
from transfer_metrics.registry import Registry
from transfer_metrics.sources.models.settings import Settings
from transfer_metrics.untrusted import read_record, visible

_FORMAT = "transfer_metrics head 1"
RECORD, _TENSORS = "head.json", "head.safetensors"
"""Names of the files of a head."""
_SOURCE = ("name", "revision", "fingerprint")
_COLUMNS, _FITTED, _NETWORK = "columns.", "fitted.", "network."
_LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}
"""What the architecture of a model comes from, by its hub."""


def write_head(path: Path, head: Predictor) -> None:
    """Write a fitted head to a folder, which then holds it or is as it was."""
    record, data = _record(head), save(_tensors(head))
    record["tensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    _write_folder(path, {RECORD: text.encode(), _TENSORS: data})


def read_head(folder: Path, heads: Registry[Any]) -> Any:
    """Read what ``write_head`` wrote, as one of these classes."""
    try:
        return _read(folder, heads)
    except TransferMetricsError:
        raise
    except Exception as error:  # whatever the values of a file make of code that reads them
        told = visible(f"{type(error).__name__}: {error}", 300)
        raise CorruptStoreError(
            f"{folder / RECORD} is damaged ({told}); save the head again"
        ) from error


def _read(folder: Path, heads: Registry[Any]) -> Any:
    record = _read_record(folder)
    tensors = _read_tensors(folder, record)
    classes = record["classes"]
    dtype = np.dtype(classes["dtype"])
    # An item of a text type has room for its longest value, whatever the file says that is.
    longest = max([16, *(len(v) for v in classes["values"] if isinstance(v, str))])
    if dtype.kind not in "biufUO" or dtype.itemsize > 4 * longest:
        raise ValueError(f"classes of type {dtype}")
    params = _decoded(record["params"])
    # A file says what a head is, not where it may write to.
    params.pop("checkpoint", None)
    head = heads[record["head"]](**params)
    head.fitted_on_, head.network_ = record["fitted_on"], None
    kind, names = record.get("kind", "classification"), tuple(record["class_names"])
    answers = Answers(kind, np.array(classes["values"], dtype=dtype))
    head._set_answers(Answers.of_names(names, kind, dtype.kind == "U") if names else answers)
    head.coef_, head.intercept_ = tensors["coef"].numpy(), tensors["intercept"].numpy()
    head.layers_, head.pool_ = tuple(layers_of(record)), record["pool"]
    columns = {name: tensor.numpy() for name, tensor in _starting(tensors, _COLUMNS).items()}
    head.layer_columns_, head.unit_norm_ = columns or None, bool(record["unit_norm"])
    model = record["model"]
    head.source_ = None
    if model is not None:
        known = model.get("settings")
        if known is not None:
            known = Settings(str(known["digest"]), tuple(map(str, known["changing"])))
        name, revision, fingerprint = (str(model[key]) for key in _SOURCE)
        spec = str(model.get("spec", ""))
        head.source_ = ModelRef(name, revision, fingerprint, settings=known, spec=spec)
    head._state, head.card_ = _starting(tensors, _NETWORK) or None, dict(record.get("card", {}))
    if record["n_features_in"] is not None:
        head.n_features_in_ = int(record["n_features_in"])
    if columns_in := record.get("feature_names_in"):
        head.feature_names_in_ = np.array(list(map(str, columns_in)), dtype=object)
    further = {name: _decoded(value) for name, value in record["fitted"].items()}
    further |= {name: tensor.numpy() for name, tensor in _starting(tensors, _FITTED).items()}
    for name in further.keys() & set(head._saved):
        setattr(head, name, further[name])
    _check(head)
    return head


def _check(head: Predictor) -> None:
    """Raise a ``ValueError`` where the parts of a head that was read do not fit each other."""
    coef, intercept, columns = head.coef_, head.intercept_, head.layer_columns_ or {}
    fits = coef.ndim == 2 and intercept.shape == coef.shape[:1] and coef.dtype.kind == "f"
    if not (fits and intercept.dtype.kind == "f" and np.isfinite(coef).all()):
        raise ValueError(f"weights of shapes {coef.shape} and {intercept.shape}")
    if head.kind_ not in QUALITY:
        raise ValueError(f"a head for {head.kind_!r:.60}")
    rows = 0 if head.kind_ == "regression" else len(coef)
    if head.classes_.shape != (rows,) or len(head.class_names_) not in (0, rows):
        raise ValueError("other classes than rows of weights")
    if not all(isinstance(name, str) for name in (*head.class_names_, head.fitted_on_ or "")):
        raise ValueError("names that are no text")
    task, tests = head.card_.get("task", {}), head.card_.get("tests", [])
    texts = [test.get(key) for test in tests for key in ("task", "split", "metric")]
    texts += [test.get("doubt", "") for test in tests]
    numbers = [test.get("value") for test in tests]
    if not (
        all(isinstance(text, str) for text in [*task.get("inputs", []), *texts])
        and all(isinstance(number, (int, float)) for number in numbers)
        and all(isinstance(test.get("n"), int) for test in tests)
        and all(type(size) is int and size > 0 for size in task.get("shape", []))
        and all(isinstance(value, (int, float)) for value in task.get("range", []))
        and len(task.get("range", [0, 0])) == 2
    ):
        raise ValueError("a card of another form")
    dims = {layer.name: layer.dim for layer in head.layers_}
    for name, chosen in columns.items():
        good = chosen.ndim == 1 and chosen.dtype == np.int64 and (chosen >= 0).all()
        if not good or (chosen >= dims.get(name, np.inf)).any():
            raise ValueError(f"columns of layer {name!r}")


def _record(head: Predictor) -> dict[str, Any]:
    model = head.source_
    if head.pool_ is not None and model is not None:
        try:
            resolve_pool(head.pool_)
        except TransferMetricsError as error:
            raise InvalidInputError(
                f"the head pools with the function {head.pool_}, which a file cannot hold; "
                f"register it under a name: POOLINGS.register(name, function)"
            ) from error
    hub = "" if model is None else model.name.partition(":")[0]
    libraries = [_LIBRARIES[hub]] if hub in _LIBRARIES else []
    return {
        "format": _FORMAT,
        "head": head.name,
        "kind": head.kind_,
        "params": _plain_params(head.get_params(deep=False)),
        "fitted_on": head.fitted_on_,
        "n_features_in": getattr(head, "n_features_in_", None),
        "feature_names_in": list(getattr(head, "feature_names_in_", ())) or None,
        "layers": [asdict(layer) for layer in head.layers_],
        "pool": head.pool_,
        "unit_norm": head.unit_norm_,
        "classes": {"dtype": head.classes_.dtype.str, "values": head.classes_.tolist()},
        "class_names": list(head.class_names_),
        "model": model
        and {key: getattr(model, key) for key in (*_SOURCE, "spec")}
        | {"settings": model.settings and asdict(model.settings)},
        "fitted": {k: _plain(v) for k, v in _further(head) if not isinstance(v, np.ndarray)},
        "card": head._card(),
        "versions": versions("torch", "numpy", "scikit-learn", *libraries),
    }


def _further(head: Predictor) -> list[tuple[str, Any]]:
    """Fitted attributes of its class."""
    return [(name, getattr(head, name)) for name in head._saved if hasattr(head, name)]


def _tensors(head: Predictor) -> dict[str, Tensor]:
    arrays = {"coef": head.coef_, "intercept": head.intercept_}
    for name, columns in (head.layer_columns_ or {}).items():
        arrays[_COLUMNS + name] = np.asarray(columns, np.int64)
    arrays |= {_FITTED + k: v for k, v in _further(head) if isinstance(v, np.ndarray)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    for name, tensor in (head._trained_state() or {}).items():
        # Tied weights share memory, which the format refuses.
        plain = tensor.detach().cpu()
        tensors[_NETWORK + name] = plain.clone(memory_format=torch.contiguous_format)
    return tensors


def _starting(tensors: Mapping[str, Tensor], mark: str) -> dict[str, Tensor]:
    return {n.removeprefix(mark): tensor for n, tensor in tensors.items() if n.startswith(mark)}


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder that then takes the place of ``path``, as it was on failure.

    Other files there go along.
    """
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path} is a file; name a folder for the head")
    check_folder(path, (RECORD,))
    beside: dict[str, Any] = {"dir": path.parent, "prefix": f"{path.name}.", "suffix": TEMPORARY}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(**beside, ignore_cleanup_errors=True) as place:
            fresh, old = Path(place, "fresh"), Path(place, "old")
            fresh.mkdir()
            for name, data in files.items():
                with (fresh / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            try:
                if path.exists():
                    path.rename(old)
                fresh.rename(path)
                # What others have put into the folder stays there.
                for other in [*old.iterdir()] if old.exists() else []:
                    if other.name not in files:
                        other.rename(path / other.name)
            finally:
                if old.exists() and not path.exists():
                    old.rename(path)
    except OSError as error:
        raise InvalidInputError(f"cannot write {path} ({reason(error)}); {ADVICE}") from error


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not folder.is_dir():
        raise InvalidInputError(f"there is no head at {folder}; give the folder it was saved to")
    inner = folder / "head"
    nested = not path.exists() and (inner / RECORD).is_file()
    cure = f"there is one at {inner}" if nested else "save it again"
    record = read_record(path, {"format"}, "saved head", cure)
    if record["format"] != _FORMAT:
        raise IncompatibleStoreError(
            f"{folder} has the format {record['format']!r:.60} and this version reads {_FORMAT!r}; "
            f"fit and save the head again"
        )
    return record


def _read_tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / _TENSORS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptStoreError(
            f"{path} cannot be read ({reason(error)}); save the head again"
        ) from error
    try:
        if hashlib.sha256(data).hexdigest() != record["tensors"]["sha256"]:
            raise CorruptStoreError(
                f"{path} was altered or truncated: its SHA-256 is not the one in {RECORD}; save "
                f"the head again"
            )
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}); save the head again") from error


def _plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in params.items():
        try:
            plain[name] = _plain(value)
        except TypeError:
            warn(
                f"parameter {name}={value!r} cannot be kept in a file; the head that is loaded "
                f"predicts the same but has {name}'s default"
            )
    return plain


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
    raise TypeError(f"{a_type(value)} cannot be written as JSON")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"tuple"}:
            return tuple(_decoded(item) for item in value["tuple"])
        inner = value["dict"] if set(value) == {"dict"} else value
        return {name: _decoded(item) for name, item in inner.items()}
    return value
