"""The one table of results, long in memory and on disk, with the views people read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.files import replacing
from transfer_metrics.registry import resolve
from transfer_metrics.results.comparable import (
    joined,
    one_place,
    places_of,
    selected,
    with_own_names,
)
from transfer_metrics.results.known_accuracies import known_accuracies
from transfer_metrics.results.printed import of_features, page_table, printed
from transfer_metrics.results.ranks import (
    difference,
    ranking_frame,
    standing_for,
    wide_frame,
)
from transfer_metrics.results.record import Record, frame_of, read_records, write_records
from transfer_metrics.results.shortlist import CONFIDENCE, Shortlist, informed, shortlist_of
from transfer_metrics.results.table_agreement import agreement_frame, fidelity_frame, judged_scores
from transfer_metrics.results.table_plots import TablePlots
from transfer_metrics.results.wording import listed, several
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd


FORMATS = (".jsonl", ".csv", ".parquet")
_VIEWS = ("best", "all", "last")
# Pages are made of tables, so what makes one is found when it is asked for.
_WRITE_REPORT = "transfer_metrics.report.html:write_report"


class ScoreTable:
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

    def __init__(self, records: Iterable[Mapping[str, Any] | Record], view: str = "best") -> None:
        _checked_view(view)
        self._records = with_own_names([Record.of(record) for record in records])
        self.view = view

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __add__(self, other: ScoreTable) -> Self:
        # A comparison beside scores is a comparison still, whichever comes first.
        kind = type(other) if isinstance(other, type(self)) else type(self)
        return kind(joined(self._records, other._records), self.view)

    def __repr__(self) -> str:
        counts = {
            "record": len(self),
            "model": len({r.model for r in self._records}),
            "task": len({r.task for r in self._records}),
        }
        told = ", ".join(several(number, noun) for noun, number in counts.items())
        metrics = listed([visible(metric, 60) for metric in self.metrics])
        return f"{type(self).__name__}({told}{metrics and f'; {metrics}'})"

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self)} records)\n{self.format()}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # What notebooks show below a cell.
        printer.text(str(self))

    def _repr_html_(self) -> str:
        # What notebooks that show pages show instead.
        metric = self.named_metric(None)
        if not self._records:
            return "<p>(no records)</p>"
        if of_features(self._records):
            frame = self.wide(intervals=True).reset_index(drop=True)
        else:
            frame = self.ranking().drop(columns=["stderr", "p_score"])
            frame = frame.rename(columns={"score": metric})
        return page_table(frame, self.format() if len(places_of(self._records, metric)) < 2 else "")

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records, as plain dictionaries; NaN and missing values are None."""
        return [record.as_dict() for record in self._records]

    @property
    def metrics(self) -> list[str]:
        """Metrics in the table, in the order in which they were asked for."""
        return list(dict.fromkeys(r.label for r in self._records if r.metric))

    @property
    def task_summaries(self) -> list[str]:
        """How each task was understood, a line each; see ``Task.summary``."""
        return list(dict.fromkeys(r.task_summary for r in self._records if r.task_summary))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records without a value, each with its reason under ``error``."""
        return [record.as_dict() for record in self._records if record.error]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What is to be known of single models before their scores are read, each with its models.

        Such as that no classifier was found, or that padding changes the features.
        """
        found: dict[str, dict[str, None]] = {}
        for record in self._records:
            if record.note:
                found.setdefault(record.note, {})[str(record.model)] = None
        return {note: list(models) for note, models in found.items()}

    def to_frame(self) -> pd.DataFrame:
        """The long table as a pandas DataFrame."""
        return frame_of(self._records)

    def on(
        self,
        task: str | None = None,
        *,
        split: str | None = None,
        pool: str | None = None,
        n: int | None = None,
    ) -> Self:
        """The part of the table that is of one task, split, pooling or number of examples.

        Raises:
            UnknownNameError: the table has no such task.
        """
        wanted = {"task": task, "split": split, "pool": pool, "n": n}
        return type(self)(selected(self._records, wanted), self.view)

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
            there are any, NaN where a standard error is missing; both are NaN where a race dropped
            the model; seconds is the forward pass plus all scoring under this metric. Where there
            are several tasks, splits or poolings, a column tells which.

        Raises:
            UnknownNameError: the table has no such metric.
        """
        view = self.view if view is None else _checked_view(view)
        return ranking_frame(self._records, self.named_metric(metric), view)

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
        metric = self.named_metric(metric)
        view = self.view if view is None else _checked_view(view)
        table = self if evidence is None and prior is None else self.informed(evidence, prior)
        found = shortlist_of(one_place(table._records, metric), metric, view, confidence)
        if found is None:
            raise InvalidInputError("no model has a score; see table.failures for the reasons")
        return found

    def informed(self, evidence: Any = None, prior: Any = None) -> Self:
        """The table with evidence of your own and a prior, as ``rank_models`` adds them.

        Warns:
            TransferMetricsWarning: scores that lie outside of the evidence, or models that the
                prior lacks.
        """
        return type(self)(informed(self._records, self.view, evidence, prior), self.view)

    def difference(self, first: str, second: str, metric: str | None = None) -> tuple[float, float]:
        """How much higher one model scores than another, and the standard error of that.

        Each model is represented as in ``ranking``. Errors over common blocks of examples, as
        ``intervals`` gives them, are subtracted block by block, so what hits both models alike
        cancels; without them the errors are taken to be independent.

        Raises:
            UnknownNameError: the table has no such model or metric.
            InvalidInputError: a model has no score, or a race scored them on different examples, or
                the table has several tasks.
        """
        metric = self.named_metric(metric)
        records = one_place(self._records, metric)
        return difference(*(standing_for(records, m, metric, self.view) for m in (first, second)))

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
        """How well each metric's ranking agrees with accuracies; see ``results.agreement``.

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
        known = known_accuracies(accuracies, head, split)
        return agreement_frame(self._judged(metric, known, task), known, task, options)

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

        See ``agreement`` for the arguments, and ``results.fidelity`` for the ``**options`` bins,
        resamples and seed and for what is returned: a row per metric and bin of pairs of models.

        Raises:
            InvalidInputError: as ``agreement``, and where no two models have different scores.

        >>> record = {"task": "pets", "layer": "fc", "metric": "knn", "higher_is_better": True}
        >>> table = ScoreTable([{**record, "model": m, "value": ord(m)} for m in "abc"])
        >>> found = table.fidelity({"a": 0.5, "b": 0.4, "c": 0.9}, bins=1, resamples=0)
        >>> found[["accuracy_difference", "right_order"]].round(2).to_dict("records")
        [{'accuracy_difference': 0.27, 'right_order': 0.67}]
        """
        known = known_accuracies(accuracies, head, split)
        return fidelity_frame(self._judged(metric, known, task), known, task, options)

    def _judged(
        self, metric: str | None, known: pd.DataFrame, task: str | None
    ) -> dict[str, pd.DataFrame]:
        names = [self.named_metric(metric)] if metric else self.metrics
        return judged_scores(self._records, names, self.view, known, task)

    def best(self, metric: str | None = None) -> str:
        """Name of the model that ranks first.

        Raises:
            InvalidInputError: every model failed, or the table has several tasks.
        """
        one_place(self._records, self.named_metric(metric))
        first = self.ranking(metric)
        if not len(first) or first["score"].isna().iloc[0]:
            raise InvalidInputError("no model has a score; see table.failures for the reasons")
        return str(first["model"].iloc[0])

    def chosen_models(self) -> list[str]:
        """The shortlist, which the table stands for where models are asked; the likeliest first."""
        found = shortlist_of(
            one_place(self._records, self.named_metric(None)),
            self.named_metric(None),
            self.view,
            CONFIDENCE,
        )
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
            UnknownNameError: the table has no such metric.
            InvalidInputError: the model has no score, or the table has several tasks.

        >>> rows = [{"model": "a", "layer": layer, "metric": "knn", "value": value}
        ...         for layer, value in (("stem", 0.3), ("fc:input", 0.7), ("blocks.1", 0.8))]
        >>> ScoreTable(rows).best_layers(k=2)
        ['blocks.1', 'fc:input']
        """
        model = self.best(metric) if model is None else model
        one_place(self._records, self.named_metric(metric))
        found = self.ranking(metric, view="all")
        found = found[(found["model"] == model) & found["score"].notna()]
        if found.empty:
            raise InvalidInputError(f"{model} has no score here; see table.failures")
        return [str(layer) for layer in found["layer"].head(k)]

    def wide(self, *, intervals: bool = False) -> pd.DataFrame:
        """One row per model and layer, one column per metric.

        Tasks, splits, poolings, heads, seeds and numbers of examples tell rows apart as well, where
        there are several.

        Args:
            intervals: also half the width of each 95 % interval, as ``± metric`` behind a metric
                that has errors.

        >>> rows = [{"model": "a", "layer": layer, "metric": "knn", "value": 0.7, "stderr": error}
        ...         for layer, error in (("stem", 0.1), ("head", None))]
        >>> ScoreTable(rows).wide(intervals=True).round(2)
        metric       knn  ± knn
        model layer
        a     stem   0.7    0.2
              head   0.7    NaN
        """
        return wide_frame(self._records, self.metrics, intervals)

    def format(self, metric: str | None = None, confidence: float = CONFIDENCE) -> str:
        """The ranking as aligned text.

        The interval is one of 95 %, where the metric has a standard error; the probability of
        being the best is that of ``ranking``. Where a race dropped models, n tells on how many
        examples each was scored. Scores that do not compare are tables of their own. Below stand
        the ``shortlist``, what is to be known of single models, and how each task was understood.
        Where the table is of one candidate alone, as that of ``score``, and no metric is named,
        each metric has its row.
        """
        return printed(self._records, self.view, metric and self.named_metric(metric), confidence)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the long table as ``.jsonl``, ``.csv`` or ``.parquet``, by the file's ending.

        The file appears whole or not at all.

        Raises:
            InvalidInputError: an unknown ending, or a place that cannot be written to.
        """
        path = Path(path)
        _check_suffix(path)
        with replacing(path) as temporary:
            write_records(self._records, temporary, path.suffix.lower())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that ``save`` wrote, of the bounds of ``record.read_records``.

        Raises:
            InvalidInputError: the file is missing, has an unknown ending, cannot be parsed, or has
                a field of another type.
        """
        path = Path(path)
        _check_suffix(path)
        if not os.path.isfile(path):
            raise InvalidInputError(f"there is no table at {path}; check the path")
        try:
            return cls(read_records(path))
        except (OSError, ValueError, OverflowError) as error:
            raise InvalidInputError(
                f"{path} is not a score table: {error}; give a file that `save` or `rank` wrote"
            ) from error

    @property
    def plot(self) -> TablePlots:
        """Plots: ``table.plot.ranking()`` and ``table.plot.layers()``."""
        return TablePlots(self)

    def report(self, path: str | os.PathLike[str], **options: Any) -> str:
        """Write the table as one HTML page; see ``report.html.write_report`` for the options."""
        return str(resolve(_WRITE_REPORT)(self, path, **options))

    def named_metric(self, metric: str | None) -> str:
        """A metric of the table, by default its first."""
        known = self.metrics
        if not metric:
            return known[0] if known else ""
        if metric not in known:
            raise UnknownNameError.of("metric of this table", metric, known)
        return metric


def _checked_view(view: Any) -> str:
    if view not in _VIEWS:
        raise InvalidInputError(f"view must be one of {_VIEWS}, not {view!r}")
    return str(view)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise InvalidInputError(
            f"cannot tell the format of {path.name!r}; end its name in {', '.join(FORMATS)}"
        )
