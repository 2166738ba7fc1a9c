"""What a thousand models on a million images would take on a cluster: counted, assumed, simulated.

Counts follow from the code: forward passes from the plan of the passes, bytes of statistics from
``ranking.memory_budget``. How fast a GPU is, how large images are and what an hour costs are
assumptions, stated with every figure; how well the workers are used is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.simulation import Cluster, Load, Run, simulate
from transfer_metrics.metrics.base import get_metric
from transfer_metrics.ranking.memory_budget import Plan, plan_passes
from transfer_metrics.ranking.ranges import RANGES
from transfer_metrics.statistics.statistics import Labels, needs_of

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
    needs = needs_of([get_metric(m) for m in metrics], labels)
    counts = np.full(assumed.classes, -(-assumed.images // assumed.classes))
    part = -(-counts // RANGES)
    names = [f"layer {i}" for i in range(assumed.layers)]
    plan = plan_passes(
        dict.fromkeys(names, assumed.dim), dict.fromkeys(names, needs), counts, 1 / RANGES,
        assumed.memory - assumed.weight_bytes, shard=1024,
    )  # fmt: skip
    of_range = assumed.layers * needs[0].bytes(assumed.dim, part)
    of_model = float(RANGES * of_range)
    passes = assumed.models * assumed.images * plan.readings
    load = Load.lognormal(
        assumed.models,
        RANGES,
        load=assumed.load,
        range=plan.readings * assumed.images / RANGES / assumed.throughput
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
