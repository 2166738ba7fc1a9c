"""``transfer-metrics predict`` and ``export``: a head that was trained, in use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import print_table, say, tell
from transfer_metrics.cli.options import add_options, add_output, check_place, positive
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head

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
    from transfer_metrics.heads.export import file_logits
    from transfer_metrics.heads.splits import with_test
    from transfer_metrics.sources.tasks.load_task import load_task

    check_place(args.out)
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
        of_file = file_logits(exported, head._source().get(), data.examples)
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
