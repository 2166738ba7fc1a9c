"""Progress on stderr."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from transfer_metrics.untrusted import visible


def progress_bar(desc: str, total: int, shown: bool, **options: Any) -> tqdm:
    """A bar on stderr that vanishes when it is done; where stderr is a file, a line now and then.

    >>> with progress_bar("nothing", 1, shown=False) as bar:
    ...     bar.update()
    """
    return tqdm(
        desc=visible(desc),
        total=total,
        disable=not shown,
        file=sys.stderr,
        leave=False,
        mininterval=0.1 if sys.stderr.isatty() else 30.0,
        **options,
    )
