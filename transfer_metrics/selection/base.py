"""What the selectors share, and a choice of columns in a file that people can read too."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import check_file, written
from transfer_metrics.results.record_files import FORMATS
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import several
from transfer_metrics.selection.columns import (
    LayerColumns,
    aligned,
    checked,
    has_layers,
    layer_columns,
    read_labelled,
    refuse_unfitted,
)
from transfer_metrics.untrusted import read_json, visible

_FORMAT = "transfer_metrics selection 1"
_WHEN = "columns were chosen"


class ColumnSelector(TransformerMixin, BaseEstimator):
    """A transformer that keeps some columns of some layers, (k,) int64 across all of them.

    Subclasses call ``_read_fit`` and then ``_keep``.
    """

    layer_sizes: Sequence[int] | None
    layers_: list[str]
    columns_: np.ndarray

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    @property
    def layer_counts_(self) -> dict[str, int]:
        """Number of columns that were kept of each chosen layer."""
        refuse_unfitted(self)
        return self._kept.counts

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Which columns are kept: a mask over all columns, (D,), or their numbers, ascending."""
        refuse_unfitted(self)
        if indices:
            return np.sort(self.columns_)
        mask = np.zeros(sum(self._kept.dims.values()), dtype=bool)
        mask[self.columns_] = True
        return mask

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns that are kept: ``layer[number]``, or those of a data frame."""
        refuse_unfitted(self)
        names = getattr(self, "feature_names_in_", None)
        names = names if input_features is None else np.asarray(input_features, dtype=object)
        if names is not None:
            return np.asarray(names, dtype=object)[self.columns_]
        told = [f"{layer}[{c}]" for layer, inside in self._kept.layers.items() for c in inside]
        return np.array(told, dtype=object)

    def _read_fit(
        self,
        X: Any,
        y: Any,
        needs_labels: bool = True,
        by_type: bool = True,
        kind: str | None = None,
    ) -> tuple[LayerColumns, Any, str]:
        """Columns, labels and the kind of task; see ``read_labelled``."""
        sizes = self.layer_sizes
        how: dict[str, Any] = {"needs_labels": needs_labels, "by_type": by_type, "kind": kind}
        columns, labels, found = read_labelled(self, X, y, sizes, ensure_min_samples=2, **how)
        self.n_features_in_ = columns.dim
        return columns, labels, found

    def _keep(
        self, columns: LayerColumns, inside: Mapping[str, np.ndarray], unit: bool = False
    ) -> None:
        """Remember the columns that are kept of each layer, and whether rows have unit length."""
        kept = {name: np.asarray(c, dtype=np.int64) for name, c in inside.items()}
        self._kept = Selection(kept, columns.widths, unit, type(self).__name__)
        self.layers_, self.columns_ = list(kept), columns.numbers(kept)

    def transform(self, X: Any) -> np.ndarray:
        """The kept columns of other examples, (N, k), in the order of ``columns_``.

        Rows have unit length per layer by ``normalise`` of ``LayerSelector``, always in
        ``FeatureMapSelector``, and in ``GroupLassoSelector`` the length that they have.

        Args:
            X: a store, mapping or array with the layers that were there in ``fit``, also of
                another task.

        Raises:
            LayerNotFoundError: a layer is missing.
            InvalidInputError: a layer has another number of columns.
        """
        refuse_unfitted(self)
        if not has_layers(X):
            X = aligned(checked(self, X, reset=False), self._kept.dims, _WHEN)
        return self._kept.transform(X)


@dataclass(frozen=True, eq=False)
class Selection:
    """Which columns of which layers were chosen, and by what.

    Attributes:
        layers: columns that are kept of each layer, counted inside the layer, in the order in
            which they stand side by side.
        dims: number of features of each of these layers.
        unit: whether rows have unit length in each layer before columns are taken.
        chosen_by: the metric or criterion.
        score: its value for what was chosen, None where there is none.
        model, task, pool: what the features are of, where it is known.
        spec: what the model is loaded from, where it has a name of its own.

    >>> chosen = Selection({"a": np.array([1, 2])}, {"a": 3}, False, "logme")
    >>> chosen.transform({"a": np.eye(3)}).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """

    layers: Mapping[str, np.ndarray]
    dims: Mapping[str, int]
    unit: bool
    chosen_by: str
    score: float | None = None
    model: str | None = None
    task: str | None = None
    pool: str | None = None
    spec: str | None = None

    def __repr__(self) -> str:
        counts, known = self.counts, [self.model, self.task and f"on {self.task}"]
        where = " ".join(visible(name) for name in known if name)
        told = f"{sum(counts.values())} features of {several(len(counts), 'layer')}"
        return f"Selection({told}, by {visible(self.chosen_by)}{where and f', of {where}'})"

    @classmethod
    def of(cls, X: Any, columns: np.ndarray, unit: bool, chosen_by: str, **known: Any) -> Self:
        """A choice by numbers over all layers of ``X``, as selectors have it in ``columns_``.

        Those of one layer are together; ``known`` are the other attributes.
        """
        whole = layer_columns(X)
        where = whole.layer_of(columns)
        order = list(dict.fromkeys(int(i) for i in where))
        layers = {whole.names[i]: columns[where == i] - whole.starts[i] for i in order}
        dims = {whole.names[i]: whole.dims[i] for i in order}
        return cls(layers, dims, unit, chosen_by, **known)

    @property
    def counts(self) -> dict[str, int]:
        """Number of columns per layer."""
        return {name: len(columns) for name, columns in self.layers.items()}

    @property
    def is_of_layers(self) -> bool:
        """Whether whole layers were chosen."""
        return all(len(columns) == self.dims[name] for name, columns in self.layers.items())

    @property
    def specs(self) -> dict[str, str]:
        """What the model is loaded from, by its name, where it has one of its own."""
        return {self.model: self.spec} if self.model and self.spec else {}

    def chosen_models(self) -> list[str]:
        """The model, which the selection stands for where one is asked; refused if not known."""
        if self.model is None:
            raise InvalidInputError("the selection does not say of which model it is; name one")
        return [self.model]

    def chosen_layers(self, model: str) -> list[str]:
        """The layers, which the selection stands for where some are asked."""
        return list(self.layers)

    def chosen_task(self) -> str | None:
        """The task, where it is known."""
        return self.task

    def inside(self, X: LayerColumns) -> dict[str, np.ndarray]:
        """The chosen columns of each layer, ascending, in the order of the layers of ``X``."""
        aligned(X, {name: self.dims[name] for name in self.layers}, _WHEN)
        return {name: np.sort(self.layers[name]) for name in X.names if name in self.layers}

    def transform(self, X: Any) -> np.ndarray:
        """The chosen columns, (N, k), of a store or a mapping with layers of the same widths."""
        dims = {name: self.dims[name] for name in self.layers}
        columns = aligned(layer_columns(X), dims, _WHEN)
        columns = columns.unit_rows() if self.unit else columns
        return columns.take(self.layers).dense()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, which appears whole or not at all.

        Raises:
            InvalidInputError: the place cannot be written to, or has a file that is no selection.
        """
        check_file(path, (_FORMAT.encode()[:-1],))
        content = {
            "format": _FORMAT,
            "model": self.model,
            "spec": self.spec,
            "task": self.task,
            "pool": self.pool,
            "chosen_by": self.chosen_by,
            "score": self.score,
            "unit_rows": self.unit,
            "layers": [
                {"name": name, "dim": self.dims[name], "columns": columns.tolist()}
                for name, columns in self.layers.items()
            ],
        }
        written(path, json.dumps(content, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            InvalidInputError: there is no such file, or it holds no selection.
        """
        if not os.path.isfile(path):
            raise InvalidInputError(f"there is no selection at {path}; check the path")
        try:
            content = read_json(path)
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']!r:.60}")
            layers, dims = {}, {}
            for one in content["layers"]:
                name, dims[name] = one["name"], one["dim"]
                if name in layers:
                    raise ValueError(f"it names layer {name!r:.60} twice")
                layers[name] = columns = np.array(one["columns"])
                there = columns.ndim == 1 and columns.dtype == np.int64 and type(dims[name]) is int
                if not there or columns.min() < 0 or columns.max() >= dims[name]:
                    raise ValueError(f"layer {name!r:.60} has no such columns")
                if len(np.unique(columns)) < len(columns):
                    raise ValueError(f"it has columns of layer {name!r:.60} twice")
            if not layers:
                raise ValueError("it chose no layer")
            unit, chosen_by = content["unit_rows"], content["chosen_by"]
            score = content.get("score")
            known = {key: content.get(key) for key in ("model", "task", "pool", "spec")}
            texts = [*layers, chosen_by, *(text for text in known.values() if text is not None)]
            if not all(isinstance(text, str) for text in texts) or not isinstance(unit, bool):
                raise ValueError("a name is no text, or unit_rows neither true nor false")
            if score is not None and not math.isfinite(score):
                raise ValueError("its score is no finite number")
            return cls(layers, dims, unit, chosen_by, score, **known)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InvalidInputError(
                f"{path} holds no selection ({type(error).__name__}: {error}); write it again "
                f"with `transfer-metrics select --out`"
            ) from error


def read_results(place: str | os.PathLike[str]) -> ScoreTable | Selection:
    """A table or a selection from its file, or from the folder that ``rank`` or ``transfer`` wrote.

    Raises:
        InvalidInputError: there is no such file, or it holds something else.
    """
    path = Path(place)
    path = path / "scores.jsonl" if path.is_dir() else path
    if not os.path.isfile(path):
        raise InvalidInputError(
            f"there is no table at {path}, nor features that `select --out` wrote; check the path"
        )
    if path.suffix.lower() in FORMATS:
        return ScoreTable.load(path)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path} is no score table ({error}); give .jsonl, .csv or .parquet as table.save "
            f"writes them, or .json as --json and `select --out` do"
        ) from error
    if isinstance(content, list) and all(isinstance(r, dict) for r in content):
        return ScoreTable(content)
    return Selection.load(path)
