"""Data frames of features: columns that are no features are told at every door, once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import transfer_metrics as tm
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.sources.tasks.load_task import load_task

N = 60
Y = np.repeat([0, 1, 2], N // 3)
FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 3)), columns=["a", "b", "identity"])
DOORS: dict[str, Any] = {
    "load_task": load_task,
    "metric": tm.knn,
    "score": lambda X, y: tm.score(X, y, ["knn", "logme"]),
    "LinearProbe": lambda X, y: tm.LinearProbe(C_grid=(1.0,)).fit(X, y),
    "Head2Toe": lambda X, y: tm.Head2Toe(1.0, steps=1).fit(X, y),
    "of layers": lambda X, y: tm.LinearProbe(C_grid=(1.0,)).fit({"fc": X}, y),
    "GroupLasso": lambda X, y: tm.GroupLassoSelector(relevance="f_classif").fit(X, y),
    "Layers": lambda X, y: tm.LayerSelector("knn").fit(X, y),
    "Maps": lambda X, y: tm.FeatureMapSelector(folds=2, repeats=1).fit(X, y),
}


def told(door: Any, X: Any, y: Any = Y) -> list[str]:
    """What a door says of the columns."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        door(X, y)
    texts = [str(w.message) for w in found]
    return [text[text.index("column") :] for text in texts if "column" in text]


@pytest.mark.parametrize("door", DOORS)
def test_a_column_that_is_no_feature_is_told_once(door: str) -> None:
    see = DOORS[door]
    index = FRAME.copy()
    index.insert(0, "id", np.arange(N))
    [text] = told(see, index)
    assert text == (
        "column 'id' counts the examples; if it is an index, leave it out, by features="
        "a,b,identity of a table or drop(columns='id') of a frame"
    )
    shuffled = np.random.default_rng(1).permutation(999)[:N]
    [text] = told(see, FRAME.assign(**{"Unnamed: 0": shuffled}))
    assert text.startswith("column 'Unnamed: 0' has the name of an index; ")
    for named, y in (("label", Y), ("code", np.array(["x", "y", "z"])[Y])):
        [text] = told(see, FRAME.assign(**{named: 10 * Y}), y)
        assert text.startswith(f"column {named!r} of the inputs has one value for each class, ")


def test_a_copy_of_the_targets_is_told() -> None:
    y = np.random.default_rng(2).normal(size=N)
    for door in (tm.logme, DOORS["score"], DOORS["LinearProbe"]):
        [text] = told(lambda X, y, door=door: door(X, y), FRAME.assign(price=y), y)
        assert text.startswith("column 'price' of the inputs has the targets, ")


@pytest.mark.parametrize("door", DOORS)
def test_ordinary_columns_are_not_told(door: str) -> None:
    rng = np.random.default_rng(3)
    frame = FRAME.assign(age=rng.integers(20, 60, N), year=1990 + rng.integers(0, N, N))
    assert told(DOORS[door], frame) == []
    assert told(DOORS[door], FRAME.set_axis([0, 1, 2], axis=1)) == []


@pytest.mark.parametrize("door", [door for door in DOORS if door != "load_task"])
def test_a_rising_column_of_an_array_is_not_judged(door: str) -> None:
    assert told(DOORS[door], np.c_[np.arange(N) / N, FRAME]) == []


def test_what_was_told_at_fit_is_not_told_again() -> None:
    frame = FRAME.assign(id=np.arange(N))
    with pytest.warns(TransferMetricsWarning, match="'id' counts the examples"):
        probe = tm.LinearProbe(C_grid=(1.0,)).fit(frame, Y)
    for use in (lambda X, y: probe.predict(X), probe.score, lambda X, y: probe.predict_proba(X)):
        assert told(use, frame) == []
