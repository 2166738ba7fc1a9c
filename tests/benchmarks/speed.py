"""The toolkit's metrics against one product ``X'X`` and against what else computes them.

python -m tests.benchmarks.speed --sizes 1000x512x10
python -m tests.benchmarks.speed --rounds 5 --limit 60 --out docs/speed.md
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

import transfer_metrics as tm
from tests.benchmarks import speed_table
from tests.benchmarks.command import (
    above_zero,
    add_page,
    bystanders,
    finish,
    parser_of,
    run_module,
    teller,
)
from tests.benchmarks.cost import interleaved, peak, timed
from tests.benchmarks.examples import Size, features, probabilities
from tests.benchmarks.peers import PAIRWISE, PEERS, SIX, SOURCE, Peer, absent
from tests.benchmarks.speed_table import (
    ANOTHER_NUMBER,
    OURS,
    PRODUCT,
    TOGETHER,
    Row,
    SpeedTable,
)
from transfer_metrics.cli.console import say
from transfer_metrics.cli.options import positive
from transfer_metrics.cli.parser import Parser
from transfer_metrics.metrics.base import get_metric
from transfer_metrics.statistics.sample import DEFAULT_LIMIT, FeatureSample

# Peers whose N x N matrices take more are named and not run.
MOST_MEMORY = 4e9
SIZES = "1000x512x10,10000x2048x100,50000x768x200"


@dataclass(frozen=True)
class Entry:
    """One thing to time.

    Attributes:
        row: what is known of it beforehand.
        run: the work, which returns a score; None where it is not to be run.
        peer: the other implementation that it is, if it is one.
    """

    row: Row
    run: Callable[[], float] | None
    peer: Peer | None = None


def measure(
    sizes: Sequence[Size],
    rounds: int = 3,
    limit: float = 30.0,
    *,
    most_memory: float = MOST_MEMORY,
    memory: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> SpeedTable:
    """Race everything at every size, in rounds in which all take turns.

    Args:
        sizes: sizes of the features.
        rounds: rounds that count; one before them does not.
        limit: a peer that takes more seconds in that first round is not run again.
        most_memory: peers whose N x N matrices take more bytes are not run.
        memory: whether to measure the peak memory of the metrics that compare pairs.
        tell: is told in a line what is being done.

    Returns:
        The figures. A peer that computes another number than the toolkit where their definitions
        agree is not raced, and is among the table's ``disagreements``.

    Raises:
        TransferMetricsError: the toolkit's own work failed.

    Cost: at the command's default sizes about half an hour on two cores, nearly all of it peers.
    """
    peaks: dict[tuple[Size, str], int | None] = {}
    for size in sizes if memory else ():
        tell(f"{size}: memory of {', '.join(PAIRWISE)}, each in a process of its own")
        peaks |= {(size, metric): peak(metric, size) for metric in PAIRWISE}
    others = bystanders()
    rows = [row for size in sizes for row in _race(size, rounds, limit, most_memory, tell)]
    busy = others()
    rows = [
        replace(row, peak=peaks.get((row.size, row.metric))) if row.code == OURS else row
        for row in rows
    ]
    return SpeedTable(tuple(sizes), tuple(rows), rounds, limit, busy)


def _race(
    size: Size, rounds: int, limit: float, most_memory: float, tell: Callable[[str], None]
) -> list[Row]:
    tell(f"{size}: the first round, which does not count")
    entries = _entries(size, most_memory)
    rows = {entry.row.key: entry.row for entry in entries}
    with warnings.catch_warnings():
        # What a metric has to say about made-up features would be said once a round.
        warnings.simplefilter("ignore")
        for entry in entries:
            if entry.run is not None:
                rows[entry.row.key] = _first(entry, entry.run, rows)
        again = {
            entry.row.key: entry.run
            for entry in entries
            if entry.run is not None
            and not rows[entry.row.key].note
            and (entry.peer is None or (rows[entry.row.key].seconds or 0.0) <= limit)
        }
        tell(f"{size}: {rounds} rounds of {len(again)} each")
        times = interleaved(again, rounds)
    for key, seconds in times.items():
        rows[key] = replace(rows[key], seconds=statistics.median(seconds), rounds=len(seconds))
    return list(rows.values())


def _first(entry: Entry, run: Callable[[], float], rows: Mapping[tuple[str, str], Row]) -> Row:
    """Run once: time it, and hold a peer's number to ours. Ours must have run before."""
    try:
        seconds, value = timed(run)
    except Exception as error:  # another package's failure is a line of the table
        if entry.peer is None:
            raise
        return replace(entry.row, note=f"failed: {type(error).__name__}: {error}")
    row = replace(entry.row, seconds=seconds, value=value, rounds=1)
    if entry.peer is None:
        return row
    ours = rows[entry.row.metric, OURS].value
    assert ours is not None
    difference = abs(value - ours) / max(abs(ours), float(np.finfo(float).tiny))
    allowed = entry.peer.tolerance
    if allowed is not None and not difference <= allowed:
        note = f"{ANOTHER_NUMBER}: {value:.9g}, ours {ours:.9g}; not raced"
        return replace(entry.row, value=value, difference=difference, note=note)
    return replace(row, difference=difference)


