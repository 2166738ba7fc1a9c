"""What a thousand models on a million images would take on a cluster: counted, assumed, simulated.

Counts follow from the code: forward passes from the plan of the passes, bytes of statistics from
``ranking.memory_budget``. How fast a GPU is, how large images are and what an hour costs are
assumptions, stated with every figure; how well the workers are used is simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.simulation import Cluster, Load, Run, simulate
from transfer_metrics.evidence.layout import Grid, wrapped
from transfer_metrics.metrics.base import get_metric
from transfer_metrics.ranking.job import _RANGES
from transfer_metrics.ranking.memory_budget import Plan, plan_passes
from transfer_metrics.statistics.statistics import Labels

HOUR = 3600.0


@dataclass(frozen=True)
class Assumed:
    """What is not measured.

    Attributes:
        models: M.
        images: N, in ``classes`` of one size.
        classes: C.
        layers: layers of each model.
        dim: features of each layer, on average.
        throughput: images that one GPU runs through the average model in a second, with reading
            and decoding them.
        spread: standard deviation of the logarithm of the models' sizes.
        image_bytes: bytes of one image as it is stored.
        weight_bytes: bytes of the weights of one model.
        load: seconds to load the average model.
        storage: bytes that one worker reads from or writes to shared storage in a second.
        scoring: seconds to score a layer once its statistics are merged.
        start: seconds until a new worker can begin.
        memory: bytes of main memory that the statistics of one worker may take.
        price: money for an hour of one GPU.
    """

    models: int = 1000
    images: int = 1_000_000
    classes: int = 1000
    layers: int = 16
    dim: int = 1024
    throughput: float = 1000.0
    spread: float = 1.0
    image_bytes: int = 110_000
    weight_bytes: int = 200_000_000
    load: float = 20.0
    storage: float = 1e9
    scoring: float = 2.0
    start: float = 60.0
    memory: int = 64 << 30
    price: float = 2.5


@dataclass(frozen=True)
class Projected:
    """What follows for one choice of metrics.

    Attributes:
        metrics: the metrics.
        plan: how the passes are made.
        passes: forward passes of one image each, over all models.
        read: bytes of images that are read.
        written: bytes of statistics that are written, and read again to be merged.
        load: the work, for the simulation.
    """

    metrics: str
    plan: Plan
    passes: float
    read: float
    written: float
    load: Load


def projected(metrics: Sequence[str], assumed: Assumed) -> Projected:
    """Count what a ranking would move.

    Args:
        metrics: names of metrics of features.
        assumed: everything else.

    Raises:
        InvalidInputError: one layer does not fit into the memory.

    >>> found = projected(["logme"], Assumed(models=10, images=1000))
    >>> found.passes, found.plan.readings
    (10000, 1)
    """
    labels = Labels.of(np.empty(0, np.int64), "classification", assumed.classes)
    needs = labels.needs_of([get_metric(m) for m in metrics])
    counts = np.full(assumed.classes, -(-assumed.images // assumed.classes))
    part = -(-counts // _RANGES)
    names = [f"layer {i}" for i in range(assumed.layers)]
    plan = plan_passes(
        dict.fromkeys(names, assumed.dim), dict.fromkeys(names, needs), counts, 1 / _RANGES,
        assumed.memory - assumed.weight_bytes, shard=1024,
    )  # fmt: skip
    of_range = assumed.layers * needs[0].bytes(assumed.dim, part)
    of_model = float(_RANGES * of_range)
    passes = assumed.models * assumed.images * plan.readings
    load = Load.lognormal(
        assumed.models,
        _RANGES,
        load=assumed.load,
        range=plan.readings * assumed.images / _RANGES / assumed.throughput
        + of_range / assumed.storage,
        reduce=of_model / assumed.storage + assumed.layers * assumed.scoring,
        spread=assumed.spread,
    )
    return Projected(
        ", ".join(metrics),
        plan,
        passes,
        passes * assumed.image_bytes,
        assumed.models * of_model,
        load,
    )


@dataclass(frozen=True)
class Condition:
    """How well a cluster behaves.

    Attributes:
        name: what to call it.
        slow: share of the workers that are slower.
        times: how many times.
        life: mean hours that a worker lives.
        largest_first: whether models are given in the order of their size.
    """

    name: str
    slow: float = 0.0
    times: float = 1.0
    life: float = float("inf")
    largest_first: bool = False


CONDITIONS = (
    Condition("nothing goes wrong"),
    Condition("the same, largest models first", largest_first=True),
    Condition("5 % of the workers three times slower", 0.05, 3.0),
    Condition("and each dies once in 24 hours", 0.05, 3.0, 24.0),
    Condition("and each dies once in 2 hours", 0.05, 3.0, 2.0),
)


def simulated(load: Load, workers: int, condition: Condition, start: float) -> Run:
    """Run the scheduler over projected work.

    Args:
        load: the work.
        workers: W.
        condition: how well they behave.
        start: seconds until a new worker can begin.
    """
    if condition.largest_first:
        order = np.argsort(-load.range, kind="stable")
        load = Load(load.load[order], load.range[order], load.reduce[order], load.ranges)
    life = condition.life * HOUR
    return simulate(load, Cluster(workers, start, condition.slow, condition.times, life))


SIZES = {64: CONDITIONS, 128: CONDITIONS[:1], 256: CONDITIONS[:1], 512: CONDITIONS}
"""GPUs, and what is let happen to them."""
PROJECTED = (("logme", "h_score"), ("transrate", "logme", "h_score"))


def planned_title(assumed: Assumed) -> str:
    """What is planned."""
    return f"Planned: {assumed.models} models on {assumed.images} images"


def planned(assumed: Assumed, grid: Grid) -> list[str]:
    """What a ranking of that size would move, take and cost, and under what assumptions."""
    found = [projected(metrics, assumed) for metrics in PROJECTED]
    counted = (
        "metrics", "forward passes", "images read, TB", "statistics written, TB",
        "statistics in memory, GB", "GPU hours",
    )  # fmt: skip
    parts = [wrapped(_assumptions(assumed)), grid(counted, [_counted(p) for p in found])]
    parts += [wrapped(_remarks(assumed, found)), *_simulations(assumed, found[0], grid)]
    return parts


def _counted(p: Projected) -> list[str]:
    return [
        p.metrics,
        f"{p.passes:.1e}",
        f"{p.read / 1e12:.0f}",
        f"{p.written / 1e12:.1f}",
        f"{p.plan.bytes / 1e9:.1f}",
        f"{p.load.total / HOUR:.0f}",
    ]


def _assumptions(a: Assumed) -> str:
    return (
        f"None of this was run. Assumed, not measured: {a.throughput:g} images a second through "
        f"the average model on one GPU, reading and decoding included (`--throughput`); "
        f"{a.price:g} an hour for a GPU (`--price`); sizes of models lognormal with a standard "
        f"deviation of {a.spread:g} of the logarithm, so that the largest of {a.models} is about "
        f"fifteen times the average; {a.layers} layers of {a.dim} features, {a.classes} classes; "
        f"{a.image_bytes / 1e3:.0f} kB an image as stored; weights of "
        f"{a.weight_bytes / 1e6:.0f} MB; {a.load:g} s to load a model, {a.scoring:g} s to score a "
        f"layer, {a.start:g} s to start a worker; {a.storage / 1e9:g} GB/s of shared storage for "
        f"each worker; {a.memory / 2**30:.0f} GiB of memory for its statistics. Forward passes and "
        f"bytes of statistics are counted, the latter by the code that plans them."
    )


def _remarks(a: Assumed, found: Iterable[Projected]) -> str:
    lean, full = found
    weights = a.models * a.weight_bytes / 1e12
    reading = a.images * a.image_bytes / 1e9
    return (
        f"Statistics are written once and read once to be merged. Per-class scatter, which "
        f"transrate needs, makes them {full.written / lean.written:.0f} times as large: with many "
        f"classes of few examples it is worth ranking by a metric without it. To this come "
        f"{weights:.1f} TB of weights for each time that all models are loaded, and "
        f"{reading:.0f} GB of images that the driver reads once to tell the data from others. "
        f"Images are read anew for every model; a node that keeps them on its own disk spares the "
        f"shared storage all but the first reading."
    )


def _simulations(assumed: Assumed, what: Projected, grid: Grid) -> list[str]:
    header = (
        "GPUs", "what happens", "hours", "efficiency", "busy", "cost", "loads per model",
        "ranges repeated", "deaths", "GPU hours lost", "given up",
    )  # fmt: skip
    lines = []
    for workers, conditions in SIZES.items():
        for condition in conditions:
            run = simulated(what.load, workers, condition, assumed.start)
            hours = run.makespan / HOUR
            lines.append(
                [
                    str(workers),
                    condition.name,
                    f"{hours:.2f}",
                    f"{run.efficiency:.0%}",
                    f"{run.busy_share:.0%}",
                    f"{workers * hours * assumed.price:.0f}",
                    f"{run.loads_per_model:.2f}",
                    str(run.repeated),
                    str(run.deaths),
                    f"{run.lost / HOUR:.1f}",
                    str(run.given_up),
                ]
            )
    longest = what.load.longest / HOUR
    note = (
        f"Simulated for {what.metrics}: the scheduler that places ranges on processes and Ray "
        f"places {assumed.models} x {_RANGES} of them here, in simulated time. Efficiency is the "
        f"least time that any schedule could take, all work over all workers or the largest model "
        f"({longest:.2f} h with a GPU for each range), over the time taken; failures count against "
        f"it. Where there are few models for each GPU, the last ones are shared by many workers "
        f"that each load them, their ranges cannot be cut further, and more GPUs bring little. A "
        f"model is given up after three deaths on one range; running the command again tries it "
        f"anew."
    )
    return [grid(header, lines), wrapped(note)]
