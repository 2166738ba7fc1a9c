"""The order of candidates under a metric, with intervals and the chance of each to be the best."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfer_metrics.results.chances import Standing, Trust, expected, probability_of_best
from transfer_metrics.results.comparable import by_place
from transfer_metrics.results.error_model import ErrorModel, bundled
from transfer_metrics.results.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from transfer_metrics.metrics.base import Metric


@dataclass(frozen=True)
class Ranked:
    """A candidate: the record that stands for it, and the seconds of the pass and all scoring."""

    record: Record
    seconds: float
    rank: int | None = None
    p_best: float = math.nan
    p_score: float = math.nan

    @property
    def model(self) -> str:
        """Its name."""
        return str(self.record.model)

    @property
    def score(self) -> float:
        """The value of the record; NaN where it failed."""
        return math.nan if self.record.value is None else self.record.value

    @property
    def stderr(self) -> float:
        """Its standard error; NaN where it has none."""
        return math.nan if self.record.stderr is None else self.record.stderr

    @property
    def low(self) -> float:
        """Lower end of its 95 % interval; NaN where it has none."""
        return self.score - self.record.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.score + self.record.half_width


def candidates(records: Iterable[Record], metric: str, view: str) -> list[Ranked]:
    """One per model (or layer, in the view ``all``) under a metric, in the order of the models."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record.model), []).append(record)
    found = []
    for own in groups.values():
        scored = [r for r in own if r.label == metric and r.value is not None]
        failed = [r for r in own if r.error and r.label in (metric, "")]
        if not scored:
            found += [Ranked(r, 0.0) for r in failed[:1]]
            continue
        # Of a model that one race dropped and another did not, the scores of most examples count.
        most = max(r.n or 0 for r in scored)
        scored = [r for r in scored if (r.n or 0) == most]
        spent = (scored[0].extract_seconds or 0.0) + sum(r.seconds or 0.0 for r in scored)
        found += [Ranked(r, spent) for r in chosen_records(scored, view)]
    return found


def single(view: str) -> str:
    """The view in which each model is one candidate."""
    return "best" if view == "all" else view


def chosen_records(records: Sequence[Record], view: str) -> list[Record]:
    """Those of the scored records of a model under one metric that stand for it."""
    if view == "all":
        return list(records)
    if view == "last":
        return [max(records, key=lambda r: r.layer_index or 0)]
    sign = 1.0 if records[0].higher_is_better is not False else -1.0
    return [max(records, key=lambda r: sign * (r.value or 0.0))]


def higher_is_better(records: Iterable[Record], metric: str) -> bool:
    """The direction of a metric, as its records have it."""
    return all(r.higher_is_better is not False for r in records if r.label == metric)


class _RankingTrust(NamedTuple):
    """How far the candidates of a ranking can be told apart by their scores."""

    trust: Trust  # in the order of the scores
    standing: Standing | None  # of the candidates on earlier tasks, where such were given
    source: str  # the evidence, in words
    outside: list[str]  # what of the ranking lies outside of it


def trust_in(
    chosen: Sequence[Record],
    records: Iterable[Record],
    metric: str,
    view: str,
    errors: ErrorModel | None = None,
) -> _RankingTrust:
    """How far the order of some candidates can be trusted.

    By ``errors``, or else by what their records say, or else by the evidence of the package.
    """
    own = [(r.model, r.layer) for r in records if r.label == metric and r.value is not None]
    layers = collections.Counter(model for model, _ in dict.fromkeys(own))
    several = any(layers[r.model] > 1 for r in chosen)
    standing = _standing(chosen)
    given = {tuple(r.trust) for r in chosen if r.trust is not None and len(r.trust) == 2}
    if errors is None and len(given) == 1 and all(r.trust is not None for r in chosen):
        (pair,) = given
        outside = list(dict.fromkeys(r.outside for r in chosen if r.outside))
        return _RankingTrust(Trust(*pair), standing, "the evidence that was given", outside)
    errors = errors or bundled()
    trust, outside = errors.trust(
        metric,
        of_best=several and view != "last",
        n=max((r.n or 0 for r in chosen), default=0) or None,
        classes=max((r.num_classes or 0 for r in chosen), default=0) or None,
        dims={r.dim for r in chosen if r.dim is not None},
        kind=next((r.task_kind for r in chosen if r.task_kind), None),
    )
    if view == "all" and several:
        # Evidence is of models.
        trust = errors.trust("")[0]
        outside = [*outside, "layers as candidates"]
    return _RankingTrust(trust, standing, errors.source, outside)


