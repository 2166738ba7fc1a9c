"""``transfer-metrics train``, ``predict`` and ``export``: a head that is trained, and in use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import print_table, say, suggest_predictions, tell
from transfer_metrics.cli.options import (
    add_options,
    add_output,
    check_place,
    count,
    loaded,
    positive,
)
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head

_TRAIN = """\
  transfer-metrics train --model zoo:resnet-cifar10 --task sklearn:digits --out head/
  transfer-metrics train --model zoo:resnet-cifar10 --task zoo:glyphs \\
      --head 'head2toe(keep=0.05)' --out head/
  transfer-metrics train --from transfer-metrics/ --out head/
  transfer-metrics train --model zoo:resnet-cifar10 --task zoo:glyphs --layers blocks.2 --out head/
  transfer-metrics train --features chosen.json --task zoo:glyphs --out head/
  transfer-metrics train --model timm:resnet18 --task imagefolder:photos/ \\
      --head 'lpft(lr=1e-4,epochs=10)' --device cuda --out tuned/
"""
_PREDICT = """\
  transfer-metrics predict --head head/ photos_new/
  transfer-metrics predict --head head/ one.jpg two.png --json
  transfer-metrics predict --head head/ new.csv --csv
  transfer-metrics predict --head head/ 'csv:new.csv?text=review'
  transfer-metrics predict --head texts/ 'a film to see twice'
"""
_EXPORT = """\
  transfer-metrics export --head head/ --out digits.onnx --task sklearn:digits
  transfer-metrics export --head head/ --format torch-export --out digits.pt2
