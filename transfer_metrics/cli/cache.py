"""``transfer-metrics cache``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.options import add_verb

EXAMPLES = """\
  transfer-metrics cache
  transfer-metrics cache clear
  transfer-metrics cache clear --only features
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "cache", "show or clear kept scores and features", EXAMPLES, run)
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show")
    parser.add_argument("--only", choices=("scores", "features"))


def run(args: argparse.Namespace) -> int:
    """Show where the cache is and what it holds, or clear it."""
    from transfer_metrics.ranking.cache import ResultCache

    cache = ResultCache()
    if args.action == "clear":
        cache.clear(args.only)
    print(cache.root)
    for part, (files, size) in cache.size().items():
        print(f"{part:<10}{files:>7} files {size / 1e6:>10.1f} MB")
    return 0
