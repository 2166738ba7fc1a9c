"""What to transfer, and why: the head that won, how sure that is, and what it gets wrong."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

from transfer_metrics.heads.base import Head
from transfer_metrics.heads.objective import Outcome, as_codes
from transfer_metrics.registry import resolve
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.results.shortlist import Shortlist
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import duration, listed, several, short
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.example import is_pair
from transfer_metrics.sources.preprocess import to_mode
from transfer_metrics.sources.specs import named_spec
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.untrusted import visible

_WRITE_REPORT = "transfer_metrics.report.html:write_report"
_MOST_MISTAKES = 12
_MOST_TOLD = 5
_SIDE = 160


@dataclass(frozen=True)
class Mistake:
    """One test example of which the head is surest and wrong.

    Its number in the split, from 0; the place it was read from, or the text; its class, the class
    that the head gave it with that one's probability; and a small JPEG of it, if it is an image.
    """

    example: int
    place: str
    label: str
    predicted: str
    probability: float
    picture: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class _Alternative:
    """What else could have been transferred: a model, and a head as it can be asked for.

    ``gain`` is how much higher the accuracy of the winner is on the same test examples, ``margin``
    half the width of the 95 % interval of that.
    """

    model: str
    head: str
    gain: float
    margin: float


@dataclass(frozen=True, eq=False)
class Decision:
    """What ``transfer`` found; ``str()`` tells it in five lines.

    Attributes:
        task: name of the task.
        model: name of the model.
        head: the fitted head, which predicts; see ``Head``.
        label: the head as it was asked for.
        accuracy: on the test examples, by which nothing was chosen; R² of a regression, average
            precision of several labels per example.
        margin: half the width of its 95 % interval.
        doubt: what to say where that is no better than one answer for all; else empty.
        alternatives: what else was tried: every other head of this model, and the best of each
            other model by validation.
        ranking: the table of all scores.
        shortlist: the models that hold the best with the confidence.
        comparison: all heads that were fitted, with their accuracies and costs.
        examples: how many test examples there are.
        balanced: balanced accuracy, where some classes are rare; else None.
        confusion: (C, C) test examples by their class and by the class that was predicted; (0, 0)
            where there are no classes.
        class_names: of its rows and columns.
        mistakes: the surest mistakes, the surest first.
        skipped: what was left out for want of time or by a limit, a sentence each.
        seconds: that the search took, this time.
    """

    task: str
    model: str
    head: Head
    label: str
    accuracy: float
    margin: float
    doubt: str
    alternatives: tuple[_Alternative, ...]
    ranking: ScoreTable
    shortlist: Shortlist
    comparison: Comparison
    examples: int
    balanced: float | None
    confusion: np.ndarray
    class_names: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    skipped: tuple[str, ...]
    seconds: float

    @classmethod
    def of(
        cls, task: Task, head: Head, *, model: str, label: str, comparison: Comparison, **known: Any
    ) -> Decision:
        """The decision for a head that was fitted, tested on the task's split ``test``."""
        split, names, kind = task["test"], tuple(task.classes), head.kind_
        logits = head.logits(task)
        found = Outcome.of(kind, logits, as_codes(split.labels, kind), names)
        head.note_test(task.name, "test", head.measure, found.value, len(split), found.doubt)
        classes = len(names) if kind == "classification" else 0
        confusion = np.zeros((classes, classes), np.int64)
        mistakes: tuple[Mistake, ...] = ()
        if classes:
            np.add.at(confusion, (split.labels, logits.argmax(axis=1)), 1)
            mistakes = _mistakes_of(split, softmax(logits, axis=1), names)
        return cls(
            task=task.name,
            model=model,
            head=head,
            label=label,
            alternatives=_alternatives(comparison, head.measure, model, label),
            comparison=comparison,
            accuracy=found.value,
            margin=float(1.959964 * found.stderr),
            doubt=found.doubt,
            examples=len(split),
            balanced=found.balanced,
            confusion=confusion,
            class_names=names,
            mistakes=mistakes,
            **known,
        )

    @property
    def layers(self) -> dict[str, int]:
        """The layers that the head reads, and how many features of each."""
        return self.selection.counts

    @property
    def selection(self) -> Selection:
        """Layers and features that the head reads, as ``select`` gives them."""
        columns = self.head.layer_columns_ or {}
        dims = {layer.name: layer.dim for layer in self.head.layers_}
        inside = {name: columns.get(name, np.arange(dim)) for name, dim in dims.items()}
        known = self._held.value, self.model, self.task, self.head.pool_
        source = self.head.source_
        spec = None if source is None else named_spec(self.model, source.spec)
        return Selection(inside, dims, False, self.label, *known, spec=spec)

    @property
    def specs(self) -> dict[str, str]:
        """What the model is loaded from, by its name, where it has one of its own."""
        return self.selection.specs

    def chosen_models(self) -> list[str]:
        """The model, which the decision stands for where one is asked."""
        return [self.model]

    def chosen_layers(self, model: str) -> list[str]:
        """The layers, which the decision stands for where some are asked."""
        return list(self.layers)

    def chosen_task(self) -> str:
        """The task."""
        return self.task

    @property
    def is_of_classes(self) -> bool:
        """Whether it was judged by accuracy."""
        return bool(len(self.confusion))

    @property
    def told(self) -> str:
        """What it was judged by with its interval, such as ``"99.6 ± 0.6 %"``."""
        return self._told(self.accuracy, self.margin)

    @property
    def factor(self) -> int:
        """What makes points of differences: R² has none."""
        return 1 if self.head.measure == "r2" else 100

    def lines(self) -> dict[str, str]:
        """The decision in five lines, by what each tells of."""
        trained = list(dict.fromkeys(str(r.model) for r in self.comparison if r.head))
        order = self.ranking.ranking()["model"].tolist()
        place = f"number {order.index(self.model) + 1} of {len(set(order))} by"
        read, held = self.layers, self._held
        fits = {(r.model, r.head) for r in self.comparison if r.metric == held.metric}
        rare = "" if self.balanced is None else f", balanced {100 * self.balanced:.1f} %"
        several_layers = f"{len(read)} layers, {sum(read.values())} features of them: "
        told = [f"{name} ({count})" for name, count in read.items()]
        measured = (self._record(m) for m in ("fit_seconds", "train_flops", "stored_bytes"))
        fit, flops, stored = (math.nan if r.value is None else r.value for r in measured)
        return {
            "model": f"{self.model}, {place} {self.ranking.metrics[0]}; "
            f"{len(trained)} of {several(len(self.shortlist), 'shortlisted model')} tried",
            "layers": (several_layers if len(read) > 1 else "") + listed(told, 6),
            "head": f"{self.label}, the best of {several(len(fits), 'fit')} by "
            f"{held.n} validation examples ({self._told(held.value or 0.0)})",
            "accuracy" if self.is_of_classes else "quality": f"{self.told} on {self.examples} test "
            f"examples{rare}{self.doubt and f', {self.doubt}'}{self._against()}",
            "cost": f"{duration(self.seconds)} to find it, {duration(fit)} and "
            f"{short(flops, 'FLOP')} to fit it, {short(stored, 'B')} beside the network",
        }

    def __str__(self) -> str:
        lines = [f"{name:<9}{visible(text, 2_000)}" for name, text in self.lines().items()]
        return "\n".join([*lines, *(f"skipped  {visible(text, 2_000)}" for text in self.skipped)])

    def __repr__(self) -> str:
        return f"Decision({self.model}, {self.label}, {self.accuracy:.4f})"

    def save(self, folder: str | os.PathLike[str], task: Any = None) -> list[Path]:
        """Write the head, the tables, and one page with all of it; returns what was written.

        ``head/`` is what ``load_head`` reads, ``scores.jsonl`` the ranking, ``comparison.jsonl``
        the heads, ``chosen.json`` layers and features, ``report.html`` the page.

        Raises:
            InvalidInputError: a place that cannot be written to.
        """
        place = Path(folder)
        names = ("report.html", "head", "scores.jsonl", "comparison.jsonl", "chosen.json")
        page, head, scores, comparison, chosen = (place / name for name in names)
        self.ranking.save(scores)
        self.comparison.save(comparison)
        self.selection.save(chosen)
        self.head.save(head)
        resolve(_WRITE_REPORT)(self, page, task=task)
        return [page, head, scores, comparison, chosen]

    def _against(self) -> str:
        if not self.alternatives:
            return ", and nothing to compare it with"
        digits, told = 3 if self.factor == 1 else 1, []
        for a in self.alternatives:
            gain = f"{self.factor * a.gain:+.{digits}f} ± {self.factor * a.margin:.{digits}f}"
            told.append(f"{gain} over {a.head}{f' on {a.model}' if a.model != self.model else ''}")
        return f"; {listed(told, _MOST_TOLD)}"

    @property
    def _held(self) -> Record:
        """What validation found of the winner."""
        return self._record(f"val_{self.head.measure}")

    def _told(self, value: float, margin: float | None = None) -> str:
        if self.factor == 1:
            return f"R² {value:.3f}" + ("" if margin is None else f" ± {margin:.3f}")
        half = "" if margin is None else f" ± {100 * margin:.1f}"
        name = "" if self.is_of_classes else "average precision "
        return f"{name}{100 * value:.1f}{half} %"

    def _record(self, metric: str) -> Record:
        return _record_of(self.comparison, self.model, self.label, metric)


