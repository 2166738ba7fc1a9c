"""``transfer-metrics transfer``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import (
    print_steps,
    print_table,
    say_failures,
    suggest_predictions,
    tell,
)
from transfer_metrics.cli.options import (
    add_options,
    add_output,
    check_place,
    count,
    loaded,
    positive,
)
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics transfer --models 'zoo:*' --task sklearn:digits --out digits/
  transfer-metrics transfer --models 'zoo:*' --task sklearn:digits --dry-run
  transfer-metrics transfer --models @models.txt --task imagefolder:photos/ --out photos-head/ \\
      --check --time 30m
  transfer-metrics transfer --models timm:resnet18,timm:mobilenetv3_small_100 \\
      --task imagefolder:photos/ --out photos-head/ --finetune 2 --device cuda
  transfer-metrics transfer --config digits/run.yaml
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "from many models to one trained head: rank, fit the best, choose, test, write"
    parser = add_verb(verbs, "transfer", help, _EXAMPLES, _run)
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


def _run(args: argparse.Namespace) -> int:
    """Transfer, print the decision, and write it."""
    from pathlib import Path

    from transfer_metrics.cli.parser import write_config
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.files import RESULTS
    from transfer_metrics.heads.estimate import MOST
    from transfer_metrics.heads.transfer import transfer
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
    from transfer_metrics.sources.models.candidates import candidates_of

    common: dict[str, Any] = {
        "finetune": int(args.check) if args.finetune is None else args.finetune,
        "most": args.most or MOST,
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "device": args.device,
        "progress": not args.quiet,
    }
    metrics = args.metrics or DEFAULT_METRICS
    if args.dry_run:
        return _foretell(args, metrics, common)
    if args.out is None:
        raise InvalidInputError("--out is missing; name a folder for the head, or add --dry-run")
    folder = Path(args.out)
    check_place(folder, folder=True, task=args.task, own=RESULTS)
    models = candidates_of(args.models)
    found = transfer(
        models,
        loaded(args),
        folder,
        metrics,
        time=args.time,
        confidence=args.confidence,
        seed=args.seed or 0,
        evidence=args.evidence,
        prior=args.prior,
        engine=args.engine,
        workers=args.workers,
        cache=args.cache,
        **common,
    )
    write_config(args, folder / "run.yaml")
    print_table(found.comparison, args, str(found))
    status = say_failures([*found.ranking.failures, *found.comparison.failures])
    tell(args, f"wrote {folder}: report.html, head, scores.jsonl, comparison.jsonl, chosen.json")
    suggest_predictions(args, folder / "head", found.head)
    return status


def _foretell(args: argparse.Namespace, metrics: Any, common: dict[str, Any]) -> int:
    """Print what every step would take; fails where a model would."""
    from transfer_metrics.heads.estimate import expected_steps
    from transfer_metrics.sources.models.candidates import candidates_of

    steps, models = expected_steps(candidates_of(args.models), loaded(args), metrics, **common)
    return print_steps(args, steps, models)
