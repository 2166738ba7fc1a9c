"""Time and memory of rankings against everything that they grow with, and a plan for a cluster.

python -m tests.benchmarks.scaling --quick
python -m tests.benchmarks.scaling --throughput 2000 --price 4 --out docs/scaling.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace

from tests.benchmarks import scaling_table
from tests.benchmarks.command import (
    above_zero,
    add_page,
    bystanders,
    finish,
    parser_of,
    run_module,
    teller,
)
from tests.benchmarks.projection import Assumed
from tests.benchmarks.scaling_case import Case, measured
from tests.benchmarks.scaling_table import AXES, BASE, Row, ScalingTable
from transfer_metrics.cli.parser import Parser

FLAT = (5_000, 20_000, 80_000)
"""Examples against which the memory of the driver is held."""

PARTS = [replace(BASE, examples=n * 128, shard_size=128, warm=False) for n in (16, 64)]
"""Rankings of 16 and of 64 shards, which make 4 and 16 ranges."""

BUDGET = Case(examples=16384, layers=3, classes=16, dim=512, metrics="transrate,gbc,logme")
BUDGETS = ("4GiB", "100MiB", "75MiB")
REAL = Case(model="zoo:resnet-cifar10", examples=1797, warm=False)


def cases(quick: bool = False) -> list[tuple[str, Case]]:
    """All that is measured, each with the part that it belongs to.

    Args:
        quick: a tenth of it, to see that it runs.
    """
    if quick:
        small = replace(BASE, examples=512, dim=16, shard_size=32)
        return [
            *(("examples", replace(small, examples=n)) for n in (256, 512, 1024)),
            ("overhead", replace(small, warm=False)),
            ("overhead", replace(small, engine="processes", workers=2, warm=False)),
            ("driver", replace(small, engine="processes", workers=2)),
            ("memory", replace(small, memory="1GiB")),
        ]
    found = [
        (axis, Case(**{**asdict(BASE), axis: value}))
        for axis, sizes in AXES.items()
        for value in sizes
    ]
    found += [("stored", replace(BASE, stream=False, examples=n)) for n in AXES["examples"]]
    parallel = [(e, w) for e in ("processes", "ray") for w in (1, 2)]
    found += [
        ("driver", replace(BASE, engine=engine, workers=2, examples=n, dim=64))
        for engine in ("processes", "ray")
        for n in FLAT
    ]
    for case in PARTS:
        found += [("overhead", case)]
        found += [("overhead", replace(case, engine=e, workers=w)) for e, w in parallel]
    found += [("memory", replace(BUDGET, memory=m)) for m in BUDGETS]
    found += [("network", REAL), ("network", replace(REAL, engine="processes", workers=2))]
    return found


def measure(
    quick: bool = False, *, tell: Callable[[str], None] = lambda line: None
) -> ScalingTable:
    """Measure everything, each ranking in processes of its own with one thread.

    Args:
        quick: a tenth of it, to see that it runs.
        tell: is told in a line what is being done.

    Raises:
        TransferMetricsError: a ranking failed.

    Cost: about seven minutes on two cores.
    """
    others, rows = bystanders(), []
    for part, case in cases(quick):
        tell(f"{part}: {case}")
        rows.append(Row(part, case, measured(case)))
    return ScalingTable(tuple(rows), others())


def parser() -> Parser:
    """The command's."""
    about = "Time and memory of rankings against what they grow with, and a plan for a cluster."
    found = parser_of("scaling", about, run)
    found.add_argument("--quick", action="store_true", help="a tenth of it, to see that it runs")
    found.add_argument(
        "--throughput",
        type=above_zero,
        default=1000.0,
        metavar="IMAGES",
        help="images a second on one GPU, assumed for the plan (default 1000)",
    )
    found.add_argument(
        "--price",
        type=above_zero,
        default=2.5,
        help="price of an hour of one GPU, assumed for the plan (default 2.5)",
    )
    add_page(found)
    return found


def run(args: argparse.Namespace) -> int:
    """Measure rankings, plan a large one, print the tables, and write the page."""
    assumed = Assumed(throughput=args.throughput, price=args.price)
    table = measure(args.quick, tell=teller(args))
    command = (
        f"python -m tests.benchmarks.scaling{' --quick' if args.quick else ''} "
        f"--throughput {args.throughput:g} --price {args.price:g}"
    )
    finish(
        args,
        table,
        scaling_table.text(table, assumed),
        lambda: scaling_table.markdown(table, command, assumed),
    )
    return 0


if __name__ == "__main__":
    run_module(parser())