"""
_MOST_LEFT_OUT = 5


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    help = "train a head, or fine-tune, and write it to disk"
    parser = add_verb(verbs, "train", help, _TRAIN, _run_train)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PLACE",
        help="what `rank` or `transfer` wrote: its best model, the best layer of that, its task; "
        "of what `select --out` wrote its features, as with --features",
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
    help = "what a trained head says of new images, texts or rows: class and probability"
    parser = add_verb(verbs, "predict", help, _PREDICT, _run_predict)
    _add_head(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a folder of images, an image, a table without labels (csv, tsv, jsonl, parquet), a "
        "file with a text per line, or a text",
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="examples at once")
    add_options(parser, "device")
    add_output(parser)
    help = "write a head with its network as one file that runs without this package"
    parser = add_verb(verbs, "export", help, _EXPORT, _run_export)
    _add_head(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the file, .onnx or .pt2")
    parser.add_argument(
        "--format", choices=("onnx", "torch-export"), help="default: what FILE ends with"
    )
    parser.add_argument("--task", help="compare what head and file say of the test split of a task")
    parser.add_argument("--split", default="test", help="split of the task (default test)")
    add_output(parser)


def _run_train(args: argparse.Namespace) -> int:
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
    place = args.features or args.source
    chosen = read_results(args.features) if args.features else None
    if isinstance(found, Selection) and chosen is None:
        chosen = found
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
        raise InvalidInputError(f"{place} has its layers already; leave --layers out")
    told = "layers" in (args.head or "")
    partial = chosen is not None and not chosen.is_of_layers
    head = resolve_head(args.head or ("head2toe" if partial else "linear_probe"))
    if chosen is not None:
        head.set_known(layers=list(chosen.layers), **({"pool": chosen.pool} if chosen.pool else {}))
        if isinstance(head, Head2Toe):
            head.set_params(selector=place)
        elif partial:
            raise InvalidInputError(
                f"{place} has some features of its layers, which head2toe reads and "
                f"{head.name} does not; leave --head out"
            )
    elif args.layers:
        head.set_params(layers=args.layers)
    # Head2Toe chooses among all layers by itself; other heads read what they are given.
    elif isinstance(found, ScoreTable) and not isinstance(head, Head2Toe) and not told:
        head.set_known(layers=args.source)
    return model, head


def _add_head(parser: argparse.ArgumentParser) -> None:
    """Add ``--head`` and ``--model``."""
    parser.add_argument("--head", required=True, metavar="FOLDER", help="what `train` wrote")
    parser.add_argument(
        "--model", help="the model that the head belongs to, where its name does not load it"
    )


def _read_head(args: argparse.Namespace) -> Head:
    """The head that ``_add_head`` stands for, after a line on what it is and how it was tested."""
    from transfer_metrics.heads.base import load_head

    head = load_head(args.head, args.model)
    model = "features" if head.source_ is None else head.source_.name
    card = getattr(head, "card_", {})
    tests = [
        f"{test['metric']} {test['value']:.4f} on {test['n']} examples of {test['task']} "
        f"({test['split']}){', ' if test.get('doubt') else ''}{test.get('doubt', '')}"
        for test in card.get("tests", [])
    ]
    what = {"classification": f"{len(head.classes_)} classes", "regression": "a regression"}
    known = [what.get(head.kind_, f"{len(head.classes_)} labels"), *tests]
    tell(args, f"{head.label} on {model}, {'; '.join(known)}")
    return head


def _run_predict(args: argparse.Namespace) -> int:
    """Predict, print, and list what could not be read; status 1 if there was any."""
    head = _read_head(args)
    head.set_known(device=args.device)
    if args.batch_size is not None:
        head.set_known(batch_size=args.batch_size)
    inputs = args.inputs if len(args.inputs) > 1 else args.inputs[0]
    table = head.predict_table(inputs, progress=not args.quiet)
    bad = table["error"].notna()
    records: list[dict[str, Any]] = [
        {str(name): None if value != value else value for name, value in record.items()}
        for record in table.to_dict("records")
    ]
    # What is predicted comes first, so that paths of any length stand at the end.
    good = table[~bad].drop(columns="error")
    text = good[[*good.columns[1:], "example"]].to_string(
        index=False, header=False, float_format="{:.4f}".format, justify="left"
    )
    print_table(records, args, text)
    left_out = table.attrs["left_out"]
    for path, reason in left_out[:_MOST_LEFT_OUT]:
        tell(args, f"left out {path} ({reason})")
    if len(left_out) > _MOST_LEFT_OUT:
        tell(args, f"left out {len(left_out) - _MOST_LEFT_OUT} more")
    for record in table[bad].to_dict("records"):
        say(f"not predicted: {record['example']}: {record['error']}")
    if bad.any():
        say(f"{bad.sum()} of {len(table)} could not be read")
    return int(bad.any())


def _run_export(args: argparse.Namespace) -> int:
    """Write, try the file, and print what it takes and gives."""
    from transfer_metrics.heads.export import WRITTEN
    from transfer_metrics.heads.splits import with_test
    from transfer_metrics.sources.tasks.load_task import load_task

    check_place(args.out, own=WRITTEN)
    head = _read_head(args)
    task = None if args.task is None else load_task(args.task)
    if task is not None:
        tell(args, task.summary)
    if task is not None and args.split == "test" and "test" not in task.splits:
        tests = getattr(head, "card_", {}).get("tests", [])
        if any((test["task"], test["split"]) == (task.name, "test") for test in tests):
            task = with_test(task)  # the part that was held out when the head was tested
        else:
            args.split = "train"
            tell(args, f"{task.name} has no split test; checked on the examples of train")
    data = None if task is None else task[args.split]
    exported = head.export(args.out, args.format)
    record: dict[str, Any] = {
        "file": str(exported.path),
        "format": exported.format,
        "bytes": exported.bytes,
        "inputs": exported.inputs,
        "outputs": exported.outputs,
        "difference": exported.difference,
    }
    lines = [
        f"takes {', '.join(f'{name} {what}' for name, what in exported.inputs.items())}",
        f"gives {', '.join(f'{name} {what}' for name, what in exported.outputs.items())}",
        f"logits differ from the network's by {exported.difference:.1e} at most",
    ]
    if task is not None and data is not None:
        of_head = head.logits(task, split=args.split)
        of_file = exported.logits(head._source().get(), data.examples)
        for name, logits in (("head", of_head), ("file", of_file)):
            right = logits.argmax(axis=1) == data.labels
            record[f"accuracy_{name}"] = float(right.mean())
        lines.append(
            f"accuracy on {task.name} ({args.split}, {len(data)} examples): "
            f"{record['accuracy_head']:.4f} of the head, {record['accuracy_file']:.4f} of the file"
        )
    print_table([record], args, "\n".join(lines))
    tell(args, f"wrote {exported.path} ({exported.bytes:,} bytes)")
    return 0