def _entries(size: Size, most_memory: float) -> list[Entry]:
    """Everything that runs at one size, with the data that it runs on."""
    x, y = features(size)
    wide = x.astype(np.float64)
    tensor = torch.from_numpy(wide)
    source = probabilities(size)
    entries = [
        Entry(Row(size, PRODUCT, "torch"), lambda: float((tensor.T @ tensor)[0, 0])),
        Entry(Row(size, PRODUCT, "numpy"), lambda: float((wide.T @ wide)[0, 0])),
        *(_ours(size, name, metrics, x, y) for name, metrics in TOGETHER.items()),
        *(_ours(size, metric, [metric], x, y) for metric in (*SIX, *PAIRWISE)),
        *(_ours(size, metric, [metric], *source) for metric in SOURCE),
    ]
    arrays = {"moments": (wide, y), "examples": _sample(wide, y), "source": source}
    for peer in PEERS:
        inputs = arrays[get_metric(peer.metric).requires]
        entries.append(_other(size, peer, *inputs, most_memory))
    return entries


def _ours(size: Size, name: str, metrics: Iterable[str], x: np.ndarray, y: np.ndarray) -> Entry:
    chosen = list(metrics)
    return Entry(
        Row(size, name, OURS),
        lambda: float(tm.score(x, y, metrics=chosen).records[0]["value"]),
    )


def _other(size: Size, peer: Peer, x: np.ndarray, y: np.ndarray, most_memory: float) -> Entry:
    row, needs = Row(size, peer.metric, peer.name), peer.needs(len(x))
    if needs > most_memory:
        row = replace(row, note=f"needs {needs / 1e9:.1f} GB for its N x N matrices; not run")
        return Entry(row, None, peer)
    reason = absent(peer.package) if peer.package else ""
    if reason:
        return Entry(replace(row, note=reason), None, peer)
    data = x.astype(peer.dtype, copy=False)
    return Entry(row, lambda: peer.run(data, y), peer)


def _sample(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The examples that the toolkit's metrics of examples are computed on."""
    if len(x) <= DEFAULT_LIMIT:
        return x, y
    kept = FeatureSample.from_batch(x, y)
    return kept.x.numpy(), kept.y.numpy()


def parser() -> Parser:
    """The command's."""
    found = parser_of("speed", "Race the metrics against one product X'X and against others.", run)
    found.add_argument(
        "--sizes",
        default=SIZES,
        help=f"N x D x C of the features, comma-separated (default {SIZES})",
    )
    found.add_argument("--rounds", type=positive, default=3, help="rounds that count (default 3)")
    found.add_argument(
        "--limit",
        type=above_zero,
        default=30.0,
        metavar="SECONDS",
        help="what takes another code longer is measured once (default 30)",
    )
    add_page(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Race, print the tables, and write the page; fails where a peer computes another number."""
    tell = teller(args)
    sizes = [Size.parse(text) for text in args.sizes.split(",")]
    table = measure(sizes, args.rounds, args.limit, tell=tell)
    command = (
        f"python -m tests.benchmarks.speed --sizes {','.join(map(str, sizes))} "
        f"--rounds {args.rounds} --limit {args.limit:g}"
    )
    finish(args, table, speed_table.text(table), lambda: speed_table.markdown(table, command))
    for row in table.disagreements:
        say(f"failed: {row.size}: {row.metric}: {row.code}: {row.note}")
    return 1 if table.disagreements else 0


if __name__ == "__main__":
    run_module(parser())
