"""Head2Toe's ablations on bundled networks; makes `docs/head2toe.md`.

    python -m tests.head2toe_reference [--out docs/head2toe.md]

Everything it reads comes with the package; some minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import transfer_metrics as tm
from tests.compare_reference import markdown
from transfer_metrics.evidence.layout import describe

MODELS = ("zoo:resnet-cifar10", "zoo:vit-gtsrb")
TASK, OTHER = "zoo:glyphs", "sklearn:digits"
SEEDS = (0, 1, 2)
KEEP = 0.05

INTRODUCTION = """\
# What makes Head2Toe work, on bundled networks

Test accuracy in per cent on `zoo:glyphs` (36 characters, 1 296 training images),
mean and standard deviation over three seeds, all activations, `grid:512`, a twentieth of the
features kept unless said otherwise; made by `python -m tests.head2toe_reference`. The networks were
trained on photographs and on traffic signs. The paper's own tables need VTAB and its checkpoints
and are not reproduced.
"""
NOTES = {
    "offset": "Relevance ranks usefulness: the same number of features, each time from further "
    "down the ranking.",
    "keep": "How many features. 1.0 is all of them, without selection.",
    "keep, proximal": "The same, ranked by the exact minimum of the group lasso at 0.05 of the "
    "smallest penalty that keeps nothing, instead of by Adam. Where a two-hundredth is kept, fewer "
    "features than have weight in it (0.8 and 1.6 %), it ranks as well or better; from a fiftieth "
    "on it stays behind, also with weaker penalties (0.01, 0.002). So `Head2Toe` trains with Adam. "
    '`solver="proximal"`, the default of `GroupLassoSelector`, is for few features, for a choice '
    "without chance, and for features that do not fit in memory, since it holds one layer at a "
    "time ([half a million features](selection.md)).",
    "relevance": "How they are chosen. `adam` is the paper's; `proximal` solves the group lasso "
    "exactly at 0.05 of the smallest penalty that keeps nothing; `layers` ranks whole layers by "
    "their mean, the paper's layer-wise variant.",
    "pool": "The target size T of the pooling; `avg` is one number per channel.",
    "task": "Features chosen on another task (`sklearn:digits`) for this one.",
}
RELEVANCE: Mapping[str, Mapping[str, Any]] = {
    "adam": {},
    "proximal": {"solver": "proximal"},
    "layers": {"layer_mix": 1.0},
    "f_classif": {"relevance": "f_classif"},
    "variance": {"relevance": "variance"},
    "random": {"relevance": "random"},
}


def accuracy(train: Any, test: Any, **options: Any) -> str:
    """Accuracy over the seeds, as text."""
    options = {"keep": KEEP, **options}
    found = [tm.Head2Toe(random_state=s, **options).fit(train).score(test) for s in SEEDS]
    return f"{100 * np.mean(found):.1f} ± {100 * np.std(found, ddof=1):.1f}"


def stores(model: str, task: str, pool: str) -> tuple[tm.FeatureStore, tm.FeatureStore]:
    """Features of the training and test examples."""
    return tuple(
        tm.extract(model, task, "activations", pool, split=split, progress=False)
        for split in ("train", "test")
    )


def ablations(model: str) -> dict[str, dict[str, str]]:
    """Accuracies of one model by experiment and setting."""
    train, test = stores(model, TASK, "grid:512")
    dim = sum(layer.dim for layer in train.layers)
    found = {
        "offset": {
            f"{share:.0%}": accuracy(train, test, keep=0.02, offset=int(share * dim))
            for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
        },
        "keep": {
            f"{keep:g}": accuracy(train, test, keep=keep)
            for keep in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        },
        "keep, proximal": {
            f"{keep:g}": accuracy(train, test, keep=keep, solver="proximal")
            for keep in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
        },
        "relevance": {
            name: accuracy(train, test, **options) for name, options in RELEVANCE.items()
        },
        "pool": {
            pool: accuracy(*stores(model, TASK, pool))
            for pool in ("avg", "grid:512", "grid:2048", "grid:8192")
        },
    }
    other = stores(model, OTHER, "grid:512")[0]
    selector = tm.GroupLassoSelector(KEEP, solver="adam").fit(other)
    found["task"] = {
        "its own": found["keep"][f"{KEEP:g}"],
        "digits": accuracy(train, test, selector=selector),
    }
    return found


def sections(models: Iterable[str]) -> list[str]:
    """One table per experiment, a column per model."""
    by_model = {model: ablations(model) for model in models}
    parts = []
    for name, note in NOTES.items():
        columns = {model: found[name] for model, found in by_model.items()}
        frame = pd.DataFrame(columns).rename_axis(name).reset_index()
        parts.append(f"## {name}\n\n{note}\n\n{markdown(frame)}")
    return parts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    parts = sections(MODELS)
    print("\n\n".join(parts))
    if options.out:
        about = "\n".join(f"- {line}" for line in describe())
        options.out.write_text("\n\n".join([INTRODUCTION + "\n" + about, *parts]) + "\n")
