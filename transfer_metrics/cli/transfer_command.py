"""``transfer-metrics transfer``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import (
    print_steps,
    print_table,
    say,
    suggest_predictions,
    tell,
)
from transfer_metrics.cli.options import (
    add_cache,
    add_chances,
    add_device,
    add_examples,
    add_output,
    add_time,
    check_place,
    count,
    loaded,
    positive,
)
from transfer_metrics.cli.parser import add_config, add_verb

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
    parser.add_argument("--models", required=True, help="names, patterns, @FILE; with commas")
    parser.add_argument(
        "--task", required=True, help="task: a folder such as photos/, a file, sklearn:digits …"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for the head, the page, the tables")
    parser.add_argument("--metrics", help="metrics, comma-separated; the first one ranks")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fine-tune the best model too, and LP-FT: slow; see --dry-run",
    )
    parser.add_argument(
        "--finetune", type=count, metavar="N", help="the same of the N best models (--check is 1)"
    )
    add_time(parser)
    parser.add_argument(
        "--most", type=positive, metavar="N", help="fit heads on so many of the shortlist at most"
    )
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N")
    parser.add_argument(
        "--num-workers", type=count, default=0, metavar="N", help="loader processes"
    )
    parser.add_argument("--engine", default="serial", help="where to rank, as for rank")
    parser.add_argument("--workers", type=positive, metavar="N", help="processes of that")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would take; compute and write nothing"
    )
    add_chances(parser)
    add_examples(parser)
    add_cache(parser)
    add_device(parser)
    add_config(parser)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Transfer, print the decision, and write it."""
    from pathlib import Path

    from transfer_metrics.cli.parser import write_config
    from transfer_metrics.errors import InvalidInputError
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
    check_place(folder, folder=True)
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
    failures = [*found.ranking.failures, *found.comparison.failures]
    for failure in failures:
        what = failure["head"] or failure["metric"] or "model"
        say(f"failed: {failure['model']}: {what}: {failure['error']}")
    tell(args, f"wrote {folder}: report.html, head, scores.jsonl, comparison.jsonl, chosen.json")
    suggest_predictions(args, folder / "head", found.head)
    return 1 if failures else 0


def _foretell(args: argparse.Namespace, metrics: Any, common: dict[str, Any]) -> int:
    """Print what every step would take; fails where a model would."""
    from transfer_metrics.heads.estimate import expected_steps
    from transfer_metrics.sources.models.candidates import candidates_of

    steps, models = expected_steps(candidates_of(args.models), loaded(args), metrics, **common)
    print_steps(args, steps)
    for one in models:
        if one.error:
            say(f"would fail: {one.model}: {one.error}")
    return 1 if any(one.error for one in models) else 0