def _standing(chosen: Sequence[Record]) -> Standing | None:
    known = [r.prior for r in chosen if r.prior is not None and len(r.prior) == 3]
    if not known:
        return None
    values = [math.nan if r.prior is None else r.prior[0] for r in chosen]
    # Of two priors the less sure, whichever table comes first.
    return Standing(values, Trust(min((k[1] for k in known), key=abs), max(k[2] for k in known)))


def ranked(records: Sequence[Record], metric: str, view: str) -> list[Ranked]:
    """Candidates from best to worst: failures last, and before them those that a race dropped.

    Best is the highest score, or, where the candidates have a standing on earlier tasks, the
    highest accuracy that is expected from both.
    """
    better = higher_is_better(records, metric)
    found = candidates(records, metric, view)
    found.sort(
        key=lambda c: (
            c.record.value is None,
            -(c.record.round or math.inf),
            (-1.0 if better else 1.0) * (c.record.value or 0.0),
        )
    )
    scored = [c for c in found if c.record.value is not None]
    # Only scores of the same examples compare.
    last = [c for c in scored if c.record.round == scored[0].record.round]
    chances = _chances(last, records, metric, view, better) if last else []
    found[: len(scored)] = [
        replace(c, rank=rank) for rank, c in enumerate([*chances, *scored[len(last) :]], start=1)
    ]
    return found


def _chances(
    last: Sequence[Ranked], records: Sequence[Record], metric: str, view: str, better: bool
) -> list[Ranked]:
    """Candidates with their chances, in the order of what is expected of them."""
    trusted = trust_in([c.record for c in last], records, metric, view)
    scores, errors = [c.score for c in last], [c.stderr for c in last]
    deviations = [c.record.deviations for c in last]
    of_score = probability_of_best(scores, errors, deviations, better)
    of_accuracy = probability_of_best(
        scores, errors, deviations, better, trust=trusted.trust, standing=trusted.standing
    )
    found = [
        replace(c, p_best=float(p), p_score=float(q))
        for c, p, q in zip(last, of_accuracy, of_score, strict=True)
    ]
    if trusted.standing is None:
        return found
    values = expected(scores, better, trusted.trust, trusted.standing)
    return [found[i] for i in np.argsort(-values, kind="stable")]


def ranking_frame(records: Iterable[Record], metric: str, view: str) -> pd.DataFrame:
    """What ``ScoreTable.ranking`` returns."""
    import pandas as pd

    places = by_place(records, metric)
    of_place, of_record = ("task", "split", "pool"), ("layer", "dim", "n", "error")
    numbers = ("score", "stderr", "low", "high", "p_best", "p_score")
    rows = [
        dict(zip(of_place, place[:3], strict=True))
        | {name: getattr(c.record, name) for name in of_record}
        | {name: getattr(c, name) for name in ("model", "rank", *numbers, "seconds")}
        for place, own in places.items()
        for c in ranked(own, metric, view)
    ]
    differing = [name for i, name in enumerate(of_place) if len({p[i] for p in places}) > 1]
    columns = ["rank", "model", *differing, "layer", "dim", "n", *numbers, "seconds", "error"]
    whole = dict.fromkeys(("rank", "dim", "n"), "Int64")
    return pd.DataFrame(rows, columns=columns).astype({**whole, **dict.fromkeys(numbers, float)})


def width_warnings(metrics: Iterable[Metric], records: Iterable[Record]) -> list[str]:
    """What is to be told where scores that grow with the number of features are compared."""
    known = [r for r in records if r.dim is not None and not r.error]
    told = []
    for metric in metrics:
        dims = {r.dim for r in known if r.dim is not None and r.label == metric.label}
        if metric.grows_with_width and len(dims) > 1:
            told.append(
                f"{metric.label} grows with the number of features, here {min(dims)} to "
                f"{max(dims)}, so it ranks widths as much as quality; use label_rate, which does "
                f"not, or use {metric.name}({metric.width_cures[0]}), which does so less"
            )
    return told
