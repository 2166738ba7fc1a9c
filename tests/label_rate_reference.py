"""What was tried on the way to `label_rate`, judged by two truths; makes `docs/label-rate.md`.

    python -m tests.label_rate_reference <folder of the reference zoo> --features <folder> \
        [--truth truth.jsonl] [--out docs/label-rate.md]

The features of the classifiers' inputs are computed once and kept in the second folder; after that
it takes a minute or two. The truth is `data/evidence` where no other is given.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import transfer_metrics as tm
from tests import kept_truth
from tests.evidence_reference import TASKS, models
from tests.plain_networks import shared_models
from tests.tried_rates import CHOSEN, LISTING, TRIED, Pair
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import ground_truth
from transfer_metrics.evidence.judgement import mean_agreement
from transfer_metrics.evidence.layout import piped, wrapped
from transfer_metrics.evidence.published import MEASURE
from transfer_metrics.evidence.scored_pairs import tested
from transfer_metrics.features.layers import list_layers
from transfer_metrics.files import replacing
from transfer_metrics.results.agreement import RESAMPLES
from transfer_metrics.results.agreement_tasks import compare_metrics
from transfer_metrics.results.comparison import Comparison

FIRST = Path(__file__).with_name("first_truth.csv")
"""The truth by which the form was chosen: twelve networks on eight tasks."""
ASIDE = ("hymenoptera", "brain_mri", "zoo:glyphs")
"""Tasks on which nothing was looked at before the form was fixed."""


# --- pairs and truths --------------------------------------------------------------------------


def features(model: str, tasks: list[str], kept: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Short names of tasks, and the input of the model's classifier with labels in front."""
    loaded = None
    for task in tasks:
        short = ground_truth.short_name(task)
        path = kept / f"{ground_truth.short_name(model).replace(':', '_')}@{short}.npy"
        if not path.exists():
            loaded = loaded or tm.load_model(model)
            data = tested(task)
            example = loaded.batch([data["train"].examples[row] for row in (0, 1)])
            last = list_layers(loaded, "blocks", example=example)[-1]
            store = tm.extract(loaded, data, layers=[last], split="train", progress=False)
            kept.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, np.column_stack([store.labels, store[last.name]]).astype(np.float32))
        yield short, np.load(path)


def scored(specs: list[str], tasks: list[str], kept: Path) -> tuple[dict[str, pd.DataFrame], dict]:
    """A table of models x tasks for everything that was tried, and widths of models."""
    cells: dict[str, dict[str, dict[str, float]]] = {name: {} for name in TRIED}
    widths = {}
    for spec in specs:
        model = ground_truth.short_name(spec)
        for task, rows in features(spec, tasks, kept):
            pair = Pair(rows[:, 1:].astype(np.float64), rows[:, 0].astype(int))
            widths[model] = pair.x.shape[1]
            for name, score in TRIED.items():
                cells[name].setdefault(task, {})[model] = score(pair)
    return {name: pd.DataFrame(of) for name, of in cells.items()}, widths


def first_zoo() -> list[str]:
    """Networks of the truth that was there first; those for ImageNet see 96 x 96 pixels."""
    specs = shared_models("models")
    sized = {k: v.replace("=models/", "(input_size=96)=models/") for k, v in specs.items()}
    known = {**specs, **{k: v for k, v in sized.items() if k.startswith("mobilenetv1")}}
    return [known.get(name, name) for name in first_truth()[0].index]


def first_truth() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The better of fine-tuning and linear probe on test data, and standard errors."""
    found = pd.read_csv(FIRST, index_col=["table", "model"])
    tuned, probed = found.loc["accuracy"], found.loc["probe_accuracy"]
    return np.maximum(tuned, probed.loc[tuned.index]), found.loc["stderr"].loc[tuned.index]


def present_truth(path: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies of the head that validation chose, of the tasks that all models have."""
    records = ground_truth.load(path).records if path else kept_truth.kept_truth()
    decided = Comparison(ground_truth.shortened(ground_truth.best(records)))
    accuracies, noise = ground_truth.reached(decided, ground_truth.BEST)
    whole = accuracies.columns[accuracies.notna().all()]
    return accuracies[whole], noise[whole]


# --- the page ----------------------------------------------------------------------------------


def agreement(tables: dict, truth: pd.DataFrame, noise: pd.DataFrame) -> str:
    """Weighted tau of everything, by task, and the mean with its interval."""
    rows = []
    for name, scores in tables.items():
        each = [_tau(scores[[t]], truth[[t]], noise[[t]], 0)[0] for t in truth]
        value, low, high = _tau(scores[[*truth]], truth, noise, RESAMPLES)
        cells = [f"{v:.2f}" for v in each]
        rows.append((name, f"{value:.2f}", f"{low:.2f} to {high:.2f}", *cells))
    return piped(("tried", "mean", "95 % interval", *truth), rows)


def _tau(scores: pd.DataFrame, truth: pd.DataFrame, noise: pd.DataFrame, resamples: int) -> tuple:
    return mean_agreement(scores, truth, noise, resamples)[MEASURE]


