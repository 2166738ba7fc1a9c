"""A ranking on a cluster for people: what it would move, take and cost, and what is assumed."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.projection import (
    CONDITIONS,
    HOUR,
    Assumed,
    Projected,
    projected,
    simulated,
)
from transfer_metrics.evidence.layout import Grid, wrapped
from transfer_metrics.ranking.ranges import RANGES

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
        f"places {assumed.models} x {RANGES} of them here, in simulated time. Efficiency is the "
        f"least time that any schedule could take, all work over all workers or the largest model "
        f"({longest:.2f} h with a GPU for each range), over the time taken; failures count against "
        f"it. Where there are few models for each GPU, the last ones are shared by many workers "
        f"that each load them, their ranges cannot be cut further, and more GPUs bring little. A "
        f"model is given up after three deaths on one range; running the command again tries it "
        f"anew."
    )
    return [grid(header, lines), wrapped(note)]
