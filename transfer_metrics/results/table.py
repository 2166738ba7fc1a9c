"""The one table of results, long in memory and on disk, with the views people read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.files import replacing
from transfer_metrics.naming import told_apart
from transfer_metrics.results.agreement import accuracies_of, agreement, paired
from transfer_metrics.results.comparable import (
    Place,
    by_place,
    joined,
    place_labels,
    with_own_names,
)
from transfer_metrics.results.error_bars import margin, probability_of_best
from transfer_metrics.results.record import read_records
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd

    from transfer_metrics.results.plots import TablePlots
    from transfer_metrics.sources.tasks.task import Task

COLUMNS = (
    "model",
    "model_id",
    "revision",
    "task",
    "task_id",
    "split",
    "layer",
    "layer_index",
    "depth",
    "dim",
    "pool",
    "head",
    "metric",
    "options",
    "value",
    "stderr",
    "intervals",
    "deviations",
    "higher_is_better",
    "n",
    "round",
    "num_classes",
    "seed",
    "load_seconds",
    "extract_seconds",
    "statistics_seconds",
    "seconds",
    "note",
    "error",
    "version",
    "created",
    "task_summary",
)
FORMATS = (".jsonl", ".csv", ".parquet")
VIEWS = ("best", "all", "last")


def record_label(record: Mapping[str, Any]) -> str:
    """The metric of a record with its options, as it is asked for.

    >>> record_label({"metric": "knn", "options": "k=1"})
    'knn(k=1)'
    """
    name, options = record["metric"] or "", record.get("options")
    return f"{name}({options})" if options else name


class ScoreTable:
    """Scores of models and layers: one record per model, layer and metric.

    Args:
        records: mappings with the columns of ``COLUMNS``; missing ones become None.
        view: which layers stand for a model in ``ranking``: the ``"best"``, the ``"last"``, or
            ``"all"`` of them, each as a candidate of its own.

    A name stands for one model, and for one task: where ``model_id`` or ``task_id`` say that it
    would stand for two, the later one gets a number, as in ``net (2)``. ``a + b`` has what is in
    both tables once, and numbers a model as well where the two contradict each other.

    >>> table = ScoreTable([
    ...     {"model": "a", "layer": "fc", "metric": "knn", "value": 0.7, "higher_is_better": True},
    ...     {"model": "b", "layer": "fc", "metric": "knn", "value": 0.9, "higher_is_better": True},
    ... ])
    >>> table.best()
    'b'
    """

    def __init__(self, records: Iterable[Mapping[str, Any]], view: str = "best") -> None:
        if view not in VIEWS:
            raise InvalidInputError(f"view must be one of {VIEWS}, not {view!r}")
        self._records = with_own_names([{c: record.get(c) for c in COLUMNS} for record in records])
        self.view = view

    def __len__(self) -> int:
        return len(self._records)

    def __add__(self, other: ScoreTable) -> ScoreTable:
        kind = type(other) if isinstance(other, type(self)) else type(self)
        return kind(joined(self._records, other._records), self.view)

    def __repr__(self) -> str:
        return f"ScoreTable({len(self)} records)\n{self.format()}"

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records, as plain dictionaries; NaN and missing values are None."""
        return [dict(record) for record in self._records]

    @property
    def metrics(self) -> list[str]:
        """Metrics in the table, in the order in which they were asked for."""
        return list(dict.fromkeys(record_label(r) for r in self._records if r["metric"]))

    @property
    def task_summaries(self) -> list[str]:
        """How each task was understood, a line each; see ``Task.summary``."""
        return list(dict.fromkeys(r["task_summary"] for r in self._records if r["task_summary"]))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records without a value, each with its reason under ``error``."""
        return [dict(record) for record in self._records if record["error"]]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What is to be known of single models before their scores are read, each with its models.

        Such as that no classifier was found, or that padding changes the features.
        """
        found: dict[str, dict[str, None]] = {}
        for record in self._records:
            if record["note"]:
                found.setdefault(record["note"], {})[str(record["model"])] = None
        return {note: list(models) for note, models in found.items()}

    def to_frame(self) -> pd.DataFrame:
        """The long table as a pandas DataFrame."""
        import pandas as pd

        frame = pd.DataFrame(self._records, columns=list(COLUMNS))
        times = [column for column in COLUMNS if column.endswith("seconds")]
        for column in ("value", "stderr", "depth", *times):
            frame[column] = frame[column].astype(float)
        return frame

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
        known = dict.fromkeys(str(r["task"]) for r in self._records)
        if task is not None and task not in known:
            raise UnknownNameError.of("task of this table", task, known)
        wanted = {"task": task, "split": split, "pool": pool, "n": n}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        # Models that a race dropped, on fewer examples, stand beside the others.
        kept = (
            r
            for r in self._records
            if all(
                r[name] in (value, None) or (name == "n" and r["round"])
                for name, value in wanted.items()
            )
        )
        return type(self)(kept, self.view)

    def ranking(self, metric: str | None = None, *, view: str | None = None) -> pd.DataFrame:
        """Candidates from best to worst under one metric, failed ones last.

        Models that a race dropped (see ``rank_models(budget=…)``) come after all that outlived
        them, whatever their scores: those are of fewer examples and do not compare. Scores of
        several tasks, splits, poolings or numbers of examples do not compare either: each has its
        own rows, ranked among themselves.

        Args:
            metric: the metric, by default the first of the table.
            view: as for the constructor.

        Returns:
            A DataFrame with the columns rank, model, layer, dim, n, score, stderr, low, high,
            p_best, seconds, error. n is the number of examples; low to high is a 95 % interval;
            p_best is the probability that the candidate has the best score, from errors over
            common blocks of examples where there are any, NaN where a standard error is missing
            or a race dropped the model; seconds is the forward pass plus all scoring under this
            metric. Where there are several tasks, splits or poolings, a column tells which.

        Raises:
            UnknownNameError: the table has no such metric.
        """
        import pandas as pd

        metric = self._metric(metric)
        view = self.view if view is None else view
        sign = -1.0 if self._higher_is_better(metric) else 1.0
        places = self.places(metric)
        rows = []
        for place, records in places.items():
            part = _rows(records, metric, view)
            part.sort(key=lambda r: (*_dropped(r), sign * (r["score"] or 0.0)))
            for rank, row in enumerate(part, start=1):
                row["rank"] = rank if row["score"] is not None else None
                row.update(zip(("task", "split", "pool"), place[:3], strict=True))
            _add_intervals([r for r in part if r["score"] is not None], sign < 0)
            rows += part
        differing = [
            name
            for i, name in enumerate(("task", "split", "pool"))
            if len({place[i] for place in places}) > 1
        ]
        numbers = ["score", "stderr", "low", "high", "p_best"]
        columns = ["rank", "model", *differing, "layer", "dim", "n", *numbers, "seconds", "error"]
        frame = pd.DataFrame(rows, columns=columns)
        whole = dict.fromkeys(("rank", "dim", "n"), "Int64")
        return frame.astype({**whole, **dict.fromkeys(numbers, float)})

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
        rows = {}
        metric = self._metric(metric)
        chosen = _rows(self.one_place(metric), metric, self._single)
        for name in (first, second):
            found = [r for r in chosen if r["model"] == name]
            if not found:
                known = {str(r["model"]) for r in self._records}
                raise UnknownNameError.of("model of this table", name, known)
            if found[0]["score"] is None:
                raise InvalidInputError(f"{name} has no score: {found[0]['error']}")
            rows[name] = found[0]
        a, b = rows[first], rows[second]
        if a["round"] != b["round"]:
            raise InvalidInputError(
                f"{first} was scored on {a['n']} examples and {second} on {b['n']}, so their "
                f"scores do not compare; rank the two without budget="
            )
        value = a["score"] - b["score"]
        if a["deviations"] and b["deviations"] and len(a["deviations"]) == len(b["deviations"]):
            pairs = zip(a["deviations"], b["deviations"], strict=True)
            return value, math.sqrt(sum((x - y) ** 2 for x, y in pairs))
        errors = [math.nan if r["stderr"] is None else r["stderr"] for r in (a, b)]
        return value, math.hypot(*errors)

    def agreement(
        self,
        accuracies: Mapping[str, float] | ScoreTable,
        metric: str | None = None,
        *,
        head: str | None = None,
        split: str = "test",
        **options: Any,
    ) -> pd.DataFrame:
        """How well each metric's ranking agrees with accuracies; see ``results.agreement``.

        Models that a race dropped are left out, with a warning.

        Args:
            accuracies: accuracy of each model by its name, or the table of a comparison.
            metric: one metric; all of the table unless given.
            head: where the accuracies are a table with several heads, which one.
            split: where they are a table, accuracy on which data.
            **options: ``at``, ``resamples``, ``seed``.

        Returns:
            A DataFrame with the columns metric, measure, value, low, high, n.

        Raises:
            InvalidInputError: fewer than three models have both, or the table has several tasks.
        """
        import pandas as pd

        if isinstance(accuracies, ScoreTable):
            accuracies = accuracies_of(accuracies, head, split)
        frames = []
        for name in [self._metric(metric)] if metric else self.metrics:
            sign = 1.0 if self._higher_is_better(name) else -1.0
            scores = {
                str(r["model"]): math.nan if r["score"] is None or r["round"] else sign * r["score"]
                for r in _rows(self.one_place(name), name, self._single)
            }
            common = paired(scores, accuracies)
            found = agreement(
                [scores[m] for m in common], [accuracies[m] for m in common], **options
            )
            found.insert(0, "metric", name)
            frames.append(found)
        return pd.concat(frames, ignore_index=True)

    def best(self, metric: str | None = None) -> str:
        """Name of the model that ranks first.

        Raises:
            InvalidInputError: every model failed, or the table has several tasks.
        """
        self.one_place(self._metric(metric))
        first = self.ranking(metric)
        if not len(first) or first["score"].isna().iloc[0]:
            raise InvalidInputError("no model has a score; see table.failures for the reasons")
        return str(first["model"].iloc[0])

    def wide(self) -> pd.DataFrame:
        """One row per model and layer, one column per metric.

        Tasks, splits, poolings, heads, seeds and numbers of examples tell rows apart as well, where
        there are several.
        """
        frame = self.to_frame()
        frame["metric"] = [record_label(r) for r in self._records]
        scored = frame[frame["value"].notna()]
        others = ("task", "split", "pool", "head", "seed", "n")
        several = [c for c in others if scored[c].nunique(dropna=False) > 1]
        # A cell without a name would be left out of the index.
        scored = scored.assign(**{c: scored[c].astype(object).fillna("") for c in several})
        wide = scored.pivot_table(
            index=["model", *several, "layer"], columns="metric", values="value", sort=False
        )
        return wide.reindex(columns=[m for m in self.metrics if m in wide.columns])

    def format(self, metric: str | None = None) -> str:
        """The ranking as aligned text.

        The interval is one of 95 %, where the metric has a standard error; the probability of
        being the best is that of ``ranking``. Where a race dropped models, n tells on how many
        examples each was scored. Scores that do not compare are tables of their own. Below them
        stands what is to be known of single models, and how each task was understood. Where the
        table is of one candidate alone, as that of ``score``, and no metric is named, each metric
        has its row.
        """
        if not self._records:
            return "(no records)"
        if metric is None and len(self.metrics) > 1 and self._of_features:
            return self._told(_metric_lines(self._records), {"metric"})
        metric = self._metric(metric)
        places = self.places(metric)
        if len(places) > 1:
            parts = zip(place_labels(list(places)), places.values(), strict=True)
            return "\n\n".join(
                f"{visible(label)}\n{ScoreTable(records, self.view).format(metric)}"
                for label, records in parts
            )
        ranking = self.ranking(metric)
        with_best = bool(ranking["p_best"].notna().any())
        raced = any(r["round"] for r in self._records)
        lines = [
            ["#", "model", visible(metric), "± 95 %", "P(best)", "layer", "dim", "seconds", "n"]
        ]
        shown = dict.fromkeys(map(str, ranking["model"]))
        names = dict(zip(shown, told_apart(map(visible, shown)), strict=True))
        for row in ranking.to_dict("records"):
            if row["error"] and math.isnan(row["score"]):
                reason = visible(row["error"], 600)
                lines.append(["-", names[str(row["model"])], "failed", "", "", reason])
                continue
            half = row["high"] - row["score"]
            lines.append(
                [
                    str(row["rank"]),
                    names[str(row["model"])],
                    f"{row['score']:.4g}",
                    "" if math.isnan(half) else f"{half:.3g}",
                    "" if math.isnan(row["p_best"]) else f"{row['p_best']:.2f}",
                    visible(row["layer"]),
                    str(row["dim"]),
                    f"{row['seconds']:.1f}",
                    str(row["n"]),
                ]
            )
        if not raced:
            lines = [line[:8] for line in lines]
        if not with_best:
            lines = [line[:4] + line[5:] for line in lines]
        return self._told(lines, {"model", "layer"})

    @property
    def _of_features(self) -> bool:
        """Whether all records are of the same features that were given, of no model's."""
        named = {(r["model"], r["layer"]) for r in self._records}
        return named == {("features", "features")} and len(by_place(self._records)) == 1

    def _told(self, lines: list[list[str]], words: set[str]) -> str:
        """Lines as aligned columns, those of ``words`` to the left, and what is to be known."""
        count = len(lines[0])
        widths = [max(len(line[i]) for line in lines if len(line) == count) for i in range(count)]
        numeric = {i for i, title in enumerate(lines[0]) if title not in words}
        told = [
            "  ".join(
                cell.rjust(widths[i]) if i in numeric else cell.ljust(widths[i])
                for i, cell in enumerate(line)
            ).rstrip()
            for line in lines
        ]
        notes = [f"{_few(models)}: {visible(note, 600)}" for note, models in self.notes.items()]
        notes += [visible(text, 2_000) for text in self.task_summaries]
        return "\n".join([*told, *(f"\n{note}" for note in notes)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the long table as ``.jsonl``, ``.csv`` or ``.parquet``, by the file's ending.

        The file appears whole or not at all.

        Raises:
            InvalidInputError: an unknown ending, or a place that cannot be written to.
        """
        path = Path(path)
        suffix = _known_suffix(path)
        with replacing(path) as temporary:
            if suffix == ".jsonl":
                lines = (json.dumps(r, allow_nan=False, default=str) for r in self._records)
                temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
            elif suffix == ".csv":
                self.to_frame().to_csv(temporary, index=False)
            else:
                self.to_frame().to_parquet(temporary, index=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a table that ``save`` wrote, of the bounds of ``records.read_records``.

        Raises:
            InvalidInputError: the file is missing, has an unknown ending, cannot be parsed, or has
                a field of another type.
        """
        path = Path(path)
        _known_suffix(path)
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
        # Drawing comes after ranking in the flow; it is imported only when somebody draws.
        from transfer_metrics.results.plots import TablePlots

        return TablePlots(self)

    def report(self, path: str | os.PathLike[str], **options: Any) -> str:
        """Write the table as one HTML page; see ``report.html.write_report`` for the options."""
        from transfer_metrics.report.html import write_report

        return write_report(self, path, **options)

    def one_place(self, metric: str) -> list[dict[str, Any]]:
        """The records of a metric, and of failures, which all compare.

        Raises:
            InvalidInputError: they are of several tasks, splits, poolings or numbers of examples.
        """
        places = self.places(metric)
        if len(places) > 1:
            names = ("task", "split", "pool", "n")
            first, second = list(places)[:2]
            differing = [i for i in range(4) if len({place[i] for place in places}) > 1]
            asked = ", ".join(f"{names[i]}={first[i]!r}" for i in differing)
            raise InvalidInputError(
                f"scores of {metric} of {' and '.join(place_labels([first, second]))} do not "
                f"compare; choose one with table.on({asked})"
            )
        return next(iter(places.values()), [])

    def places(self, metric: str) -> dict[Place, list[dict[str, Any]]]:
        """The records of a metric, and of failures, by task, split, pooling and n."""
        label = {metric, ""}
        return by_place(r for r in self._records if record_label(r) in label)

    @property
    def _single(self) -> str:
        """A view in which each model is one candidate."""
        return "best" if self.view == "all" else self.view

    def _metric(self, metric: str | None) -> str:
        known = self.metrics
        if not metric:
            return known[0] if known else ""
        if metric not in known:
            raise UnknownNameError.of("metric of this table", metric, known)
        return metric

    def _higher_is_better(self, metric: str) -> bool:
        flags = [r["higher_is_better"] for r in self._records if record_label(r) == metric]
        return all(flag is not False for flag in flags)


def _rows(records: Iterable[dict[str, Any]], metric: str, view: str) -> list[dict[str, Any]]:
    """One row per candidate under a metric, in the order of the models."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(str(record["model"]), []).append(record)
    rows = []
    for own in groups.values():
        scored = [r for r in own if record_label(r) == metric and r["value"] is not None]
        failed = [r for r in own if r["error"] and (record_label(r) in (metric, ""))]
        if not scored:
            rows += [_ranking_row(r, 0.0) for r in failed[:1]]
            continue
        # Of a model that one race dropped and another did not, the scores of most examples count.
        most = max(r["n"] or 0 for r in scored)
        scored = [r for r in scored if (r["n"] or 0) == most]
        spent = (scored[0]["extract_seconds"] or 0.0) + sum(r["seconds"] or 0.0 for r in scored)
        rows += [_ranking_row(r, spent) for r in chosen_records(scored, view)]
    return rows


def with_summary(records: Iterable[Mapping[str, Any]], task: Task) -> list[dict[str, Any]]:
    """Records with how their task was understood, of which the cache knows nothing."""
    return [{**record, "task_summary": task.summary} for record in records]


def chosen_records(records: list[dict[str, Any]], view: str) -> list[dict[str, Any]]:
    """Those of the scored records of a model under one metric that stand for it."""
    if view == "all":
        return records
    if view == "last":
        return [max(records, key=lambda r: r["layer_index"] or 0)]
    sign = 1.0 if records[0]["higher_is_better"] is not False else -1.0
    return [max(records, key=lambda r: sign * r["value"])]


def _ranking_row(record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    columns = ("model", "layer", "dim", "n", "round", "stderr", "deviations", "error")
    row = {c: record[c] for c in columns}
    return {**row, "score": record["value"], "seconds": seconds}


def _add_intervals(rows: list[dict[str, Any]], higher_is_better: bool) -> None:
    """Add low, high and p_best to ordered rows that have a score."""
    errors = [math.nan if r["stderr"] is None else r["stderr"] for r in rows]
    for row, error in zip(rows, errors, strict=True):
        half = margin(error, row["deviations"])
        row.update(low=row["score"] - half, high=row["score"] + half, p_best=math.nan)
    # Only scores of the same examples compare.
    last = [i for i, r in enumerate(rows) if r["round"] == rows[0]["round"]]
    best = probability_of_best(
        [rows[i]["score"] for i in last],
        [errors[i] for i in last],
        [rows[i]["deviations"] for i in last],
        higher_is_better,
    )
    for i, probability in zip(last, best, strict=True):
        rows[i]["p_best"] = float(probability)


def _metric_lines(records: list[dict[str, Any]]) -> list[list[str]]:
    """A row per record with its metric, value and half of its 95 % interval."""
    labels = [visible(record_label(record)) for record in records]
    longest = max(map(len, labels))
    lines = [["metric", "value", "± 95 %"]]
    for label, record in zip(labels, records, strict=True):
        if record["value"] is None:
            reason = visible(record["error"] or "", 600)
            lines.append([label.ljust(longest), f"failed: {reason}"])
            continue
        error = math.nan if record["stderr"] is None else record["stderr"]
        half = margin(error, record["deviations"])
        value = f"{record['value']:.4g}"
        lines.append([label.ljust(longest), value, "" if math.isnan(half) else f"{half:.3g}"])
    return lines


def _few(models: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(models) - 3} more" if len(models) > 3 else ""
    return ", ".join(map(visible, models[:3])) + more


def _dropped(row: Mapping[str, Any]) -> tuple[float, float]:
    """Puts failures last, and the models that a race dropped in the order of its rounds."""
    return float(row["score"] is None), -(row["round"] or math.inf)


def _known_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InvalidInputError(
            f"cannot tell the format of {path.name!r}; end its name in {', '.join(FORMATS)}"
        )
    return suffix