def against_listing(tables: dict, truth: pd.DataFrame, noise: pd.DataFrame) -> str:
    """The paired test against the listing, task by task."""
    rows = []
    for task in [*truth, None]:
        of = [*truth] if task is None else [task]
        found = compare_metrics(tables[CHOSEN][of], tables[LISTING][of], truth[of], noise=noise[of])
        verdict = {"a": "better", "b": "worse", "tie": "tie"}[found.verdict]
        span = f"{found.low:.2f} to {found.high:.2f}"
        name = task or "mean"
        rows.append((name, f"{found.a:.2f}", f"{found.b:.2f}", span, verdict))
    return piped(("task", "label_rate", "listing", "95 % interval of the difference", ""), rows)


def of_one_width(tables: dict, truth: pd.DataFrame, noise: pd.DataFrame, widths: dict) -> str:
    """Of pairs of models of one width, how many are put in the right order."""
    right = dict.fromkeys((LISTING, [*TRIED][1], CHOSEN), 0)
    count = 0
    for task in truth:
        for i, a in enumerate(truth.index):
            for b in truth.index[i + 1 :]:
                gap = truth.loc[a, task] - truth.loc[b, task]
                error = np.hypot(noise.loc[a, task], noise.loc[b, task])
                if widths[a] == widths[b] and abs(gap) > 2 * error:
                    count += 1
                    for name in right:
                        ahead = tables[name].loc[a, task] - tables[name].loc[b, task]
                        right[name] += int(gap * ahead > 0)
    shares = [(name, f"{r} of {count}") for name, r in right.items()]
    return piped(("score", "pairs in the right order"), shares)


def page(first: tuple, present: tuple, widths: dict) -> str:
    """docs/label-rate.md."""
    tables, truth, noise = first
    new_tables, new_truth, new_noise = present
    aside = [t for t in new_truth if t in ASIDE]
    parts = [
        "# What was tried for features of unequal width",
        "Made by `python -m tests.label_rate_reference <folder of the reference zoo> …`.",
        wrapped(
            "[`label_rate`](metrics/label_rate.md) is TransRate with one code for all classes, one "
            "budget of description for all models, and less what random labels reach; its page has "
            "the derivation. Here is what else was tried. *Own codes* has a covariance per class, "
            "about its mean, as TransRate with `class_center` and frequency weights; *one code* a "
            "common one. *Rate*, *degrees of freedom* and *budget* say what is equal for all "
            "models: `R(Z, ε)`, `Σ λ / (λ + ε)`, or the signal-to-noise ratio `tr(S) / ε`. "
            "*Chance* is the exact logarithm of the mean determinant over all permutations of the "
            "labels."
        ),
        "## The truth by which the form was chosen",
        wrapped(
            f"Weighted tau with the better of fine-tuning and linear probe, {len(truth)} networks "
            f"of {min(widths[m] for m in truth.index)} to {max(widths[m] for m in truth.index)} "
            f"features, `tests/{FIRST.name}`. Codes and budgets were compared here, so the "
            "best figures are a little too good. The argument for the budget n was written "
            "down after this table was seen; little depends on it between √n and 2 n."
        ),
        agreement(tables, truth, noise),
        "Against the listing, by the paired test:",
        against_listing(tables, truth, noise),
        "## The truth of today",
        wrapped(
            "The same with the head that validation chose, other networks and other tasks, "
            f"[evidence](evidence.md). {', '.join(aside) or 'None'} had no part in the choice."
        ),
        agreement(new_tables, new_truth, new_noise),
        "Against the listing, by the paired test:",
        against_listing(new_tables, new_truth, new_noise),
    ]
    if len(aside) > 1:
        parts += [
            "Only the tasks that had no part in the choice:",
            agreement(new_tables, new_truth[aside], new_noise[aside]),
        ]
    parts += [
        "## Models of one width",
        wrapped(
            "Pairs of networks of equal width whose accuracies differ by more than two standard "
            "errors. The published spectra cannot be used: they are of each class by itself, and a "
            "common code needs the matrices."
        ),
        "The first truth:",
        of_one_width(tables, truth, noise, widths),
        "The truth of today:",
        of_one_width(new_tables, new_truth, new_noise, widths),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Extract what is missing, judge, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    kept, out = args.features.resolve(), args.out and args.out.resolve()
    truth, noise = first_truth()
    new_truth, new_noise = present_truth(args.truth and args.truth.resolve())
    os.chdir(args.folder)
    warnings.simplefilter("ignore", TransferMetricsWarning)
    tables, widths = scored(
        first_zoo(), [f"npz:datasets/{task}.npz" for task in truth], kept / "first"
    )
    known = {ground_truth.short_name(task): task for task in TASKS}
    new_tables, new_widths = scored(models(), [known[t] for t in new_truth], kept / "present")
    text = page((tables, truth, noise), (new_tables, new_truth, new_noise), widths | new_widths)
    print(text)
    if out:
        with replacing(out) as temporary:
            temporary.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
