"""``transfer-metrics rank`` and ``transfer``: many models on one task, and a head of the best."""

from __future__ import annotations

import argparse
import importlib
import threading
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import (
    print_steps,
    print_table,
    require_scores,
    say,
    say_doubts,
    say_failures,
    show,
    suggest,
    suggest_predictions,
    tell,
)
from transfer_metrics.cli.options import (
    add_extraction,
    add_options,
    add_output,
    check_place,
    count,
    given,
    loaded,
    positive,
    ranking,
    seconds_left,
    share,
    task_options,
)
from transfer_metrics.cli.parser import add_verb, write_config

if TYPE_CHECKING:
    from transfer_metrics.results.table import ScoreTable
    from transfer_metrics.sources.models.candidates import Candidate
    from transfer_metrics.sources.tasks.task import Task

_RANK = """\
  transfer-metrics rank --models 'zoo:*' --task sklearn:digits
  transfer-metrics rank --models 'zoo:*' --task zoo:glyphs --metrics 'transrate,knn(k=1)'
  transfer-metrics rank --models 'zoo:cnn-*' --task sklearn:digits --intervals
  transfer-metrics rank --models 'timm:mobilenet*' --task imagefolder:photos/ --budget 0.3 \\
      --time 10m
  transfer-metrics rank --models timm:resnet18,torchvision:resnet50 --task imagefolder:photos/
  transfer-metrics rank --models @models.txt --task imagefolder:photos/
  transfer-metrics rank --models @models.txt --task imagefolder:photos/ --prior earlier.csv
  transfer-metrics rank --models 'zoo:*' --task sklearn:digits --dry-run
  transfer-metrics rank --models 'zoo:*' --task sklearn:digits --engine processes --memory 2GiB
  transfer-metrics rank --config transfer-metrics/run.yaml --intervals
  transfer-metrics rank --models hf:google/vit-base-patch16-224 --task csv:labels.csv --json
"""
_TRANSFER = """\
  transfer-metrics transfer --models 'zoo:*' --task sklearn:digits --out digits/
  transfer-metrics transfer --models 'zoo:*' --task sklearn:digits --dry-run
  transfer-metrics transfer --models @models.txt --task imagefolder:photos/ --out photos-head/ \\
      --check --time 30m
  transfer-metrics transfer --models timm:resnet18,timm:mobilenetv3_small_100 \\
      --task imagefolder:photos/ --out photos-head/ --finetune 2 --device cuda
  transfer-metrics transfer --config digits/run.yaml
"""


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    parser = add_verb(verbs, "rank", "rank pretrained models on one task", _RANK, _run_rank)
    add_options(parser, "models", "task", required=True)
    add_options(parser, "metrics")
    told = "best (the best block stands for the model), blocks, last, or names and patterns, "
    told += "comma-separated (default best)"
    add_options(parser, "layers", default="best", help=told)
    parser.add_argument(
        "--out",
        default="transfer-metrics",
        metavar="FOLDER",
        help="folder for the long table and the plots (default ./transfer-metrics)",
    )
    parser.add_argument("--no-plots", action="store_true", help="write the table only")
    add_options(parser, "plot-format", "cache")
    parser.add_argument(
        "--budget",
        type=share,
        metavar="SHARE",
        help="share of a full ranking to spend, such as 0.3: models race and fall out early",
    )
    add_options(parser, "time", "intervals", "confidence", "evidence", "prior")
    parser.add_argument("--keep-features", action="store_true", help="keep features in the cache")
    parser.add_argument(
        "--engine",
        default="auto",
        help="where to run: auto (default: several processes where that is faster), serial, "
        "processes, ray, or ray:ADDRESS to join a cluster",
    )
    add_options(parser, "workers", help="processes or actors (default one per core)")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="keep statistics only, also where they do not fit into memory together",
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="stream within so much for weights and statistics of all workers, such as 2GiB",
    )
    told = "say what it would take: models, layers, disk, time; compute and write nothing"
    add_options(parser, "dry-run", help=told)
    add_options(parser, "kind", "examples", "seed")
    add_extraction(parser)
    add_output(parser)
    help = "from many models to one trained head: rank, fit the best, choose, test, write"
    parser = add_verb(verbs, "transfer", help, _TRANSFER, _run_transfer)
    add_options(parser, "models", "task", required=True)
    parser.add_argument("--out", metavar="FOLDER", help="folder for the head, the page, the tables")
    add_options(parser, "metrics")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fine-tune the best model too, and LP-FT: slow; see --dry-run",
    )
    parser.add_argument(
        "--finetune", type=count, metavar="N", help="the same of the N best models (--check is 1)"
    )
    add_options(parser, "time")
    parser.add_argument(
        "--most", type=positive, metavar="N", help="fit heads on so many of the shortlist at most"
    )
    add_options(parser, "batch-size", "num-workers")
    parser.add_argument("--engine", default="serial", help="where to rank, as for rank")
    add_options(parser, "workers", "dry-run", "confidence", "evidence", "prior")
    add_options(parser, "kind", "examples", "seed", "cache", "device", "config")
    add_output(parser)


