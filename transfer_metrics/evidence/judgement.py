"""Which scores deserved trust by what models then reached, and what choosing by that is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau

from transfer_metrics.errors import InvalidInputError, quiet
from transfer_metrics.evidence.static_baseline import (
    MEASURE,
    VERDICTS,
    by_task,
    mean_agreement,
)
from transfer_metrics.ranking.metric_choice import COMBINATIONS, combined
from transfer_metrics.results.agreement import FEWEST, RESAMPLES, STATIC, static_scores
from transfer_metrics.results.agreement_tasks import compare_metrics
from transfer_metrics.results.error_model import ENOUGH
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import several

if TYPE_CHECKING:
    import pandas as pd

_Pair = tuple[str, str]


class Scores:
    """Scores of models on tasks; their tables are models x tasks by metric, higher is better."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        # By model and task: of plain features, by the repair that was tried, and of probes.
        self._plain: dict[_Pair, list[Record]] = {}
        self._repaired: dict[tuple[_Pair, str], list[Record]] = {}
        self._probes: dict[_Pair, list[Record]] = {}
        for given in records:
            r, repair = Record.of(given), given.get("repair")
            pair = str(r.model), str(r.task)
            if r.metric and r.split == "train":
                if repair is None:
                    self._plain.setdefault(pair, []).append(r)
                else:
                    self._repaired.setdefault((pair, repair), []).append(r)
            elif r.metric == "accuracy" and r.value is not None:
                self._probes.setdefault(pair, []).append(r)

    def last(self, size: int | None = None, repair: str | None = None) -> dict[str, pd.DataFrame]:
        """Of the classifier's input, of all examples or of a part of them, combinations too.

        Combinations are made of the models of a task.
        """
        return _tables(self._of_last(size, repair))

    def best(self) -> dict[str, pd.DataFrame]:
        """The highest score over the blocks of each model, of all examples."""
        found = []
        for group in self._plain.values():
            by_metric: dict[str, list[Record]] = {}
            for r in _of_most(r for r in group if r.value is not None):
                by_metric.setdefault(r.label, []).append(r)
            found += [max(own, key=_signed) for own in by_metric.values()]
        return _tables(found)

    @property
    def widths(self) -> dict[str, float]:
        """Number of features of the classifier's input, by model."""
        found: dict[str, tuple[int, float]] = {}
        for (model, _), group in self._plain.items():
            for r in group:
                new = (r.layer_index or 0, float(r.dim or 0))
                found[model] = max(found.get(model, new), new)
        return {model: dim for model, (_, dim) in found.items()}

    def with_width(self, table: pd.DataFrame) -> float:
        """Kendall's tau of a table with the models' numbers of features, mean over tasks."""
        widths, values = self.widths, []
        for _, column in table.items():
            known = column[column.index.isin(list(widths))].dropna()
            values.append(kendalltau(known.to_numpy(), [widths[m] for m in known.index]).statistic)
        return float(np.nanmean(values))

    @property
    def seconds(self) -> dict[str, float]:
        """Of one scoring of all examples under each metric, mean."""
        spent: dict[str, list[float]] = {}
        for r in self._of_last():
            if r.seconds is not None:
                spent.setdefault(r.label, []).append(r.seconds)
        return {label: float(np.mean(values)) for label, values in spent.items()}

    @property
    def layer_regrets(self) -> dict[str, float]:
        """What choosing a block by each metric costs, in probe accuracy; ``"last"`` takes the last.

        Mean over the pairs. The best block is the best in hindsight, on the test examples
        themselves, so that even a perfect choice of layers would lose a little.
        """
        lost: dict[str, list[float]] = {}
        for pair, probed in self._probes.items():
            probes = {r.layer: (r.layer_index or 0, r.value or 0.0) for r in probed}
            top = max(value for _, value in probes.values())
            lost.setdefault("last", []).append(top - max(probes.values())[1])
            scores: dict[str, dict[str | None, float]] = {}
            for r in _of_most(self._plain.get(pair, [])):
                if r.value is not None:
                    scores.setdefault(r.label, {})[r.layer] = _signed(r)
            for label, of_layer in scores.items():
                if set(of_layer) >= set(probes):
                    chosen = max(probes, key=lambda layer: of_layer[layer])
                    lost.setdefault(label, []).append(top - probes[chosen][1])
        return {label: float(np.mean(values)) for label, values in lost.items()}

    def _of_last(self, size: int | None = None, repair: str | None = None) -> list[Record]:
        kept: dict[str, list[Record]] = {}
        groups = self._plain
        if repair is not None:
            groups = {pair: own for (pair, of), own in self._repaired.items() if of == repair}
        for (_, task), group in groups.items():
            last = max(r.layer_index or 0 for r in group)
            chosen = [r for r in group if r.n == size] if size else _of_most(group)
            kept.setdefault(task, []).extend(r for r in chosen if (r.layer_index or 0) == last)
        # Combinations compare models, so their layers have to go by one name.
        kinds = [by_kind["classification"] for by_kind in COMBINATIONS.values()]
        alike = ([replace(r, layer="last") for r in own] for own in kept.values() if own)
        return [record for own in alike for record in combined(own, kinds)]


