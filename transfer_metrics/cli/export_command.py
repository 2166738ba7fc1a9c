"""``transfer-metrics export``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import Records, print_table, tell
from transfer_metrics.cli.options import add_output, check_place
from transfer_metrics.cli.parser import add_verb
from transfer_metrics.cli.predict_command import add_head, read_head

_EXAMPLES = """\
  transfer-metrics export --head head/ --out digits.onnx --task sklearn:digits
  transfer-metrics export --head head/ --format torch-export --out digits.pt2
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "write a head with its network as one file that runs without this package"
    parser = add_verb(verbs, "export", help, _EXAMPLES, _run)
    add_head(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="the file, .onnx or .pt2")
    parser.add_argument(
        "--format", choices=("onnx", "torch-export"), help="default: what FILE ends with"
    )
    parser.add_argument("--task", help="compare what head and file say of the test split of a task")
    parser.add_argument("--split", default="test", help="split of the task (default test)")
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Write, try the file, and print what it takes and gives."""
    from transfer_metrics.cli.options import told
    from transfer_metrics.heads.export import file_logits
    from transfer_metrics.sources.tasks.load_task import load_task

    check_place(args.out)
    head = read_head(args)
    task = None if args.task is None else told(load_task(args.task), args)
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
            right = head.classes_[logits.argmax(axis=1)] == data.labels
            record[f"accuracy_{name}"] = float(right.mean())
        lines.append(
            f"accuracy on {task.name} ({args.split}, {len(data)} examples): "
            f"{record['accuracy_head']:.4f} of the head, {record['accuracy_file']:.4f} of the file"
        )
    print_table(Records([record]), args, "\n".join(lines))
    tell(args, f"wrote {exported.path} ({exported.bytes:,} bytes)")
    return 0
