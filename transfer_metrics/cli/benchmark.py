"""``transfer-metrics benchmark``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.options import add_verb

EXAMPLES = """\
  transfer-metrics benchmark transrate     TransRate against X'X and the plain listing
  transfer-metrics benchmark extraction    extracting every block against the bare forward pass
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "benchmark", "measure what the documentation quotes", EXAMPLES, run)
    parser.add_argument("which", choices=("extraction", "transrate"))


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its lines."""
    import importlib

    for line in importlib.import_module(f"transfer_metrics.benchmark.{args.which}").run():
        print(line, flush=True)
    return 0
