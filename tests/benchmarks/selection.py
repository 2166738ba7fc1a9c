"""Time and memory of Head2Toe's selection against the number of features.

python -m tests.benchmarks.selection --features 1000,10000
python -m tests.benchmarks.selection --out docs/selection.md
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.command import (
    add_page,
    bystanders,
    finish,
    origin,
    parser_of,
    run_module,
    teller,
)
from tests.benchmarks.cost import Growth, timed
from transfer_metrics.cli.options import positive
from transfer_metrics.cli.parser import Parser
from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.evidence.layout import describe, piped, wrapped
from transfer_metrics.features.shards import FORMAT, LABELS, StoreFolder
from transfer_metrics.results.wording import aligned

if TYPE_CHECKING:
    import pandas as pd

LAYERS, SHARDS, HIDDEN = 20, 8, 64
FEATURES = [1000, 10_000, 100_000, 500_000]
PROCESS = """\
import json, sys
from tests.benchmarks.selection import select
print(json.dumps(select(sys.argv[1])))
"""


@dataclass(frozen=True)
class Row:
    """One selection.

    Attributes:
        features: D, over all layers.
        examples: N.
        classes: C.
        seconds: time to fit, with reading the store.
        peak: bytes by which the process grew; None where the system does not tell.
        kkt_residual: largest violation of the conditions of optimality, as a share of λ.
        active: columns with weight.
        iterations: proximal steps.
    """

    features: int
    examples: int
    classes: int
    seconds: float
    peak: int | None
    kkt_residual: float
    active: int
    iterations: int


@dataclass(frozen=True)
class SelectionTable:
    """Selections from ever more features.

    Attributes:
        rows: in the order in which they were asked for.
        bystanders: share of the cores that other processes took meanwhile.
    """

    rows: tuple[Row, ...]
    bystanders: float | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return [asdict(row) for row in self.rows]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.records)

    @property
    def exponent(self) -> float | None:
        """``p`` in seconds ~ D^p between the two largest sizes; None for one size."""
        largest = sorted(self.rows, key=lambda row: row.features)[-2:]
        if len(largest) < 2 or largest[0].features == largest[1].features:
            return None
        few, many = largest
        return math.log(many.seconds / few.seconds) / math.log(many.features / few.features)


def measure(
    features: Sequence[int],
    examples: int = 1000,
    classes: int = 20,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> SelectionTable:
    """Select from stores of several sizes, each in a process of its own.

    Args:
        features: numbers of features D, over all layers.
        examples: N.
        classes: C.
        tell: is told in a line what is being done.

    Raises:
        InvalidInputError: fewer than two features a layer, or two examples a class.
        TransferMetricsError: a process failed.

    Cost: a store takes 4 N D bytes in the temporary folder; for 500 000 features and 1000 examples
    2 GB and about two minutes on two cores.
    """
    if min(features, default=0) < 2 * LAYERS or examples < 2 * classes or classes < 2:
        raise InvalidInputError(
            f"the benchmark needs {2 * LAYERS} features, two classes, and two examples of each, "
            f"not {min(features, default=0)} features and {examples} examples of {classes} classes"
        )
    others, rows = bystanders(), []
    for dim in features:
        with tempfile.TemporaryDirectory() as folder:
            tell(f"{dim} features: writing them")
            write_store(Path(folder), dim, examples, classes)
            tell(f"{dim} features: selecting")
            rows.append(Row(dim, examples, classes, **_in_own_process(Path(folder))))
    return SelectionTable(tuple(rows), others())


def write_store(folder: Path, dim: int, examples: int, classes: int) -> None:
    """Write a feature store of ``LAYERS`` layers, float32, as after a ReLU.

    All layers see the same hidden state of each example through weights of their own, and later
    ones see more of its class.
    """
    widths = [len(part) for part in np.array_split(np.arange(dim), LAYERS)]
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(examples) % classes)
    hidden = rng.standard_normal((examples, HIDDEN), dtype=np.float32)
    signal = rng.standard_normal((classes, HIDDEN), dtype=np.float32)
    size, records = -(-examples // SHARDS), {}
    for index, start in enumerate(range(0, examples, size)):
        rows = slice(start, start + size)
        arrays = {
            f"layer{i:02d}": _layer(hidden[rows], signal[y[rows]], i, index, width)
            for i, width in enumerate(widths)
        }
        record = StoreFolder(folder).add(index, {**arrays, LABELS: y[rows]})
        records[str(index)] = {**record, "rows": len(y[rows]), "seconds": 0.0}
    layers = [
        {"name": f"layer{i:02d}", "index": i, "depth": (i + 1) / LAYERS, "kind": "ReLU",
         "layout": "ND", "shape": [width], "dim": width, "bytes": 4 * width, "params": 0}
        for i, width in enumerate(widths)
    ]  # fmt: skip
    manifest = {
        "format": FORMAT, "model": "made up", "model_fingerprint": "", "revision": None,
        "preprocess": None, "head": None, "behaviour": "", "task": "made up",
        "task_fingerprint": "", "split": "train", "kind": "classification", "pool": "avg",
        "dtype": "float32", "amp": None,
        "classes": [str(c) for c in range(classes)], "n": examples, "shard_size": size,
        "logits": None, "layers": layers, "shards": records,
    }  # fmt: skip
    StoreFolder(folder).write(manifest)


def _layer(
    hidden: np.ndarray, signal: np.ndarray, index: int, shard: int, width: int
) -> np.ndarray:
    weights = np.random.default_rng([1, index]).standard_normal((HIDDEN, width), dtype=np.float32)
    # Directions of decreasing weight make the features correlated, as a network's are.
    weights *= np.linspace(1.0, 0.1, HIDDEN, dtype=np.float32)[:, None] / np.sqrt(HIDDEN)
    x = (hidden + np.float32(0.02 * (index + 1)) * signal) @ weights
    noise = np.random.default_rng([2, index, shard])
    x += np.float32(0.5) * noise.standard_normal(x.shape, dtype=np.float32)
    return np.maximum(x, 0, out=x)


def _in_own_process(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise TransferMetricsError(f"the selection failed: {reason[0]}")
    return json.loads(done.stdout)


def select(folder: str | Path) -> dict[str, Any]:
    """Select from one store, and what that took: the fields of ``Row`` that are measured."""
    from transfer_metrics.features.store import FeatureStore
    from transfer_metrics.selection.group_lasso import GroupLassoSelector

    store = FeatureStore.open(folder)
    # Libraries and thread pools are loaded by the first call and belong to no size.
    GroupLassoSelector().fit(np.random.default_rng(0).random((20, 5)), np.arange(20) % 2)
    with Growth() as grown:
        seconds, selector = timed(lambda: GroupLassoSelector().fit(store))
    return {
        "seconds": seconds,
        "peak": grown.bytes,
        "kkt_residual": selector.kkt_residual_,
        "active": int((selector.scores_ > 0).sum()),
        "iterations": selector.n_iter_,
    }


# What the toolkit is held to: so many features in so many seconds on two cores.
MANY, MOST_SECONDS = 500_000, 300.0
HEADER = ("features", "examples", "classes", "seconds", "peak MB", "active", "steps", "KKT / λ")


def text(table: SelectionTable) -> str:
    """The table and what it comes to, for a terminal."""
    parts = ["\n".join(describe()), method(), aligned(HEADER, _rows(table))]
    return "\n\n".join([*parts, "\n".join(summary(table))])


def markdown(table: SelectionTable, command: str) -> str:
    """A page with the command, the date, the machine, and the table."""
    parts = [
        "# Selecting features",
        *origin(command, "on one machine"),
        method(),
        "\n".join(f"- {line}" for line in summary(table)),
        piped(HEADER, _rows(table)),
    ]
    return "\n\n".join(parts) + "\n"


def method() -> str:
    """How the figures were taken."""
    return wrapped(
        f"GroupLassoSelector with its defaults: the exact minimum of the group lasso at 0.05 "
        f"lambda_max, to 1e-6 of λ. Features are made up, float32, as after a ReLU, in {LAYERS} "
        f"layers of one width, and lie in a feature store on disk. Each selection runs in a "
        f"process of its own. Seconds include reading the store, once per pass; the peak is what "
        f"the process grew by. Active are the columns with weight, steps those of the proximal "
        f"method over all working sets, and KKT the largest violation of the conditions of "
        f"optimality."
    )


def summary(table: SelectionTable) -> list[str]:
    """What the figures come to, and what the toolkit is held to."""
    lines = []
    if table.bystanders is not None:
        lines.append(f"other processes took {table.bystanders:.1%} of the cores meanwhile")
    if table.exponent is not None:
        lines.append(
            f"between the two largest sizes seconds grow with the features to the power of "
            f"{table.exponent:.2f}"
        )
    for row in table.rows:
        if row.features >= MANY:
            held = "met" if row.seconds <= MOST_SECONDS else "NOT MET"
            lines.append(
                f"{row.features} features of {row.examples} examples: {row.seconds:.0f} s "
                f"(at most {MOST_SECONDS:g}: {held})"
            )
    return lines


def _rows(table: SelectionTable) -> list[list[str]]:
    return [
        [
            str(row.features),
            str(row.examples),
            str(row.classes),
            f"{row.seconds:.2f}",
            "" if row.peak is None else f"{row.peak / 1e6:.0f}",
            str(row.active),
            str(row.iterations),
            f"{row.kkt_residual:.0e}",
        ]
        for row in table.rows
    ]


def parser() -> Parser:
    """The command's."""
    about = "Time and memory of choosing features by group lasso against how many there are."
    found = parser_of("selection", about, run)
    found.add_argument(
        "--features",
        type=_counts,
        default=FEATURES,
        help=f"how many features, comma-separated (default {','.join(map(str, FEATURES))})",
    )
    found.add_argument("--examples", type=positive, default=1000, help="default 1000")
    found.add_argument("--classes", type=positive, default=20, help="default 20")
    add_page(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Select from ever more features, print the table, and write the page."""
    table = measure(args.features, args.examples, args.classes, tell=teller(args))
    command = (
        f"python -m tests.benchmarks.selection --features {','.join(map(str, args.features))} "
        f"--examples {args.examples} --classes {args.classes}"
    )
    finish(args, table, text(table), lambda: markdown(table, command))
    return 0


def _counts(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


if __name__ == "__main__":
    run_module(parser())
