"""Learn how far scores can be trusted, try shortlists on what was left out, and write it down.

    python -m tests.shortlist_reference

makes `data/evidence/errors.json`, which `rank` reads, and `docs/shortlist.md` with its picture,
from the truth that `python -m tests.evidence_reference` keeps and the bundled benchmarks.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tests import calibration_page as page
from tests import kept_truth
from tests.calibration import Trial, halves, trials_of, without_tasks
from tests.prior_trials import Combined, combine
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.evidence.learning import Case, cases_of, learn
from transfer_metrics.evidence.own_evidence import best_reached, truth_cases
from transfer_metrics.evidence.published import Benchmark, load_benchmark
from transfer_metrics.files import replacing
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import ErrorModel
from transfer_metrics.results.record import Record

ROOT = Path(__file__).parents[1]
HERE = "here"
PUBLISHED = (
    *("logme-cnn", "model-spider", "medmnist-models", "medmnist-sources"),
    *("transrate-models", "transrate-sources", "reference-imagenet", "reference-texts"),
)
"""Those with scores; the two of the same networks and accuracies count as one population."""
SAME = {"model-spider": "logme-cnn"}
STATIC = (
    *("emms-vit", "itm-mixed", "logme-cnn", "medmnist-models", "medmnist-sources", "parc-all"),
    *("sfda-cnn", "sfda-ssl", "shift-text", "shift-vision", "tmlr"),
)
"""From which to learn what one task tells of another."""
MANY = ("shift-vision", "parc-all", "shift-text", "sfda-cnn", "itm-mixed")
SUMMARY = ": classification of images, "
AGAIN = {("model-spider", "logme"), ("model-spider", "h_score"), ("model-spider", "leep")}
"""Scores that another benchmark has of the same networks."""
SPLITS, RESAMPLES, DRAWN = 3, 400, 40
ALIKE = 0.3
"""Of the variance of the errors of drawn scores, what models have in common with those alike."""
UNLIKE = "a benchmark of others"
"""A kind of task that is not in the evidence."""


class Here:
    """What was measured here: the kept ground truth with the scores of its pairs."""

    def __init__(self) -> None:
        self.truth = [{**r, "task_summary": SUMMARY} for r in kept_truth.kept_truth()]
        self.records = kept_truth.kept_scores()
        self.accuracies = best_reached(self.truth)
        scored = Scores(self.records)
        last, best = scored.last(), scored.best()
        # Where a metric has no score of other blocks, the classifier's input is the best.
        self.scores = {name: best.get(name, table) for name, table in last.items()}
        self.cases = truth_cases(HERE, self.truth, self.records)
        self.dims = list(scored.widths.values())

    @property
    def models(self) -> list[str]:
        """Names of the networks."""
        return list(self.accuracies.index)

    def of(self, models: Sequence[str]) -> list[Case]:
        """Cases of some of the networks."""
        truth, records = (
            [r for r in part if r["model"] in models] for part in (self.truth, self.records)
        )
        return truth_cases(HERE, truth, records)


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
    """Tasks left out, and networks left out."""
    default = DEFAULT_METRICS[0]
    tasks = list(map(str, here.accuracies.columns))
    trust = trusting(without_tasks(here.cases, tasks, unlike), here)
    by_tasks = list(trials_of(here.scores, here.accuracies, trust))
    by_models: list[Trial] = []
    for seed, (known, new) in enumerate(halves(here.models, SPLITS)):
        whole = dict.fromkeys(tasks, learn(here.of(known), unlike=unlike))
        part = here.accuracies.loc[new]
        by_models += trials_of(here.scores, part, trusting(whole, here), seed=seed, subsets=2)
    return [
        page.Tried("tasks left out", by_tasks, default),
        page.Tried("networks left out", by_models, default),
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
            functools.partial(left, metric), errors, resamples=RESAMPLES,
        ))  # fmt: skip
    for name in PUBLISHED[:4]:
        known = load_benchmark(name)
        trust = functools.partial(unlike_ours, models[SAME.get(name, name)])
        for metric in ("logme", "h_score", "leep", "nleep"):
            if metric in known.scores and (name, metric) not in AGAIN:
                rows.append(combine(
                    name, metric, known.scores[metric], points(known),
                    functools.partial(trust, metric), errors, resamples=RESAMPLES,
                ))  # fmt: skip
    return rows


def points(known: Benchmark) -> pd.DataFrame:
    """Accuracies in per cent."""
    return known.accuracies * (1.0 if known.unit == "%" else 100.0)


def with_drawn_scores(errors: ErrorModel) -> list[Combined]:
    """Scores that are drawn as good as those of the default metric, on tables with many tasks."""
    default = DEFAULT_METRICS[0]
    here, elsewhere = errors.trust(default, of_best=True)[0], unlike_ours(errors, default, "")
    trusts = {
        "here": (here, 0.0),
        f"here, {ALIKE:.0%} of errors alike": (here, ALIKE),
        "elsewhere": (elsewhere, 0.0),
    }
    return [
        combine(
            name, f"as {default} {where}", None, points(load_benchmark(name)),
            lambda _, trust=trust: trust, errors, shared=shared, resamples=DRAWN,
        )
        for name in MANY
        for where, (trust, shared) in trusts.items()
    ]  # fmt: skip


def main() -> None:
    """Learn, try, and write the model of errors, the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--errors", type=Path, default=ROOT / "data/evidence/errors.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/shortlist.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore", TransferMetricsWarning)
    here, others = Here(), published()
    models, tasks = here.accuracies.shape
    errors = learn(
        [*here.cases, *others],
        inside=HERE,
        earlier={name: load_benchmark(name).accuracies for name in STATIC}
        | {HERE: here.accuracies},
        dims=here.dims,
        kinds=list(dict.fromkeys(Record.of(r).task_kind for r in here.truth)),
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
    command = "python -m tests.shortlist_reference"
    with replacing(args.out) as temporary:
        temporary.write_text(page.markdown(found, command, picture.name), "utf-8")


if __name__ == "__main__":
    main()
