"""``transfer-metrics predict``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import Records, print_table, say, tell
from transfer_metrics.cli.options import add_device, add_output, positive
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head

_EXAMPLES = """\
  transfer-metrics predict --head head/ photos_new/
  transfer-metrics predict --head head/ one.jpg two.png --json
  transfer-metrics predict --head head/ new.csv --csv
  transfer-metrics predict --head head/ 'csv:new.csv?text=review'
  transfer-metrics predict --head texts/ 'a film to see twice'
"""
_MOST_LEFT_OUT = 5


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "what a trained head says of new images, texts or rows: class and probability"
    parser = add_verb(verbs, "predict", help, _EXAMPLES, _run)
    add_head(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a folder of images, an image, a table without labels (csv, tsv, jsonl, parquet), a "
        "file with a text per line, or a text",
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="examples at once")
    add_device(parser)
    add_output(parser)


def add_head(parser: argparse.ArgumentParser) -> None:
    """Add ``--head`` and ``--model``."""
    parser.add_argument("--head", required=True, metavar="FOLDER", help="what `train` wrote")
    parser.add_argument(
        "--model", help="the model that the head belongs to, where its name does not load it"
    )


def read_head(args: argparse.Namespace) -> Head:
    """The head that ``add_head`` stands for, after a line on what it is and how it was tested."""
    from transfer_metrics.heads.base import load_head

    head = load_head(args.head, args.model)
    model = "features" if head.source_ is None else head.source_.name
    card = getattr(head, "card_", {})
    tests = [
        f"{test['metric']} {test['value']:.4f} on {test['n']} examples of {test['task']} "
        f"({test['split']})"
        for test in card.get("tests", [])
    ]
    what = {"classification": f"{len(head.classes_)} classes", "regression": "a regression"}
    told = [what.get(head.kind_, f"{len(head.classes_)} labels"), *tests]
    tell(args, f"{head.label} on {model}, {'; '.join(told)}")
    return head


def _run(args: argparse.Namespace) -> int:
    """Predict, print, and list what could not be read; status 1 if there was any."""
    head = read_head(args)
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
    print_table(Records(records), args, text)
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