def _record_of(
    comparison: Comparison, model: str, head: str, metric: str, split: str | None = None
) -> Record:
    """What a comparison has of one fit, by the labels that it was asked for with."""
    for r in comparison:
        if (r.model, r.head, r.metric) == (model, head, metric) and split in (None, r.split):
            return r
    return Record(model, head=head, metric=metric)


def _alternatives(
    comparison: Comparison, measure: str, model: str, head: str
) -> tuple[_Alternative, ...]:
    """Every other head of the model, and the best by validation of each other model."""
    held = {(r.model, r.head): r.value for r in comparison if r.metric == f"val_{measure}"}
    held = {fit: value for fit, value in held.items() if value is not None}
    own = [fit for fit in held if fit[0] == model and fit[1] != head]
    others = [
        max((fit for fit in held if fit[0] == other), key=lambda fit: held[fit] or 0.0)
        for other in dict.fromkeys(name for name, _ in held)
        if other != model
    ]
    won = _record_of(comparison, model, head, measure, "test")
    found = []
    for of_model, of_head in [*own, *others]:
        tested = _record_of(comparison, str(of_model), str(of_head), measure, "test")
        gain, error = won.difference(tested)
        if error == 0 and measure == "accuracy" and won.n:
            # No example told them apart; by Jeffreys' rule half of one might have.
            error = math.sqrt(0.5 / (won.n * (won.n + 1)))
        found.append(_Alternative(str(of_model), str(of_head), gain, 1.959964 * error))
    return tuple(found)


