"""``transfer-metrics cache``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import Records, print_table
from transfer_metrics.cli.options import add_output
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics cache
  transfer-metrics cache clear
  transfer-metrics cache clear --only features
  transfer-metrics cache clear --only training
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "show or clear kept scores, features, statistics, pixels and interrupted training"
    parser = add_verb(verbs, "cache", help, _EXAMPLES, _run)
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show")
    parser.add_argument(
        "--only",
        choices=("scores", "features", "statistics", "pixels", "training"),
        help="with clear: of what (training: of `compare`, interrupted)",
    )
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Show where the cache is and what it holds, or clear it."""
    from transfer_metrics.ranking.cache import ResultCache

    cache = ResultCache()
    if args.action == "clear":
        cache.clear(args.only)
    records: list[dict[str, Any]] = []
    lines = [str(cache.root)]
    for part, (files, size) in cache.size().items():
        records.append({"part": part, "files": files, "bytes": size, "folder": str(cache.root)})
        lines.append(f"{part:<10}{files:>7} files {size / 1e6:>10.1f} MB")
    print_table(Records(records), args, "\n".join(lines))
    return 0
