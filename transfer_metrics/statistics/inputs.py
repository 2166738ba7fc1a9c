"""Turning what people pass into tensors that the mathematics can rely on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.label_values import as_array, as_numbers, check_container
from transfer_metrics.sources.tasks.labels import complete_labels, read_labels

_MANY, _FEW = 10, 3
"""Of so many columns so few should not have all the variance."""
_ALL, _ROUNDED = 0.99, 1e-3
_LOOKED_AT = 200
"""Rows that show it."""


def as_features(x: Any, name: str = "X") -> Tensor:
    """A (N, D) float64 tensor on the device of ``x``."""
    rows = as_rows(x, name)
    return rows if rows.dtype == torch.float64 else empty_like(rows).copy_(rows)


def as_rows(x: Any, name: str = "X") -> Tensor:
    """A (N, D) tensor of real numbers in the precision and on the device of ``x``."""
    tensor = _as_tensor(x, name)
    if tensor.ndim != 2:
        raise InvalidInputError(
            f"{name} must have shape (N, D), got {tuple(tensor.shape)}; "
            f"pool feature maps to one vector per example first"
        )
    if 0 in tensor.shape:
        raise InvalidInputError(f"{name} is empty: shape {tuple(tensor.shape)}")
    if tensor.is_complex():
        raise InvalidInputError(f"{name} is complex; pass real features")
    return tensor


def dominating(x: Any) -> list[str]:
    """What may be a mistake where few of many columns of (N, D) features have all the variance.

    Two hundred rows are looked at.

    >>> [told.partition(";")[0] for told in dominating(np.eye(12) * ([1e3] + [1] * 11))]
    ['column 0 of 12 has 100.0 % of the variance of the features']
    """
    if x.ndim != 2 or x.shape[1] < _MANY:
        return []
    rows = x[:: -(-len(x) // _LOOKED_AT)]
    rows = rows.detach().double().cpu().numpy() if isinstance(rows, Tensor) else rows
    with np.errstate(all="ignore"):  # what is not finite is refused elsewhere
        variances = np.var(rows, axis=0, dtype=np.float64)
        most = np.argsort(variances)[: -_FEW - 1 : -1]
        shares = variances[most].cumsum() / variances.sum()
        probabilities = rows.min() >= 0 and bool((abs(rows.sum(axis=1) - 1) < _ROUNDED).all())
    # Columns without variance have no units, and probabilities all have one.
    if not shares[-1] > _ALL or np.count_nonzero(variances) < _MANY or probabilities:
        return []
    count = int((shares <= _ALL).sum()) + 1
    told = f"columns {', '.join(map(str, most[:count]))} of {len(variances)} have"
    if count == 1:
        told = f"column {most[0]} of {len(variances)} has"
    return [
        f"{told} {100 * shares[count - 1]:.1f} % of the variance of the features"
        + "; most metrics and heads see little else, so if columns are in units of their own, "
        "standardise them, such as by sklearn.preprocessing.StandardScaler"
    ]


def empty_like(rows: Tensor) -> Tensor:
    """Memory for as many numbers in float64; numpy's is in huge pages and saves page faults."""
    if rows.device.type == "cpu":
        return torch.from_numpy(np.empty(rows.shape))
    return torch.empty_like(rows, dtype=torch.float64)


def check_finite(x: Tensor, name: str = "X") -> None:
    """Raise for the first row that has a NaN or an infinity."""
    if bool(torch.isfinite(x.sum())):
        return  # one term that is not finite would have made the sum so
    bad = ~torch.isfinite(x).all(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InvalidInputError(
            f"{name} has {int(bad.sum())} row(s) with NaN or infinite values, the first is row "
            f"{row}; drop them or fix the network (half precision overflows at 65504)"
        )


def as_labels(y: Any, n: int, num_classes: int | None = None) -> tuple[Tensor, int]:
    """Class labels as an int64 tensor 0..C-1, and C.

    Without ``num_classes`` labels of any kind are numbered in sorted order. With it they must be
    integers below it already, so that batches agree with each other.
    """
    array = as_array(y)
    if array.shape == (n,) and array.dtype == np.int64 and array.min(initial=0) >= 0:
        size = int(array.max(initial=-1)) + 1
        # Numbered before; nothing is missing.
        if num_classes is None and size <= n and np.bincount(array).all():
            num_classes = size
        if num_classes is not None and size <= num_classes:
            return torch.from_numpy(array.copy()), num_classes
    array = complete_labels(array, "classification")
    if array.shape != (n,):
        raise InvalidInputError(
            f"y must hold one label per row of X: expected shape ({n},), got {array.shape}"
        )
    if array.dtype.kind == "f" and (np.isinf(array) | (array != np.floor(array))).any():
        raise InvalidInputError(
            "y holds continuous values where class labels are needed; pass integers, or use a "
            "metric for regression"
        )
    if num_classes is None:
        codes = read_labels(array, "classification")[1]
        return torch.from_numpy(codes), int(codes.max(initial=-1)) + 1
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"with num_classes, y must hold integers 0..{num_classes - 1}, not {array.dtype}"
        )
    if array.size and (array.min() < 0 or array.max() >= num_classes):
        raise InvalidInputError(
            f"labels must lie in 0..{num_classes - 1} for num_classes={num_classes}; "
            f"got {array.min()}..{array.max()}"
        )
    return torch.from_numpy(array.astype(np.int64)), num_classes


