"""``python -m tests.benchmarks.race``: a race of real networks against the full pass, by the clock.

The ImageNet networks of the reference zoo, each at eight sizes of its input, are candidates whose
passes differ in cost by some thirty times, ranked for a thousand photos of flowers: once in full
and once raced, each with a cache of its own.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import transfer_metrics as tm
from tests.benchmarks.command import bystanders, parser_of, run_module
from tests.plain_networks import shared_models, sized
from transfer_metrics.cli.console import print_table, tell
from transfer_metrics.cli.options import add_output

MOST = 1 / 3
"""What a race may take of the time of the full ranking."""
SIZES = (64, 80, 96, 112, 128, 160, 192, 224)
OTHERS = ("cifar10", "cats", "mnist", "fashion", "quickdraw")
"""Beginnings of the names of those that read nothing but small images."""
TASK = "datasets/flowers5.npz"


def candidates(folder: Path) -> list[str]:
    """Every network of photographs at every size."""
    found = shared_models(folder / "models")
    return [sized(spec, s) for name, spec in found.items() if not name.startswith(OTHERS)
            for s in SIZES]  # fmt: skip


def measured(
    models: list[str], task: str, metric: str, budget: float | None
) -> tuple[tm.ScoreTable, dict[str, float]]:
    """A ranking with an empty cache, and its seconds by the clock and of all processors."""
    with TemporaryDirectory() as cache:
        began, spent = time.perf_counter(), sum(os.times()[:4])
        table = tm.rank_models(
            models, task, metric, layers="last", cache_dir=cache, budget=budget, progress=False
        )
        clock, spent = time.perf_counter() - began, sum(os.times()[:4]) - spent
    if table.failures:
        raise RuntimeError(str(table.failures))
    return table, {"clock": clock, "processors": spent}


def _line(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in seconds.items())


def run(args: argparse.Namespace) -> int:
    """Rank in full and raced, and print what both took and found."""
    folder = Path(args.folder)
    models, task = candidates(folder), f"npz:{folder / TASK}"
    found, tables = {}, {}
    others = bystanders()
    for name, budget in (("full", None), ("race", args.budget)):
        tables[name], found[name] = measured(models, task, args.metric, budget)
        tell(args, f"{name}: {_line(found[name])}")
    found["race / full"] = {k: found["race"][k] / found["full"][k] for k in found["full"]}
    full, race = (tables[n].ranking(args.metric).set_index("model") for n in ("full", "race"))
    best, ratio = race.index[0], found["race / full"]["clock"]
    lines = [
        *(f"{name:<12}{_line(own)}" for name, own in found.items()),
        f"race / full by the clock {ratio:.3f} (at most {MOST:.3f})",
        f"{len(models)} networks, {full['n'].max()} photos, {args.metric}, budget {args.budget}",
        f"best of the race: {best}, rank {int(full['rank'][best])} of the full ranking, "
        f"{full['score'].iloc[0] - full['score'][best]:.4f} behind the best",
        f"{int((race['n'] == race['n'].max()).sum())} networks saw all photos",
        f"others took of the cores: {others() or 0:.0%}",
    ]
    records = [{"ranking": name, **own} for name, own in found.items()]
    print_table(records, args, "\n".join(lines))
    return 0


def main() -> None:
    """Run the command of this process."""
    parser = parser_of("race", __doc__ or "", run)
    parser.add_argument("folder", help="of the reference zoo, with models/ and datasets/")
    parser.add_argument("--budget", type=float, default=0.3, help="of the race (default: 0.3)")
    parser.add_argument("--metric", default="knn", help="that ranks (default: knn)")
    add_output(parser)
    run_module(parser)


if __name__ == "__main__":
    main()
