"""``transfer-metrics extract``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import Records, print_table, suggest, tell
from transfer_metrics.cli.options import (
    add_examples,
    add_extraction,
    add_layers,
    add_output,
    check_place,
    extraction,
    loaded,
    positive,
)
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics extract --model zoo:resnet-cifar10 --task sklearn:digits --out features/
  transfer-metrics extract --model timm:vit_base_patch16_224 --task imagefolder:photos/ \\
      --layers blocks --pool cls --dtype float16 --out features/
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "extract", "write the features of one model to disk", _EXAMPLES, _run)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    add_layers(parser, "blocks", "blocks, activations, *, last")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--shard-size", type=positive, default=1024, metavar="N")
    add_examples(parser)
    add_extraction(parser)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Extract and print what was written, one layer per line."""
    from transfer_metrics.features.extract import extract
    from transfer_metrics.sources.models.load_model import load_model

    options = extraction(args)
    check_place(args.out, folder=True)
    task = loaded(args)
    store = extract(
        load_model(args.model),
        task,
        args.layers,
        options.pop("pool"),
        args.out,
        shard_size=args.shard_size,
        **options,
    )
    records = [{"layer": la.name, "n": len(store), "dim": la.dim} for la in store.layers]
    lines = [f"{r['layer']}\t{r['n']} x {r['dim']}" for r in records]
    print_table(Records(records), args, "\n".join(lines))
    tell(args, f"wrote {args.out}")
    suggest(args, "layers", "--store", args.out)
    return 0