def _of_most(records: Iterable[Record]) -> list[Record]:
    """Those of most examples."""
    found = list(records)
    most = max((r.n or 0 for r in found), default=0)
    return [r for r in found if (r.n or 0) == most]


def _tables(records: Iterable[Record]) -> dict[str, pd.DataFrame]:
    import pandas as pd

    cells: dict[str, dict[str, dict[str, float]]] = {}
    for r in records:
        column = cells.setdefault(r.label, {}).setdefault(str(r.task), {})
        column[str(r.model)] = np.nan if r.value is None else _signed(r)
    return {label: pd.DataFrame(columns) for label, columns in cells.items()}


def _signed(record: Record) -> float:
    value = record.value or 0.0
    return value if record.higher_is_better else -value


@dataclass(frozen=True)
class JudgedMetric:
    """One metric on a ground truth; means over the tasks."""

    metric: str
    value: float  # weighted tau between its scores of the classifier's input and the accuracies
    low: float  # lower end of its 95 % interval
    high: float
    regret: float  # accuracy of the best model less that of its favourite
    best: float  # weighted tau where the layer with the highest score stands for each model
    probe: float  # weighted tau with linear probes of the classifier's input
    width: float  # Kendall's tau of its scores with the number of features
    on_parts: Mapping[int, float]  # weighted tau by number of examples that were scored
    seconds: float  # of one scoring of all examples, alone, mean
    failures: int  # pairs that have no score
    layer_regret: float  # probe accuracy lost by choosing the block that it scores highest
    against: str  # "better", "worse" or "tie": the paired test against the reference


