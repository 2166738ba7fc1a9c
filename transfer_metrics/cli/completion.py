"""Completion scripts for shells."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class PrintCompletion(argparse.Action):
    """Print the completion script of the whole parser for a shell, and stop.

    Raises:
        MissingDependencyError: shtab is not installed.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See ``argparse.Action``."""
        from transfer_metrics.sources.optional import require

        shtab = require("shtab", "completion in a shell", install="shtab")
        print(shtab.complete(parser, str(values)))
        parser.exit()