def _mistakes_of(
    split: Split, probabilities: np.ndarray, class_names: Sequence[str]
) -> tuple[Mistake, ...]:
    """The mistakes with the highest probability, the first of equals first."""
    predicted = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != split.labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:_MOST_MISTAKES]
    return tuple(
        Mistake(
            int(i),
            _place(split.examples, int(i)),
            str(class_names[split.labels[i]]),
            str(class_names[predicted[i]]),
            float(sure[i]),
            _picture(split.examples[int(i)]),
        )
        for i in order
    )


def _picture(example: Any) -> bytes:
    """A small JPEG of an image; nothing of other examples."""
    if not isinstance(example, Image.Image):
        return b""
    small = to_mode(example, "RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    # Of a few pixels all are to be seen.
    small.save(stream, "JPEG", quality=95 if max(small.size) <= _SIDE // 2 else 85)
    return stream.getvalue()


def _place(examples: Any, i: int) -> str:
    """Where an example was read from, or the example itself where it is a text."""
    while not hasattr(examples, "where") and hasattr(examples, "examples"):
        examples, i = examples.examples, int(examples.positions[i])
    where = getattr(examples, "where", None)
    if where is not None:
        return str(where(i))
    found = examples[i]
    return " | ".join(found) if is_pair(found) else found if isinstance(found, str) else ""
