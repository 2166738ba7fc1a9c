"""Learn how far scores can be trusted, try shortlists on what was left out, and write it down.

    python -m tests.shortlist_reference --truth truth.jsonl --scores scores.jsonl

makes `data/evidence/errors.json`, which `rank` reads, and `docs/shortlist.md` with its picture. The
files are those that `python -m tests.evidence_reference` keeps. Without them the bundled
benchmarks alone are learnt from.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import calibration_report as page
from transfer_metrics.evidence.calibration import Trial, halves, trials_of, without_tasks
from transfer_metrics.evidence.ground_truth import shortened
from transfer_metrics.evidence.judgement import at_best, at_last, tables, width_of
from transfer_metrics.evidence.learning import Case, cases_of, learn
from transfer_metrics.evidence.own_evidence import apart, kinds_of, reached, truth_cases
from transfer_metrics.evidence.prior_trials import Combined, combine
from transfer_metrics.evidence.published import MEASURED_HERE, Benchmark, load_benchmark
from transfer_metrics.files import replacing
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import ErrorModel
from transfer_metrics.untrusted import parse_json

ROOT = Path(__file__).parents[1]
HERE = "here"
PUBLISHED = (
    *("logme-cnn", "model-spider", "medmnist-models", "medmnist-sources"),
    *("transrate-models", "transrate-sources"),
)
"""Those with scores; the two of the same networks and accuracies count as one population."""
SAME = {"model-spider": "logme-cnn"}
STATIC = (
    *("emms-vit", "itm-mixed", "logme-cnn", "medmnist-models", "medmnist-sources", "parc-all"),
    *("sfda-cnn", "sfda-ssl", "shift-text", "shift-vision", "tmlr"),
)
"""From which to learn what one task tells of another."""
MANY = ("shift-vision", "parc-all", "shift-text", "sfda-cnn", "sfda-ssl", "emms-vit", "itm-mixed")
NO_SCORE = ("probe_accuracy",)
AGAIN = {("model-spider", "logme"), ("model-spider", "h_score"), ("model-spider", "leep")}
"""Scores that another benchmark has of the same networks."""
SPLITS = 2
UNLIKE = "a benchmark of others"
"""A kind of task that is not in the evidence."""


class Here:
    """What was measured here: a ground truth with the scores of its pairs, or the bundled table."""

    def __init__(self, truth: Path | None, scores: Path | None) -> None:
        if truth is None or scores is None:
            known = load_benchmark(MEASURED_HERE)
            self.accuracies = known.accuracies
            self.scores = {k: v for k, v in known.scores.items() if k not in NO_SCORE}
            self.cases = cases_of(HERE, self.scores, self.accuracies)
            self.dims: list[float] = []
            self.kinds = ["classification of images"]
            self._records: tuple[list[Any], list[Any]] | None = None
            return
        records = [
            parse_json(line)
            for path in (truth, scores)
            for line in path.read_text("utf-8").splitlines()
        ]
        measured, scored = (shortened(part) for part in apart(records))
        self.accuracies = reached(measured)
        last, best = tables(at_last(scored)), tables(at_best(scored))
        # Where a metric has no score of other blocks, the classifier's input is the best.
        self.scores = {name: best.get(name, table) for name, table in last.items()}
        self.cases = truth_cases(HERE, measured, scored)
        self.dims = list(width_of(scored).values())
        self.kinds = kinds_of(measured) or ["classification of images"]
        self._records = measured, scored

    @property
    def models(self) -> list[str]:
        """Names of the networks."""
        return list(self.accuracies.index)

    def of(self, models: Sequence[str]) -> list[Case]:
        """Cases of some of the networks."""
        if self._records is None:
            part = self.accuracies.loc[list(models)]
            return cases_of(HERE, self.scores, part)
        kept = [[r for r in part if r["model"] in models] for part in self._records]
        return truth_cases(HERE, kept[0], kept[1])


def published() -> list[Case]:
    """Cases of the benchmarks of others."""
    found = []
    for name in PUBLISHED:
        known = load_benchmark(name)
        found += cases_of(SAME.get(name, name), known.scores, known.accuracies)
    return found


def trusting(models: Mapping[str, ErrorModel], here: Here) -> Callable[[str, str], Trust]:
    """Trust in a metric on a task by what was learnt without it."""
    sizes = {c.task: (c.n, c.classes) for c in sorted(here.cases, key=lambda c: c.n or 0)}
    lifted = any(c.of_best for c in here.cases)

    @functools.cache
    def trust(metric: str, task: str) -> Trust:
        n, classes = sizes.get(task, (None, None))
        return models[task].trust(metric, of_best=lifted, n=n, classes=classes)[0]

    return trust


def tried(here: Here, unlike: ErrorModel) -> list[page.Tried]:
    """Tasks left out, networks left out, and both."""
    default = DEFAULT_METRICS[0]
    tasks = list(map(str, here.accuracies.columns))
    trust = trusting(without_tasks(here.cases, tasks, unlike), here)
    by_tasks = list(trials_of(here.scores, here.accuracies, trust))
    by_models: list[Trial] = []
    by_both: list[Trial] = []
    for seed, (known, new) in enumerate(halves(here.models, SPLITS)):
        cases, part = here.of(known), here.accuracies.loc[new]
        whole = dict.fromkeys(tasks, learn(cases, unlike=unlike))
        without = without_tasks(cases, tasks, unlike)
        for models, trials in ((whole, by_models), (without, by_both)):
            trust = trusting(models, here)
            trials += trials_of(here.scores, part, trust, seed=seed, subsets=1)
    return [
        page.Tried("tasks left out", by_tasks, default),
        page.Tried("networks left out", by_models, default),
        page.Tried("tasks and networks left out", by_both, default),
    ]


def without_benchmarks(here: Here, others: Sequence[Case]) -> dict[str, ErrorModel]:
    """What all but each benchmark of others teaches."""
    cases = [*here.cases, *others]
    return {
        name: learn((c for c in cases if c.population != name), inside=HERE)
        for name in dict.fromkeys(c.population for c in others)
    }


def on_benchmarks(models: Mapping[str, ErrorModel]) -> dict[str, list[Trial]]:
    """Each benchmark of others by what all the rest teaches."""
    found = {}
    for name in PUBLISHED:
        known, errors = load_benchmark(name), models[SAME.get(name, name)]
        trust = functools.cache(functools.partial(unlike_ours, errors))
        found[name] = list(trials_of(known.scores, known.accuracies, trust))
    return found


def unlike_ours(errors: ErrorModel, metric: str, task: str) -> Trust:
    """Trust in a metric on a benchmark of others."""
    return errors.trust(metric, kind=UNLIKE)[0]


def with_priors(
    here: Here, unlike: ErrorModel, models: Mapping[str, ErrorModel], errors: ErrorModel
) -> list[Combined]:
    """Scores that were measured, with what the networks reached on the other tasks."""
    rows = []
    tasks = list(map(str, here.accuracies.columns))
    left = trusting(without_tasks(here.cases, tasks, unlike), here)
    for metric in DEFAULT_METRICS:
        rows.append(combine(
            "measured here", metric, here.scores[metric], 100 * here.accuracies,
            functools.partial(left, metric), errors,
        ))  # fmt: skip
    for name in PUBLISHED[:4]:
        known = load_benchmark(name)
        trust = functools.partial(unlike_ours, models[SAME.get(name, name)])
        for metric in ("logme", "h_score", "leep", "nleep"):
            if metric in known.scores and (name, metric) not in AGAIN:
                rows.append(combine(
                    name, metric, known.scores[metric], points(known),
                    functools.partial(trust, metric), errors,
                ))  # fmt: skip
    return rows


def points(known: Benchmark) -> pd.DataFrame:
    """Accuracies in per cent."""
    return known.accuracies * (1.0 if known.unit == "%" else 100.0)


def with_drawn_scores(errors: ErrorModel) -> list[Combined]:
    """Scores that are drawn as good as those of the default metric, on tables with many tasks."""
    trust = errors.trust(DEFAULT_METRICS[0], kind=UNLIKE)[0]
    label = f"as {DEFAULT_METRICS[0]}, drawn"
    return [
        combine(
            name, label, None, points(load_benchmark(name)), lambda _: trust, errors, resamples=60
        )
        for name in MANY
    ]


def main() -> None:
    """Learn, try, and write the model of errors, the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--errors", type=Path, default=ROOT / "data/evidence/errors.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/shortlist.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore", TransferMetricsWarning)
    here, others = Here(args.truth, args.scores), published()
    models, tasks = here.accuracies.shape
    errors = learn(
        [*here.cases, *others],
        inside=HERE,
        earlier={name: load_benchmark(name).accuracies for name in STATIC}
        | {HERE: here.accuracies},
        dims=here.dims,
        kinds=here.kinds,
        source=f"what {models} networks reached on {tasks} tasks",
    )
    args.errors.parent.mkdir(exist_ok=True)
    errors.save(args.errors)
    # What is tried on tasks and networks of ours must not know them from elsewhere either.
    unlike = learn(others)
    models_without = without_benchmarks(here, others)
    found = page.Calibrated(
        errors,
        tried(here, unlike),
        on_benchmarks(models_without),
        with_priors(here, unlike, models_without, errors),
        with_drawn_scores(errors),
    )
    print(page.text(found))
    picture = args.out.with_suffix(".png")
    page.draw(found.tried[0].trials, picture)
    command = "python -m tests.shortlist_reference --truth truth.jsonl --scores scores.jsonl"
    with replacing(args.out) as temporary:
        temporary.write_text(page.markdown(found, command, picture.name), "utf-8")


if __name__ == "__main__":
    main()
