"""What each metric does with awkward input, as the table in docs/metrics.md."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import numpy as np

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.metrics.base import METRICS, Metric, build_statistic

N, D, C = 400, 64, 5
SAME, MOVES, WARNS, REFUSES = "=", "≠", "!", "✗"
Data = tuple[np.ndarray, np.ndarray]


def plain() -> Data:
    """Features as a network gives them: float32, not negative, with some signal."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % C
    x = rng.standard_normal((N, D)) + 0.7 * rng.standard_normal((C, D))[y]
    return np.maximum(x, 0.0).astype(np.float32), y


def source() -> Data:
    """Source probabilities over twelve classes that know something of the labels."""
    rng = np.random.default_rng(1)
    y = np.arange(N) % C
    p = np.exp(rng.standard_normal((N, 12)) + 2.0 * np.eye(C, 12)[y])
    return p / p.sum(axis=1, keepdims=True), y


def wide(x: np.ndarray, y: np.ndarray) -> Data:
    extra = np.random.default_rng(2).standard_normal((N, 600)).astype(np.float32)
    return np.hstack([x, np.maximum(extra, 0.0)]), y


def one_example(x: np.ndarray, y: np.ndarray) -> Data:
    return x, np.where(np.arange(N) == 0, C, y)


def layer_normalised(x: np.ndarray, y: np.ndarray) -> Data:
    x = x - x.mean(axis=1, keepdims=True)
    return x / x.std(axis=1, keepdims=True), y


def with_value(value: float) -> Callable[[np.ndarray, np.ndarray], Data]:
    def change(x: np.ndarray, y: np.ndarray) -> Data:
        x = x.copy()
        x[17, 3] = value
        return x, y

    return change


FEATURE_CASES: dict[str, Callable[[np.ndarray, np.ndarray], Data]] = {
    "run again": lambda x, y: (x, y),
    "rows shuffled": lambda x, y: (x[::-1].copy(), y[::-1].copy()),
    "labels renamed, with gaps": lambda x, y: (x, np.array([40, 7, 99, -3, 12])[y]),
    "D > N": wide,
    "a class with one example": one_example,
    "two classes": lambda x, y: (x, y % 2),
    "200 classes": lambda x, y: (x, np.arange(N) % 200),
    "20 dead features added": lambda x, y: (np.hstack([x, np.zeros((N, 20), x.dtype)]), y),
    "a constant feature added": lambda x, y: (np.hstack([x, np.full((N, 1), 3, x.dtype)]), y),
    "every feature twice": lambda x, y: (np.hstack([x, x]), y),
    "layer-normalised rows": layer_normalised,
    "float16": lambda x, y: (x.astype(np.float16), y),
    "float64": lambda x, y: (x.astype(np.float64), y),
    "scale × 100": lambda x, y: (100 * x, y),
    "shift + 100": lambda x, y: (x + np.float32(100), y),
    "all features constant": lambda x, y: (np.ones_like(x), y),
    "one class": lambda x, y: (x, np.zeros_like(y)),
    "a NaN": with_value(np.nan),
    "an infinity": with_value(np.inf),
}
SOURCE_CASES: dict[str, Callable[[np.ndarray, np.ndarray], Data]] = {
    "run again": lambda x, y: (x, y),
    "rows shuffled": lambda x, y: (x[::-1].copy(), y[::-1].copy()),
    "labels renamed, with gaps": lambda x, y: (x, np.array([40, 7, 99, -3, 12])[y]),
    "a class with one example": one_example,
    "two classes": lambda x, y: (x, y % 2),
    "200 classes": lambda x, y: (x, np.arange(N) % 200),
    "a source class without probability": lambda x, y: (np.hstack([x, np.zeros((N, 1))]), y),
    "float32": lambda x, y: (x.astype(np.float32), y),
    "one class": lambda x, y: (x, np.zeros_like(y)),
    "logits instead of probabilities": lambda x, y: (np.log(x), y),
    "a NaN": with_value(np.nan),
}


def value_of(metric: Metric, x: np.ndarray, y: np.ndarray) -> float:
    """The score of arrays, with labels numbered in sorted order."""
    return float(
        metric(build_statistic(metric.requires, metric.parts, "classification", x, y, None))
    )


def outcome(metric: Metric, before: float, x: np.ndarray, y: np.ndarray) -> str:
    """What a metric does with changed data, by its value before the change."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            after = value_of(metric, x, y)
        except TransferMetricsError:
            return REFUSES
    # Half-precision input differs in the fourth digit to begin with.
    same = abs(after - before) <= 2e-3 * max(abs(before), 1e-3)
    return (SAME if same else MOVES) + (WARNS if caught else "")


def page() -> str:
    """The whole page."""
    names = [n for n in METRICS if "classification" in METRICS[n].tasks]
    of_features = [n for n in names if METRICS[n].requires != "source"]
    of_source = [n for n in names if METRICS[n].requires == "source"]
    lines = [
        "# The metrics, and what they do with awkward input",
        "",
        "Written by the tests: `pytest tests/test_behaviour.py --write-docs`.",
        "",
        "*Reads* is the statistic: `moments` need one pass and are additive, `examples` are at",
        "most 20 000 rows, chosen by a hash of their content, `source` is the output of the",
        "model's own classifier. *Unchanged by* is what the definition promises.",
        "",
        "Each name leads to a page with definition, cost, failure modes and evidence.",
        "[`etran`](metrics/etran.md) and [`ncti`](metrics/ncti.md) are sums of some of these over",
        "a set of candidates. [Which metric should I use?](which-metric.md) helps to choose.",
        "",
        "| metric | what it is | reads | tasks | better | unchanged by |",
        "|---|---|---|---|---|---|",
    ]
    for name in METRICS:
        m = METRICS[name]
        direction = "higher" if m.higher_is_better else "lower"
        lines.append(
            f"| [`{name}`](metrics/{name}.md) | {summary(m)} | {m.requires} | {', '.join(m.tasks)} "
            f"| {direction} | {', '.join(sorted(m.invariant)) or '—'} |"
        )
    lines += [
        "",
        f"## One data set ({N} × {D}, {C} classes, float32, not negative), changed in one way",
        "",
        f"`{SAME}` the score stays (to 0.2 %), `{MOVES}` it is another finite one, `{WARNS}` with",
        f"a warning that says why, `{REFUSES}` an error that says what is wrong. NaN, infinity",
        "and crashes do not occur.",
        "",
        *_grid(of_features, FEATURE_CASES, plain()),
        "",
        "## Metrics of the source head",
        "",
        *_grid(of_source, SOURCE_CASES, source()),
        "",
    ]
    return "\n".join(lines)


def summary(metric: Metric) -> str:
    """The first line of its docstring, for a cell of a table."""
    first = (inspect.getdoc(metric.fn) or "").partition("\n")[0]
    return first.replace("``", "`").replace("|", "\\|")


def _grid(
    names: list[str], cases: dict[str, Callable[[np.ndarray, np.ndarray], Data]], data: Data
) -> list[str]:
    lines = ["| metric | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    changed = [case(*data) for case in cases.values()]
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = value_of(METRICS[name], *data)
        cells = [outcome(METRICS[name], before, x, y) for x, y in changed]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines
