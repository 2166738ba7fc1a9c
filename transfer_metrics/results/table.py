"""The one table of results, with the views people read."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Self

from transfer_metrics.errors import InvalidInputError, check_whole
from transfer_metrics.registry import choose, resolve
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.printed import of_features, page_table, printed
from transfer_metrics.results.shortlist import CONFIDENCE, UNKNOWN, Shortlist, informed
from transfer_metrics.results.table_agreement import Matched
from transfer_metrics.results.table_plots import TablePlots

if TYPE_CHECKING:
    import pandas as pd


# Pages are made of tables, so what makes one is found when it is asked for.
_WRITE_REPORT = "transfer_metrics.report.html:write_report"


class ScoreTable(LongTable):
    """Scores of models and layers: one record per model, layer and metric.

    Args:
        records: mappings with the fields of ``Record``, or these; missing ones become None.
        view: which layers stand for a model in ``ranking``: the ``"best"``, the ``"last"``, or
            ``"all"`` of them, each as a candidate of its own.

    A name stands for one model, and for one task: where ``model_id`` or ``task_id`` say that it
    would stand for two, the later one gets a number, as in ``net (2)``. ``a + b`` has what is in
    both tables once, and numbers a model as well where the two contradict each other. Iterating
    over a table gives its records with their types; ``records`` are plain dictionaries.

    >>> table = ScoreTable([
    ...     {"model": "a", "layer": "fc", "metric": "knn", "value": 0.7, "higher_is_better": True},
    ...     {"model": "b", "layer": "fc", "metric": "knn", "value": 0.9, "higher_is_better": True},
    ... ])
    >>> table.best()
    'b'
    """

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self)} records)\n{self.format()}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # What notebooks show below a cell.
        printer.text(str(self))

    def _repr_html_(self) -> str:
        # What notebooks that show pages show instead.
        if not self._records:
            return "<p>(no records)</p>"
        if of_features(self):
            frame = self.wide(intervals=True).reset_index(drop=True)
        else:
            frame = self.ranking().drop(columns=["stderr", "p_score"])
            frame = frame.rename(columns={"score": self.named_metric(None)})
        return page_table(frame, self.format() if len(self.rankings()) < 2 else "")

    def ranking(self, metric: str | None = None, *, view: str | None = None) -> pd.DataFrame:
        """Candidates from best to worst under one metric, failed ones last.

        Best is the highest score, or, where ``rank_models`` was given a prior, the highest accuracy
        that is expected from score and prior together.

        Models that a race dropped (see ``rank_models(budget=…)``) come after all that outlived
        them, whatever their scores: those are of fewer examples and do not compare. Scores of
        several tasks, splits, poolings or numbers of examples do not compare either: each has its
        own rows, ranked among themselves.

        Args:
            metric: the metric, by default the first of the table.
            view: as for the constructor.

        Returns:
            A DataFrame with the columns rank, model, layer, dim, n, score, stderr, low, high,
            p_best, p_score, seconds, error. n is the number of examples; low to high is a 95 %
            interval; p_best is the probability that the candidate is the best to transfer, of the
            accuracy that is reached, as ``shortlist`` explains; p_score that it would have the best
            score on all examples there could be, from errors over common blocks of examples where
            there are any, NaN where a standard error is missing; of a model that a race dropped
            both are those of the round that dropped it; both are NaN where the table lacks what
            the others scored in that round; seconds is the forward pass plus all scoring under
            this metric. Where there are several tasks, splits or poolings, a column tells which.

        Raises:
            UnknownNameError: the table has no such metric.
        """
        import pandas as pd

        rankings = self.rankings(metric, view)
        of_place, of_record = ("task", "split", "pool"), ("layer", "dim", "n", "error")
        numbers = ("score", "stderr", "low", "high", "p_best", "p_score")
        rows = [
            dict(zip(of_place, place[:3], strict=True))
            | {name: getattr(c.record, name) for name in of_record}
            | {name: getattr(c, name) for name in ("model", "rank", *numbers, "seconds")}
            for place, ranking in rankings.items()
            for c in ranking.rows
        ]
        differing = [name for i, name in enumerate(of_place) if len({p[i] for p in rankings}) > 1]
        columns = ["rank", "model", *differing, "layer", "dim", "n", *numbers, "seconds", "error"]
        whole = dict.fromkeys(("rank", "dim", "n"), "Int64")
        return pd.DataFrame(rows, columns=columns).astype(
            {**whole, **dict.fromkeys(numbers, float)}
        )

    def shortlist(
        self,
        confidence: float = CONFIDENCE,
        metric: str | None = None,
        *,
        view: str | None = None,
        evidence: Any = None,
        prior: Any = None,
    ) -> Shortlist:
        """The fewest models that hold the best one to transfer with some confidence.

        A score is not an accuracy. How far the order of each metric can be trusted was learnt from
        networks that were trained (docs/shortlist.md); with it, and with the errors of sampling
        where they are known, the accuracies are simulated, which gives the probability ``p_best``
        that each model reaches the highest; the likeliest models are taken until they hold the best
        with the confidence. What lies outside of the evidence is named, and widens.

        Args:
            confidence: between 0 and 1.
            metric: whose scores to read, by default the first of the table.
            view: as for the constructor.
            evidence: evidence of your own in place of that of the package, as for ``rank_models``.
            prior: what the models reached on earlier tasks, as for ``rank_models``.

        Returns:
            A sequence of names, likeliest first, with ``chances``, ``probability``, ``outside``
            and, by ``str()``, a sentence. In the view ``"all"`` names have their layers.

        Raises:
            UnknownNameError: the table has no such metric.
            InvalidInputError: a confidence that is no probability, no score, several tasks, or
                evidence or a prior that cannot be used.

        Cost: 20 000 simulated tasks, 20 ms for ten models and a second for a thousand.

        >>> rows = [{"model": m, "layer": "fc", "metric": "knn", "value": v, "n": 1000, "dim": 512}
        ...         for m, v in zip("abcdef", (0.9, 0.89, 0.7, 0.6, 0.5, 0.4))]
        >>> found = ScoreTable(rows).shortlist(0.8)
        >>> found[0], "f" in found, found.probability >= 0.8
        ('a', False, True)
        """
        table = self if evidence is None and prior is None else self.informed(evidence, prior)
        found = Shortlist.of(table.one_ranking(metric, view), confidence)
        if found is None:
            none = all(r.value is None or r.is_measured for r in table)
            reason = "no model has a score; see table.failures for the reasons"
            raise InvalidInputError(reason if none else UNKNOWN)
        return found

    def informed(self, evidence: Any = None, prior: Any = None) -> Self:
        """The table with evidence of your own and a prior, as ``rank_models`` adds them.

        Warns:
            TransferMetricsWarning: scores that lie outside of the evidence, or models that the
                prior lacks.
        """
        return informed(self, evidence, prior)

    def difference(self, first: str, second: str, metric: str | None = None) -> tuple[float, float]:
        """How much higher one model scores than another, and the standard error of that.

        Each model is represented as in ``ranking``. Errors over common blocks of examples, as
        ``intervals`` gives them, also to ``knn`` and ``ridge_probe``, are subtracted block by
        block, so what hits both models alike cancels; without them, and of ``linear_probe``, errors
        are taken to be independent, which is too wide. The difference over its error
        tells as much as ``p_score`` does, also of a metric whose errors are relative.

        Raises:
            UnknownNameError: the table has no such model or metric.
            InvalidInputError: a model has no score, or a race scored them on different examples, or
                the table has several tasks.
        """
        known = {c.model: c.record for c in self.one_ranking(metric, "models").candidates}
        both = [known[choose("model of this table", model, known)] for model in (first, second)]
        for record in both:
            if record.value is None:
                raise InvalidInputError(f"{record.model} has no score: {record.error}")
        return both[0].difference(both[1])

    def agreement(
        self,
        accuracies: Any,
        metric: str | None = None,
        *,
        task: str | None = None,
        head: str | None = None,
        split: str = "test",
        **options: Any,
    ) -> pd.DataFrame:
        """How well each metric's ranking agrees with accuracies; see ``agreement_by_task``.

        Where the accuracies are of several tasks, the static ranking stands beside the metrics: it
        ranks by the other tasks and knows nothing of the one at hand (``static_scores``). Models
        that a race dropped are left out, with a warning.

        Args:
            accuracies: accuracy of each model by its name; a DataFrame of models x tasks, or the
                path of a CSV file of one, models in rows and tasks in columns; the table of a
                comparison, or the path of one that was saved.
            metric: one metric; all of the table unless given.
            task: which of several tasks of the accuracies the scores are held against; by default
                the one that is called as theirs. Of scores of several tasks, the one that is
                judged; by default all that both have.
            head: where the accuracies are a comparison with several heads, which one.
            split: where they are a comparison, accuracy on which data.
            **options: ``at``, ``resamples``, ``seed``.

        Returns:
            A DataFrame with the columns metric, measure, value, low, high, n. Where the accuracies
            are of several tasks, also as metric ``"static"``, on the models of the metric that has
            the most, and ``"knn - static"`` and the like, with the interval of the difference on
            the same resampled models. Where the scores are of several tasks as well, the rows of
            ``agreement_by_task`` for each metric.

        Raises:
            InvalidInputError: fewer than three models have both; the accuracies cannot be read or
                have no such task; or the scores do not compare.

        Warns:
            TransferMetricsWarning: models that are left out; a static ranking that is not known.

        >>> record = {"task": "pets", "layer": "fc", "metric": "knn", "higher_is_better": True}
        >>> table = ScoreTable([{**record, "model": m, "value": ord(m)} for m in "abc"])
        >>> import pandas as pd
        >>> known = pd.DataFrame({"pets": [0.5, 0.6, 0.9], "cars": [0.7, 0.8, 0.6]}, list("abc"))
        >>> found = table.agreement(known, resamples=0).set_index(["measure", "metric"])["value"]
        >>> found["kendall"].round(2).to_dict()
        {'knn': 1.0, 'static': -0.33, 'knn - static': 1.33}
        """
        return self._matched(metric, accuracies, task, head, split).agreement(**options)

    def fidelity(
        self,
        accuracies: Any,
        metric: str | None = None,
        *,
        task: str | None = None,
        head: str | None = None,
        split: str = "test",
        **options: Any,
    ) -> pd.DataFrame:
        """By how many points accuracies differ where scores differ by so much.

        See ``agreement`` for the arguments, and ``results.table_agreement.fidelity`` for the
        ``**options`` bins, resamples and seed and for what is returned: a row per metric and bin of
        pairs of models.

        Raises:
            InvalidInputError: as ``agreement``, and where no two models have different scores.

        >>> record = {"task": "pets", "layer": "fc", "metric": "knn", "higher_is_better": True}
        >>> table = ScoreTable([{**record, "model": m, "value": ord(m)} for m in "abc"])
        >>> found = table.fidelity({"a": 0.5, "b": 0.4, "c": 0.9}, bins=1, resamples=0)
        >>> found[["accuracy_difference", "right_order"]].round(2).to_dict("records")
        [{'accuracy_difference': 0.27, 'right_order': 0.67}]
        """
        return self._matched(metric, accuracies, task, head, split).fidelity(**options)

    def _matched(self, metric: str | None, *known: Any) -> Matched:
        names = [self.named_metric(metric)] if metric else self.metrics
        return Matched.of(self, names, *known)

    def best(self, metric: str | None = None) -> str:
        """Name of the model that ranks first.

        Raises:
            InvalidInputError: every model failed, or the table has several tasks.
        """
        if not (scored := self.one_ranking(metric).scored):
            raise InvalidInputError("no model has a score; see table.failures for the reasons")
        return scored[0].model

    @property
    def specs(self) -> dict[str, str]:
        """Specifications of the models that have names of their own, by name."""
        return {str(r.model): r.spec for r in self._records if r.spec}

    def chosen_models(self) -> list[str]:
        """The shortlist, which the table stands for where models are asked; the likeliest first."""
        found = Shortlist.of(self.one_ranking(), CONFIDENCE)
        return [self.best()] if found is None or self.view == "all" else list(found)

    def chosen_layers(self, model: str) -> list[str]:
        """The best layer of a model, which the table stands for where layers are asked."""
        return self.best_layers(model)

    def chosen_task(self) -> str | None:
        """The task of the scores, where there is one."""
        tasks = list(dict.fromkeys(r.task for r in self._records if r.task))
        return tasks[0] if len(tasks) == 1 else None

    def best_layers(
        self, model: str | None = None, k: int = 1, metric: str | None = None
    ) -> list[str]:
        """The layers of a model that score best, the best first, as heads and selectors take them.

        Args:
            model: a model of the table, by default the best.
            k: how many, or fewer where there are not so many.
            metric: whose scores to read, by default the first of the table.

        Raises:
            UnknownNameError: the table has no such metric or model.
            InvalidInputError: the model has no score, or the table has several tasks.

        >>> rows = [{"model": "a", "layer": layer, "metric": "knn", "value": value}
        ...         for layer, value in (("stem", 0.3), ("fc:input", 0.7), ("blocks.1", 0.8))]
        >>> ScoreTable(rows).best_layers(k=2)
        ['blocks.1', 'fc:input']
        """
        check_whole(1, k=k)
        model = self.best(metric) if model is None else model
        choose("model of this table", model, {str(r.model) for r in self._records})
        found = [c.record for c in self.one_ranking(metric, "all").scored if c.model == model]
        if not found:
            raise InvalidInputError(f"{model} has no score here; see table.failures")
        return [str(record.layer) for record in found[:k]]

    def wide(self, *, intervals: bool = False) -> pd.DataFrame:
        """One row per model and layer, one column per metric.

        Tasks, splits, poolings, heads, seeds and numbers of examples tell rows apart as well, where
        there are several.

        Args:
            intervals: also half the width of each 95 % interval, as ``± metric`` behind a metric
                that has errors; of one whose intervals are uneven, ``low metric`` and ``high
                metric``.

        >>> rows = [{"model": "a", "layer": layer, "metric": "knn", "value": 0.7, "stderr": error}
        ...         for layer, error in (("stem", 0.1), ("head", None))]
        >>> ScoreTable(rows).wide(intervals=True).round(2)
        metric       knn  ± knn
        model layer
        a     stem   0.7    0.2
              head   0.7    NaN
        """
        frame = self.to_frame()
        frame["metric"] = [r.label for r in self._records]
        ends = [(*r.ends, r.relative) for r in self._records]
        parts = {
            "± ": [math.nan if uneven else (high - low) / 2 for low, high, uneven in ends],
            "low ": [low if uneven else math.nan for low, _, uneven in ends],
            "high ": [high if uneven else math.nan for _, high, uneven in ends],
        }
        frame = frame.assign(**parts)
        scored = frame[frame["value"].notna()]
        others = ("task", "split", "pool", "head", "seed", "n")
        several = [c for c in others if scored[c].nunique(dropna=False) > 1]
        # A cell without a name would be left out of the index.
        scored = scored.assign(**{c: scored[c].astype(object).fillna("") for c in several})
        shape: dict[str, Any] = {"index": ["model", *several, "layer"], "columns": "metric"}
        wide = scored.pivot_table(values="value", sort=False, **shape)
        order = [m for m in self.metrics if m in wide.columns]
        if intervals:
            for part in parts:
                beside = scored.pivot_table(values=part, sort=False, **shape)
                wide = wide.join(beside.rename(columns=f"{part}{{}}".format))
            names = (f"{part}{m}" for m in order for part in ("", *parts))
            order = [name for name in names if name in wide.columns]
        return wide.reindex(columns=order).rename_axis(columns="metric")

    def format(self, metric: str | None = None, confidence: float = CONFIDENCE) -> str:
        """The ranking as aligned text.

        The interval is one of 95 %, where the metric has a standard error; the probability of
        being the best is that of ``ranking``. Where a race dropped models, n tells on how many
        examples each was scored. Scores that do not compare are tables of their own. Below stand
        the ``shortlist``, what is to be known of single models, and how each task was understood.
        Where the table is of one candidate alone, as that of ``score``, and no metric is named,
        each metric has its row.
        """
        return printed(self, metric and self.named_metric(metric), confidence)

    @property
    def plot(self) -> TablePlots:
        """Plots: ``table.plot.ranking()`` and ``table.plot.layers()``."""
        return TablePlots(self)

    def report(self, path: str | os.PathLike[str], **options: Any) -> str:
        """Write the table as one HTML page; see ``report.html.write_report`` for the options."""
        return str(resolve(_WRITE_REPORT)(self, path, **options))
