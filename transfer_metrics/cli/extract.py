"""``transfer-metrics extract``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.options import add_extraction, add_layers, add_verb, extraction

EXAMPLES = """\
  transfer-metrics extract --model zoo:resnet-cifar10 --task sklearn:digits --out features/
  transfer-metrics extract --model timm:vit_base_patch16_224 --task imagefolder:photos/ \\
      --layers blocks --pool cls --dtype float16 --out features/
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "extract", "write the features of one model to disk", EXAMPLES, run)
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    add_layers(parser, "blocks", "blocks, activations, *, last")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--shard-size", type=int, default=1024, metavar="N")
    add_extraction(parser)


def run(args: argparse.Namespace) -> int:
    """Extract and print what was written, one layer per line."""
    from transfer_metrics.features.extract import extract

    options = extraction(args)
    store = extract(
        args.model,
        args.task,
        args.layers,
        options.pop("pool"),
        args.out,
        shard_size=args.shard_size,
        **options,
    )
    for layer in store.layers:
        print(f"{layer.name}\t{len(store)} x {layer.dim}")
    return 0