def _run_rank(args: argparse.Namespace) -> int:
    """Rank, print, and write the table, the plots and the options."""
    if args.dry_run:
        return _foretell_ranking(args)
    from pathlib import Path

    from transfer_metrics.files import RESULTS
    from transfer_metrics.fork_server import can_fork, fork_server, fork_server_until_end

    with fork_server_until_end():
        many = any(sign in args.models for sign in (*"*?[,@", "popular:"))
        if can_fork() and (args.engine == "processes" or (args.engine == "auto" and many)):
            fork_server()  # at once, since what it imports takes as long as what follows
        folder = Path(args.out)
        check_place(folder, folder=True, task=args.task, own=RESULTS)
        engine, table = _scored(args)
    from transfer_metrics.results.shortlist import with_chances
    from transfer_metrics.results.wording import listed

    require_scores(table)
    table = with_chances(table, args.confidence)
    written = [folder / "scores.jsonl", folder / "run.yaml"]
    table.save(written[0])
    write_config(args, written[1])
    if not args.no_plots:
        several = table.to_frame().groupby("model")["layer"].nunique().max() > 1
        for kind in ("ranking", "layers") if several else ("ranking",):
            written.append(folder / f"{kind}.{args.plot_format}")
            table.plot.save(kind, written[-1])
    print_table(table, args, table.format(confidence=args.confidence))
    reasons: dict[tuple[str, str], list[str]] = {}
    for failure in table.failures:
        why = (failure["metric"] or "model", failure["error"])
        reasons.setdefault(why, []).append(failure["model"])
    for (what, error), models_of_it in reasons.items():
        say(f"failed: {listed(list(dict.fromkeys(models_of_it)))}: {what}: {error}")
    tell(args, _spent(table, engine))
    tell(args, f"wrote {', '.join(map(str, written))}")
    asked = ("--models", args.models, *task_options(args))
    suggest(args, "transfer", *asked, "--out", "transferred")
    return int(bool(reasons))


def _scored(args: argparse.Namespace) -> tuple[str, ScoreTable]:
    """The engine and the table of the ranking that is asked for."""
    from transfer_metrics.fork_server import end_fork_server
    from transfer_metrics.memory import lasting

    with lasting():
        from transfer_metrics.ranking import rank_models
        from transfer_metrics.ranking.engines import chosen_engine

        models, task = _models_and_task(args)
    engine = chosen_engine(args.engine, models, args.workers, args.device)
    if engine == "serial":
        end_fork_server()
    elif not args.no_plots:  # while workers work
        threading.Thread(target=importlib.import_module, args=("matplotlib.figure",)).start()
    same = given(args, "engine", "workers", "cache", "memory", "keep_features", "budget")
    same |= given(args, "evidence", "prior") | ranking(args)
    stream, time = args.stream or None, seconds_left(args)
    return engine, rank_models(models, task, stream=stream, time=time, **same)