def judge(
    scored: Scores,
    accuracies: pd.DataFrame,
    probes: pd.DataFrame,
    *,
    noise: pd.DataFrame | None = None,
    reference: str = "",
    sizes: Sequence[int] = (),
    resamples: int = RESAMPLES,
) -> list[JudgedMetric]:
    """Judge every metric by tables of models x tasks, best first; a few seconds per metric.

    The static ranking, which never looks at the task, is judged as one of them.
    The others are tested against the reference, by default the best; ``noise`` are standard errors
    of the accuracies, and the scores of ``sizes`` examples are judged as well. A metric that no
    task has for enough models is NaN, with its failures.
    """
    scores = scored.last()
    if (static := static_scores(accuracies)).notna().to_numpy().any():
        scores[STATIC] = static
    best, spent, layers = scored.best(), scored.seconds, scored.layer_regrets
    parts = {size: scored.last(size) for size in sizes}
    measured = {
        name: mean_agreement(table, accuracies, noise, resamples) for name, table in scores.items()
    }
    judged = [name for name, found in measured.items() if found and name != STATIC]
    if not judged:
        both = [
            table.reindex_like(accuracies).notna() & accuracies.notna() for table in scores.values()
        ]
        check_models((int(n) for b in both for n in b.sum()), "scores with accuracies")
        raise InvalidInputError(
            "no metric has scores that differ between models, so none is judged"
        )
    if reference not in judged:
        reference = max(judged, key=lambda name: measured[name][MEASURE][0])
    pairs = int(accuracies.notna().to_numpy().sum())
    rows = []
    for name, table in scores.items():
        found = measured[name]
        value, low, high = found[MEASURE]
        aligned = table.reindex(index=accuracies.index, columns=accuracies.columns)
        there = int((aligned.notna() & accuracies.notna()).to_numpy().sum())
        rows.append(
            JudgedMetric(
                metric=name,
                value=value,
                low=low,
                high=high,
                regret=found["regret"][0],
                best=plain_agreement(best.get(name), accuracies),
                probe=plain_agreement(table, probes),
                width=scored.with_width(table),
                on_parts={n: plain_agreement(of.get(name), accuracies) for n, of in parts.items()},
                seconds=spent.get(name, np.nan),
                failures=pairs - there,
                layer_regret=layers.get(name, np.nan),
                against=_against(table, scores[reference], accuracies, noise, resamples),
            )
        )
    return sorted(rows, key=lambda row: (math.isnan(row.value), -row.value))


def check_models(counts: Iterable[int], what: str = "accuracies") -> None:
    """Refuse tasks of which none has enough models to judge by; how many each has."""
    most = max(counts, default=0)
    if most < FEWEST:
        raise InvalidInputError(
            f"no task has {what} of more than {several(most, 'model')}; judging a metric takes "
            f"{FEWEST} and learning from them (`rank --evidence`) {ENOUGH}: `benchmark run` more "
            f"models"
        )


def plain_agreement(table: pd.DataFrame | None, accuracies: pd.DataFrame) -> float:
    """Mean weighted tau without an interval; NaN where there is no score."""
    if table is None:
        return math.nan
    return mean_agreement(table, accuracies, resamples=0)[MEASURE][0]


def _against(
    table: pd.DataFrame,
    reference: pd.DataFrame,
    accuracies: pd.DataFrame,
    noise: pd.DataFrame | None,
    resamples: int,
) -> str:
    if table is reference or not resamples:
        return "–"
    try:
        with quiet():
            found = compare_metrics(
                table, reference, accuracies, measure=MEASURE, noise=noise, resamples=resamples
            )
    except InvalidInputError:
        return "–"  # too few models have both
    return VERDICTS[found.verdict]


def aggregations(
    scores: Mapping[str, pd.DataFrame], names: Iterable[str], sizes: Sequence[int] = (2, 3)
) -> dict[str, pd.DataFrame]:
    """The mean ranks of every few of some metrics, named ``a + b``; 1 for the lowest score.

    Ties share their mean rank. A model that lacks one of the scores has none.
    """
    ranks = {name: scores[name].rank() for name in names if name in scores}
    groups = [group for size in sizes for group in itertools.combinations(ranks, size)]
    return {
        " + ".join(group): sum((ranks[n] for n in group[1:]), start=ranks[group[0]]) / len(group)
        for group in groups
    }


def cross_validated(
    candidates: Mapping[str, pd.DataFrame], accuracies: pd.DataFrame, measure: str = MEASURE
) -> pd.DataFrame:
    """What the candidate that is best on all other tasks is worth on each: task, chosen, value."""
    import pandas as pd

    values = pd.DataFrame({n: by_task(s, accuracies, measure) for n, s in candidates.items()})
    values = values.dropna(axis="columns", how="any")
    if len(values) < 2 or values.empty:
        raise InvalidInputError("to choose by other tasks takes two tasks and a score on all")
    rows = []
    for task in values.index:
        chosen = str(values.drop(index=task).mean().idxmax())
        rows.append((task, chosen, float(values.loc[task, chosen])))
    return pd.DataFrame(rows, columns=["task", "chosen", "value"])
