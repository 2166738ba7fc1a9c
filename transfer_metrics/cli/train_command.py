"""``transfer-metrics train``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import print_table, say, suggest_predictions, tell
from transfer_metrics.cli.options import add_options, add_output, check_place, count, loaded
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head

_EXAMPLES = """\
  transfer-metrics train --model zoo:resnet-cifar10 --task sklearn:digits --out head/
  transfer-metrics train --model zoo:resnet-cifar10 --task zoo:glyphs \\
      --head 'head2toe(keep=0.05)' --out head/
  transfer-metrics train --from transfer-metrics/ --out head/
  transfer-metrics train --model zoo:resnet-cifar10 --task zoo:glyphs --layers blocks.2 --out head/
  transfer-metrics train --features chosen.json --task zoo:glyphs --out head/
  transfer-metrics train --model timm:resnet18 --task imagefolder:photos/ \\
      --head 'lpft(lr=1e-4,epochs=10)' --device cuda --out tuned/
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "train a head, or fine-tune, and write it to disk"
    parser = add_verb(verbs, "train", help, _EXAMPLES, _run)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="what `rank` or `transfer` wrote: its best model, the best layer of that, its task",
    )
    parser.add_argument("--model", help="a model; needed without --from and --features")
    add_options(parser, "task")
    parser.add_argument(
        "--head", help="a head with options (see `list heads`; default linear_probe)"
    )
    told = "what the head reads: names, or a file of scores"
    add_options(parser, "layers", default=None, help=told)
    parser.add_argument(
        "--features",
        metavar="FILE",
        help="what `select --out` wrote: these features, under the head of Head2Toe",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for the head")
    add_options(parser, "kind", "examples")
    parser.add_argument("--seed", type=count, default=0)
    add_options(parser, "device")
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Fit, write, and print the accuracy on every split that was not fitted on."""
    import shutil
    from pathlib import Path

    from transfer_metrics.heads.data import TaskData
    from transfer_metrics.heads.head_files import RECORD
    from transfer_metrics.heads.objective import Outcome, as_codes, doubt
    from transfer_metrics.metrics.base import Estimate
    from transfer_metrics.ranking import ScoreTable
    from transfer_metrics.sources.models.load_model import load_model

    model, head = _asked(args)
    check_place(args.out, folder=True, task=args.task, own=(RECORD,))
    task = loaded(args)
    # Training that was interrupted goes on from here.
    state = Path(f"{args.out.rstrip('/')}.training")
    head.set_known(
        random_state=args.seed, device=args.device, progress=not args.quiet, checkpoint=state
    )
    network = load_model(model)
    head = head.on_layers_of(network.name).fit(network, task)
    base = {"model": network.name, "task": task.name, "head": head.label, "seed": args.seed}
    base["task_summary"] = task.summary
    records: list[dict[str, Any]] = []
    doubts = {}
    for name in task.splits:
        if name in ("train", "val"):
            continue
        logits, truth = head.logits(task, split=name), as_codes(task[name].labels, head.kind_)
        found = Outcome.of(head.kind_, logits, truth, task.classes)
        doubts[name] = found.doubt
        values = {head.measure: found.value, "balanced_accuracy": found.balanced}
        common = {**base, "split": name, "n": len(truth), "higher_is_better": True}
        for metric, value in values.items():
            if value is not None:
                records.append({**common, "metric": metric, "value": value})
                told = found.doubt if metric == head.measure else ""
                head.note_test(task.name, name, metric, value, len(truth), told)
    head.save(args.out)
    shutil.rmtree(state, ignore_errors=True)
    table = ScoreTable(records)
    lines = [
        f"{r['metric'].replace('_', ' ')} on {r['split']}: {r['value']:.4f} ({r['n']} examples)"
        for r in table.records
    ]
    print_table(table, args, "\n".join(lines or ["the task has no split to test on"]))
    if not records and (value := getattr(head, "val_score_", None)) is not None:
        data = TaskData.read(network, task, None, getattr(head, "validation", None), args.seed)
        truth = data.held_codes
        of_classes = head.kind_ == "classification"
        error = Estimate.of_proportion(value, len(truth)).stderr if of_classes else 0.0
        doubts["val"] = doubt(head.kind_, value, error, truth, task.classes)
        tell(args, f"{head.measure} on {len(truth)} examples for validation: {value:.4f}")
    for name, told in doubts.items():
        if told:
            say(f"warning: on {name} the head is {told}")
    tell(args, f"wrote {args.out}")
    suggest_predictions(args, args.out, head)
    return 0


def _asked(args: argparse.Namespace) -> tuple[Any, Head]:
    """The model and the head, from what was found before where it was; sets the task."""
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.heads.base import resolve_head
    from transfer_metrics.heads.head2toe import Head2Toe
    from transfer_metrics.ranking import ScoreTable
    from transfer_metrics.selection.base import Selection, read_results

    found = read_results(args.source or args.features) if args.source or args.features else None
    chosen = read_results(args.features) if args.features else None
    if chosen is not None and not isinstance(chosen, Selection):
        raise InvalidInputError(
            f"{args.features} has scores, not features; give what `select --out` wrote, or "
            f"--from for a table"
        )
    model = args.model or (args.source or args.features if found is not None else None)
    args.task = args.task or (found.chosen_task() if found is not None else None)
    for name, value in (("--model", model), ("--task", args.task)):
        if value is None:
            raise InvalidInputError(f"{name} is missing; give it, or --from a folder of results")
    if chosen is not None and args.layers:
        raise InvalidInputError("--features has its layers already; leave --layers out")
    told = "layers" in (args.head or "")
    partial = chosen is not None and not chosen.is_of_layers
    head = resolve_head(args.head or ("head2toe" if partial else "linear_probe"))
    if chosen is not None:
        head.set_known(layers=list(chosen.layers), **({"pool": chosen.pool} if chosen.pool else {}))
        if isinstance(head, Head2Toe):
            head.set_params(selector=args.features)
        elif partial:
            raise InvalidInputError(
                f"{args.features} has some features of its layers, which head2toe reads and "
                f"{head.name} does not; leave --head out"
            )
    elif args.layers:
        head.set_params(layers=args.layers)
    # Head2Toe chooses among all layers by itself; other heads read what they are given.
    elif isinstance(found, ScoreTable) and not isinstance(head, Head2Toe) and not told:
        head.set_known(layers=args.source)
    return model, head