def _spent(table: ScoreTable, engine: str) -> str:
    """One line on what was ranked where, and where the time went when it was computed."""
    from transfer_metrics.results.record import phases
    from transfer_metrics.results.wording import several

    models = {r["model"] for r in table.records if r["value"] is not None}
    parts = [f"{phase} {seconds:.1f} s" for phase, seconds in phases(table).items()]
    where = {"serial": "in one process", "processes": "in several processes"}.get(engine, engine)
    return f"{several(len(models), 'model')} scored; {', '.join([*parts, where])}"


def _foretell_ranking(args: argparse.Namespace) -> int:
    """Print what every model would take; fails where one would."""
    import json
    from dataclasses import asdict

    from transfer_metrics.ranking.engines import chosen_engine
    from transfer_metrics.ranking.forecast import forecast
    from transfer_metrics.ranking.job import features_first

    stream = not features_first(args.stream or None, args.memory, args.keep_features, args.budget)
    models, task = _models_and_task(args)
    engine = chosen_engine(args.engine, models, args.workers, args.device)
    workers = 1 if engine == "serial" else args.workers
    found = forecast(
        models, task, stream=stream, memory=args.memory, workers=workers, **ranking(args)
    )
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        import pandas as pd

        good = [one for one in found if not one.error]
        rows = [
            {
                "model": one.model,
                "params": f"{one.params / 1e6:.2f} M",
                "layers": one.layers,
                "dims": f"{one.dims[0]} to {one.dims[1]}",
                "disk" if one.stored else "memory": f"{one.bytes / 2**20:.1f} MiB",
                "passes": f"{one.readings:g}",
                "forward": f"{one.seconds:.0f} s",
            }
            for one in good
        ]
        frame = pd.DataFrame(rows).fillna("")
        show(frame.to_string(index=False) if rows else "(no models)")
        most = {True: 0.0, False: 0.0}
        for one in good:
            most[one.stored] = max(most[one.stored], one.bytes / 2**20)
        what = {True: "features on disk", False: "statistics in memory for each worker"}
        told = " and ".join(f"{size:.1f} MiB of {what[k]}" for k, size in most.items() if size)
        say(
            f"{len(good)} models, about {sum(one.seconds for one in good):.0f} s of forward "
            f"passes, {told or 'nothing'} at a time, beside the scores and whatever the cache has; "
            f"nothing was computed or written"
        )
    return say_doubts(found)


def _run_transfer(args: argparse.Namespace) -> int:
    """Transfer, print the decision, and write it."""
    from pathlib import Path

    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.files import RESULTS
    from transfer_metrics.heads.estimate import MOST, expected_steps
    from transfer_metrics.heads.transfer import transfer
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS

    common: dict[str, Any] = {
        "finetune": int(args.check) if args.finetune is None else args.finetune,
        "most": args.most or MOST,
        **given(args, "batch_size", "num_workers", "device"),
        "progress": not args.quiet,
    }
    metrics = args.metrics or DEFAULT_METRICS
    if args.dry_run:
        return print_steps(args, *expected_steps(*_models_and_task(args), metrics, **common))
    if args.out is None:
        raise InvalidInputError("--out is missing; name a folder for the head, or add --dry-run")
    folder = Path(args.out)
    check_place(folder, folder=True, task=args.task, own=RESULTS)
    common |= given(args, "confidence", "evidence", "prior", "engine", "workers", "cache")
    found = transfer(
        *_models_and_task(args),
        folder,
        metrics,
        time=seconds_left(args),
        seed=args.seed or 0,
        **common,
    )
    write_config(args, folder / "run.yaml")
    print_table(found.comparison, args, str(found))
    status = say_failures([*found.ranking.failures, *found.comparison.failures])
    tell(args, f"wrote {folder}: report.html, head, scores.jsonl, comparison.jsonl, chosen.json")
    suggest_predictions(args, folder / "head", found.head)
    return status


def _models_and_task(args: argparse.Namespace) -> tuple[list[Candidate], Task]:
    """What ``--models`` and ``--task`` stand for, the first before any data are read."""
    from transfer_metrics.sources.models.candidates import candidates_of

    models = candidates_of(args.models)
    return models, loaded(args)
