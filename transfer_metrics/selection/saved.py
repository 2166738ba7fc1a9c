"""A choice of layers and columns in a file that people can read too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import replacing
from transfer_metrics.selection.columns import LayerColumns, layer_columns
from transfer_metrics.untrusted import read_json

FORMAT = "transfer_metrics selection 1"


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
        model: the model, where it is known.
        task: the task, where it is known.

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

    @classmethod
    def of(cls, X: Any, columns: np.ndarray, unit: bool, chosen_by: str, **known: Any) -> Self:
        """A choice by numbers over all layers of ``X``, as selectors have it in ``columns_``.

        Args:
            X: a ``FeatureStore``, or a mapping from layer to (N, D).
            columns: numbers of columns, those of one layer together.
            unit: as the attribute.
            chosen_by: as the attribute.
            **known: the other attributes.
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

    def transform(self, X: Any) -> np.ndarray:
        """The chosen columns, (N, k), of a store, a mapping or ``LayerColumns``.

        Raises:
            LayerNotFoundError: a layer is missing.
            InvalidInputError: a layer has another width.
        """
        columns: LayerColumns = layer_columns(X).only(list(self.layers))
        for name, dim in zip(columns.names, columns.dims, strict=True):
            if dim != self.dims[name]:
                raise InvalidInputError(
                    f"layer {name!r} had {self.dims[name]} features when columns were chosen and "
                    f"has {dim} now"
                )
        columns = columns.unit_rows() if self.unit else columns
        pairs = zip(columns.starts, self.layers.values(), strict=False)
        return columns.take(np.concatenate([start + inside for start, inside in pairs]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, which appears whole or not at all.

        Raises:
            InvalidInputError: the place cannot be written to.
        """
        content = {
            "format": FORMAT,
            "model": self.model,
            "task": self.task,
            "chosen_by": self.chosen_by,
            "score": self.score,
            "unit_rows": self.unit,
            "layers": [
                {"name": name, "dim": self.dims[name], "columns": columns.tolist()}
                for name, columns in self.layers.items()
            ],
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            InvalidInputError: there is no such file, or it holds no selection.
        """
        if not os.path.isfile(path):
            raise InvalidInputError(f"there is no selection at {path}")
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}")
            layers = {
                layer["name"]: np.array(layer["columns"], dtype=np.int64)
                for layer in content["layers"]
            }
            dims = {layer["name"]: int(layer["dim"]) for layer in content["layers"]}
            for name, columns in layers.items():
                if not columns.size or columns.min() < 0 or columns.max() >= dims[name]:
                    raise ValueError(f"layer {name!r} has no such columns")
            known = {key: content.get(key) for key in ("score", "model", "task")}
            return cls(layers, dims, bool(content["unit_rows"]), content["chosen_by"], **known)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"{path} holds no selection ({type(error).__name__}: {error}); write it again "
                f"with `transfer-metrics select --out`"
            ) from error
