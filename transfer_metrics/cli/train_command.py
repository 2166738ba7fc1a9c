"""``transfer-metrics train``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import print_table, tell
from transfer_metrics.cli.options import (
    add_device,
    add_examples,
    add_output,
    check_place,
    count,
    loaded,
)
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics train --model zoo:resnet-cifar10 --task sklearn:digits --out head/
  transfer-metrics train --model zoo:resnet-cifar10 --task zoo:glyphs \\
      --head 'head2toe(keep=0.05)' --out head/
  transfer-metrics train --model timm:resnet18 --task imagefolder:photos/ \\
      --head 'lpft(lr=1e-4,epochs=10)' --device cuda --out tuned/
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "train a head, or fine-tune, and write it to disk"
    parser = add_verb(verbs, "train", help, _EXAMPLES, _run)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument(
        "--head", default="linear_probe", help="a head with options (see `list heads`)"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the head")
    add_examples(parser, seed=False)
    parser.add_argument("--seed", type=count, default=0)
    add_device(parser)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Fit, write, and print the accuracy on every split that was not fitted on."""
    import shutil
    from pathlib import Path

    from transfer_metrics.heads.base import resolve_head
    from transfer_metrics.heads.data import as_codes
    from transfer_metrics.heads.objective import balanced_accuracy, quality
    from transfer_metrics.ranking import ScoreTable
    from transfer_metrics.sources.tasks.labels import is_long_tailed

    check_place(args.out, folder=True)
    task = loaded(args)
    # Training that was interrupted goes on from here.
    state = Path(f"{args.out.rstrip('/')}.training")
    head = resolve_head(args.head).set_known(
        random_state=args.seed, device=args.device, progress=not args.quiet, checkpoint=state
    )
    head.fit(args.model, task)
    base = {"model": args.model, "task": task.name, "head": head.label, "seed": args.seed}
    base["task_summary"] = task.summary
    tested = [name for name in task.splits if name not in ("train", "val")]
    records: list[dict[str, Any]] = []
    for name in tested:
        logits, truth = head.logits(task, split=name), as_codes(task[name].labels, head.kind_)
        common = {**base, "split": name, "n": len(task[name]), "higher_is_better": True}
        found = {head.measure: quality(head.kind_, logits, truth)}
        if head.kind_ == "classification" and is_long_tailed(truth):
            found["balanced_accuracy"] = balanced_accuracy(logits, truth)
        records += [{**common, "metric": metric, "value": v} for metric, v in found.items()]
    for r in records:
        head.note_test(task.name, r["split"], r["metric"], r["value"], r["n"])
    head.save(args.out)
    shutil.rmtree(state, ignore_errors=True)
    table = ScoreTable(records)
    lines = [
        f"{r['metric'].replace('_', ' ')} on {r['split']}: {r['value']:.4f} ({r['n']} examples)"
        for r in table.records
    ]
    print_table(table, args, "\n".join(lines or ["the task has no split to test on"]))
    tell(args, f"wrote {args.out}")
    return 0