def as_columns(columns: Any, dim: int) -> Tensor:
    """Numbers of features as an int64 tensor (k,), all below ``dim``."""
    numbers = np.asarray(columns.cpu() if isinstance(columns, Tensor) else columns)
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise InvalidInputError(
            f"columns must be a list of whole numbers, not {numbers.dtype} of shape {numbers.shape}"
        )
    if numbers.min() < 0 or numbers.max() >= dim:
        raise InvalidInputError(
            f"columns must lie in 0..{dim - 1}, got {numbers.min()}..{numbers.max()}"
        )
    return torch.from_numpy(numbers.astype(np.int64))


def as_targets(y: Any, n: int) -> Tensor:
    """Regression targets as a finite float64 (N, K) tensor."""
    targets = _as_tensor(y, "y").to(torch.float64)
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim != 2 or targets.shape[0] != n:
        raise InvalidInputError(
            f"targets must have shape ({n},) or ({n}, K) to match X, got {tuple(targets.shape)}"
        )
    check_finite(targets, "y")
    return targets


def varying(targets: Any) -> Any:
    """Which targets (N, K), an array or tensor, differ between examples, (K,).

    Of labels, 0 or 1 each, those that all examples have or none do not count.
    """
    same = (targets == targets[:1]).all(0)
    labels = targets.shape[1] > 1 and bool(((targets == 0) | (targets == 1)).all())
    if bool(same.all() if labels else same.any()):
        raise InvalidInputError("a regression target is constant; there is nothing to predict")
    return ~same


def as_tokens(x: Any, y: Any, ignore_index: int = -100) -> tuple[Tensor, Tensor, np.ndarray]:
    """Token features (N, T, D) and labels (N, T) as examples, without the ignored ones.

    They are features (M, D), labels (M,), and the number of the sequence of each token, (M,).

    >>> x, y, sequence = as_tokens(np.zeros((2, 3, 4)), [[0, 1, -100], [1, -100, -100]])
    >>> tuple(x.shape), y.tolist(), sequence.tolist()
    ((3, 4), [0, 1, 1], [0, 0, 1])
    """
    features, labels = _as_tensor(x, "X"), _as_tensor(y, "y")
    if labels.shape != features.shape[:2]:
        raise InvalidInputError(
            f"labels of tokens must have shape {tuple(features.shape[:2])} to match X, "
            f"got {tuple(labels.shape)}"
        )
    kept = labels != ignore_index
    if not bool(kept.any()):
        raise InvalidInputError(f"every token has the ignored label {ignore_index}")
    sequence = kept.nonzero()[:, 0].cpu().numpy()
    return features[kept.to(features.device)], labels[kept], sequence


def quantile_bins(y: Any, bins: int = 10) -> np.ndarray:
    """Class numbers (N,) of regression targets (N,), cut at quantiles into bins of equal filling.

    This is how TransRate, defined for classes, is applied to regression here: an extension of
    ours, as no published implementation treats continuous targets. A value on an edge goes to the
    lower bin, empty bins are merged, and targets with no more than ``bins`` values keep them all.

    Raises:
        InvalidInputError: not one finite target per example, or fewer than two bins.

    >>> quantile_bins([0.1, 0.2, 0.3, 5.0, 6.0, 7.0], bins=2).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    targets = as_targets(y, len(y))
    if targets.shape[1] != 1:
        raise InvalidInputError(
            f"binning needs one target per example, got {targets.shape[1]}; score each on its own"
        )
    if bins < 2:
        raise InvalidInputError(f"bins must be at least 2, got {bins}")
    values = targets[:, 0].cpu().numpy()
    distinct = np.unique(values)
    edges = distinct[:-1]
    if len(distinct) > bins:
        edges = np.quantile(values, np.arange(1, bins) / bins)
    codes = np.searchsorted(edges, values, side="left")
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        check_container(value, name)
        return value.detach().resolve_neg()
    with warnings.catch_warnings():
        # Arrays of pandas may not be written to, and nothing here does.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(as_numbers(value, name)))
