"""Few-shot episodes: does a choice of feature maps help a student that sees few examples?"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student_t
from sklearn.base import clone

from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsError,
    TransferMetricsWarning,
    check_whole,
    warn,
)
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.naming import brief
from transfer_metrics.progress import progress_bar
from transfer_metrics.registry import choose
from transfer_metrics.results.plot_style import (
    COLOURS,
    MARKERS,
    MUTED,
    new_axes,
    short_labels,
    titled,
)
from transfer_metrics.results.wording import plot_label
from transfer_metrics.selection.columns import LayerColumns, layer_columns
from transfer_metrics.selection.feature_maps import FeatureMapSelector, left_out_right
from transfer_metrics.statistics.inputs import as_labels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_PENULTIMATE, _ALL = "penultimate", "all layers"


@dataclass(frozen=True, eq=False)
class FewShotResult:
    """Accuracies of several methods on the same episodes.

    Attributes:
        methods: names of the M methods; the first is the penultimate layer alone.
        shots: examples per class in the support set, (S,).
        accuracies: on the query set, (M, S, E) for E episodes; NaN where a selector failed.
        columns: how many columns each method used, (M, S, E).
        ways: classes per episode.
        queries: query examples per class.
        seed: seed of the episodes.
        title: model and task, where they are known.
    """

    methods: tuple[str, ...]
    shots: tuple[int, ...]
    accuracies: np.ndarray
    columns: np.ndarray
    ways: int
    queries: int
    seed: int
    title: str = ""
    __repr__ = brief

    def to_frame(self) -> pd.DataFrame:
        """One row per method and number of shots.

        Returns:
            A DataFrame with the columns method, shots, episodes, accuracy (the mean), low and high
            (a 95 % interval of it over episodes, Student's t), difference, difference_low and
            difference_high (the same of the paired difference to the penultimate layer), columns
            (the mean number used).
        """
        import pandas as pd

        rows = []
        for i, method in enumerate(self.methods):
            for j, shots in enumerate(self.shots):
                found = self.accuracies[i, j]
                row = {"method": method, "shots": shots, "episodes": len(found)}
                row |= _interval("accuracy", "", found)
                row |= _interval("difference", "difference_", found - self.accuracies[0, j])
                rows.append({**row, "columns": float(self.columns[i, j].mean())})
        return pd.DataFrame(rows)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Accuracy on the query set against examples per class, with 95 % intervals over episodes.

        The penultimate layer, which the others are compared to, is grey. The points of one number
        of shots stand a little apart, so that intervals do not cover each other.

        Args:
            ax: where to draw; by default a new figure.

        >>> accuracies = np.array([[[0.5, 0.6], [0.7, 0.8]]])
        >>> result = FewShotResult(("penultimate",), (1, 5), accuracies, accuracies, 5, 15, 0)
        >>> result.plot().get_xlabel()
        'examples per class'
        """
        ax = new_axes(ax, height=4.2)
        frame = self.to_frame()
        places = range(len(self.shots))
        names = short_labels(self.methods, 28)
        for number, (method, name) in enumerate(zip(self.methods, names, strict=True)):
            curve = frame[frame["method"] == method]
            step = 0.06 * (number - (len(self.methods) - 1) / 2)
            ax.errorbar(
                [place + step for place in places],
                curve["accuracy"].to_numpy(),
                yerr=(curve["high"] - curve["accuracy"]).to_numpy(),
                color=MUTED if number == 0 else COLOURS[(number - 1) % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                ms=4.5,
                lw=1.4,
                elinewidth=1.0,
                capsize=2.0,
                label=name,
            )
        ax.set_xticks(list(places), [str(k) for k in self.shots])
        ax.set_xlabel("examples per class")
        ax.set_ylabel("accuracy on the query set")
        episodes = self.accuracies.shape[2]
        title = [plot_label(self.title or ""), f"{self.ways}-way, {episodes} episodes"]
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        titled(ax, ", ".join(filter(None, title)))
        ax.grid(axis="y", color="#EEEEEE", zorder=0)
        ax.grid(axis="x", visible=False)
        return ax


def few_shot(
    store: Any,
    y: Any = None,
    *,
    ways: int = 5,
    shots: Sequence[int] = (1, 2, 5, 10, 20),
    episodes: int = 50,
    queries: int = 15,
    seed: int = 0,
    selectors: Mapping[str, Any] | None = None,
    penultimate: str | None = None,
    student: Any = None,
    progress: bool = True,
) -> FewShotResult:
    """Compare ways to choose features on N-way k-shot episodes.

    An episode is a draw of classes, of a query set, and of an order of the other examples of each
    class, of which the first k are the support set. All methods see the same episodes. Each fits on
    the support set alone, a student is trained on what it keeps, and its accuracy on the query set
    is what counts.

    Args:
        store: a ``FeatureStore``, or a mapping from layer to (N, D).
        y: class labels (N,); those of the store by default.
        ways: classes per episode.
        shots: examples per class of the support sets.
        episodes: how many episodes.
        queries: query examples per class.
        seed: seed of the episodes.
        selectors: transformers by name, which get layers where they have ``layer_sizes`` among
            their parameters and otherwise an array of all layers at unit length; by default
            ``FeatureMapSelector()``, as ``"ATL-style"``. The penultimate layer alone and all
            layers are always among the methods.
        penultimate: name of the penultimate layer; the last one by default.
        student: a scikit-learn classifier; by default multinomial logistic regression with an L2
            penalty, on rows of unit length per layer.
        progress: whether to show a bar.

    Raises:
        InvalidInputError: too few classes with enough examples, fewer than two episodes, or names
            that are taken.
        LayerNotFoundError: there is no such penultimate layer.

    Warns:
        TransferMetricsWarning: what the selectors warn of, each once; a selector failed on some
            support sets, so that its accuracy with so many shots is NaN.

    Source: the usual few-shot protocol; ATL (Lee et al., arXiv 2111.10937) is evaluated
    few-shot, but its ways, shots and data are not known.

    Cost: per episode and number of shots one fit of each selector and of one student; the features
    of an episode are read once for all.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> layers = {"hidden": X[:, 2:], "last": X[:, :2]}
    >>> result = few_shot(layers, y, ways=3, shots=[2], episodes=3, progress=False)
    >>> result.methods, result.accuracies.shape
    (('penultimate', 'all layers', 'ATL-style'), (3, 1, 3))
    """
    columns = layer_columns(store)
    given = store.labels if y is None and isinstance(store, FeatureStore) else y
    if given is None:
        raise InvalidInputError("y cannot be None: pass one label per example")
    labels = as_labels(given, len(columns))[0].numpy()
    last = columns.names[-1] if penultimate is None else penultimate
    choose("layer", last, columns.names, LayerNotFoundError)
    if selectors is None:
        selectors = {"ATL-style": FeatureMapSelector(penultimate=last, student=student)}
    check_whole(2, episodes=episodes)
    check_whole(1, queries=queries)
    shots = tuple(sorted({int(k) for k in shots}))
    if not shots or shots[0] < 1:
        raise InvalidInputError(f"shots={shots}; give numbers of examples per class from 1 on")
    if taken := {_PENULTIMATE, _ALL} & set(selectors):
        raise InvalidInputError(f"selectors may not be named {sorted(taken)}; choose other names")
    methods = {_PENULTIMATE: [last], _ALL: list(columns.names), **selectors}
    accuracies = np.empty((len(methods), len(shots), episodes))
    used = np.empty(accuracies.shape)
    draws = _episodes(labels, ways, shots[-1], queries, episodes, seed)
    with (
        progress_bar("episodes", episodes * len(shots), progress) as bar,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", TransferMetricsWarning)
        for e, (support, query) in enumerate(draws):
            rows = np.concatenate([support.ravel(), query.ravel()])
            drawn = layer_columns({n: columns.rows(rows).layer(n) for n in columns.names})
            asked = np.arange(support.size, len(rows))
            for s, k in enumerate(shots):
                kept = np.arange(support.size).reshape(support.shape)[:, :k].ravel()
                for m, (name, method) in enumerate(methods.items()):
                    try:
                        found = _trial(method, drawn, labels[rows], kept, asked, student)
                    except TransferMetricsError as error:
                        warn(f"{name} failed: {error}")
                        found = (np.nan, np.nan)
                    accuracies[m, s, e], used[m, s, e] = found
                bar.update()
    _warn_once(caught)
    title = f"{store.model} on {store.task}" if isinstance(store, FeatureStore) else ""
    names = tuple(methods)
    return FewShotResult(names, shots, accuracies, used, ways, queries, seed, title)


def _episodes(
    labels: np.ndarray, ways: int, most: int, queries: int, episodes: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of support (ways, most) and query (ways, queries) examples of each episode."""
    counts = np.bincount(labels)
    enough = np.flatnonzero(counts >= most + queries)
    if not 2 <= ways <= len(enough):
        raise InvalidInputError(
            f"{len(enough)} classes have the {most} + {queries} examples that the most shots and "
            f"the queries need, and an episode takes ways={ways}; use fewer shots, queries or "
            f"ways, but at least two ways"
        )
    members = [np.flatnonzero(labels == c) for c in range(len(counts))]

    def draw(episode: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, episode])
        classes = rng.choice(enough, ways, replace=False)
        order = np.stack([rng.permutation(members[c])[: queries + most] for c in classes])
        return order[:, queries:], order[:, :queries]

    return (draw(episode) for episode in range(episodes))


def _trial(
    method: Any,
    drawn: LayerColumns,
    labels: np.ndarray,
    support: np.ndarray,
    query: np.ndarray,
    student: Any,
) -> tuple[float, float]:
    """Accuracy on the query set of one method, and the number of columns that it used."""
    known, asked = drawn.rows(support), drawn.rows(query)
    if isinstance(method, list):
        parts = [part.only(method).unit_rows().dense() for part in (known, asked)]
    else:
        selector = clone(method)
        given: list[Any] = [known, asked]
        if "layer_sizes" not in selector.get_params():
            given = [part.unit_rows().dense() for part in given]
        selector.fit(given[0], labels[support])
        parts = [np.asarray(selector.transform(part)) for part in given]
    # Scalar products of query and support are all that a linear student can use.
    x = np.concatenate(parts).astype(np.float64)
    fold = np.arange(len(support)), np.arange(len(support), len(x))
    right = left_out_right(x, labels[np.concatenate([support, query])], [fold], student)
    return right / len(query), parts[0].shape[1]


def _interval(name: str, ends: str, values: np.ndarray) -> dict[str, Any]:
    """Mean, and the ends of its 95 % interval by Student's t, under their names."""
    mean, n = float(values.mean()), len(values)
    half = float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return {name: mean, f"{ends}low": mean - half, f"{ends}high": mean + half}


def _warn_once(caught: Sequence[warnings.WarningMessage]) -> None:
    """Say once what was said in many episodes."""
    seen = Counter((warning.category, str(warning.message)) for warning in caught)
    for (category, message), count in seen.items():
        times = "" if count == 1 else f" ({count} times)"
        warnings.warn(f"{message}{times}", category, stacklevel=3)
