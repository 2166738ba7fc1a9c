"""Where the time of a ranking went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PHASES = ("load", "forward passes", "statistics", "scores")


def phases(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each phase over all models, as measured when each score was computed.

    Args:
        records: of a long table; ``load_seconds`` and ``extract_seconds`` are those of a model,
            ``seconds`` of one score with its share of the statistics, ``statistics_seconds``.

    Returns:
        Seconds by ``PHASES``; a phase that no record tells of is left out.

    >>> score = {"model": "a", "metric": "knn", "extract_seconds": 2.0, "seconds": 0.5}
    >>> phases([score, {**score, "metric": "lda", "statistics_seconds": 0.25}])
    {'forward passes': 2.0, 'statistics': 0.25, 'scores': 0.75}
    """
    once: dict[tuple[str, Any, Any], float] = {}
    spent: dict[str, float] = {}
    for record in records:
        place = (record["model"], record.get("task"))
        for phase, column in (("load", "load_seconds"), ("forward passes", "extract_seconds")):
            if record.get(column) is not None:
                # Scores that were added later keep the time of their own loading.
                once[phase, *place] = max(record[column], once.get((phase, *place), 0.0))
        shared = record.get("statistics_seconds")
        if shared is not None:
            spent["statistics"] = spent.get("statistics", 0.0) + shared
        if record.get("seconds") is not None:
            own = record["seconds"] - (shared or 0.0)
            spent["scores"] = spent.get("scores", 0.0) + own
    for (phase, *_), seconds in once.items():
        spent[phase] = spent.get(phase, 0.0) + seconds
    return {phase: spent[phase] for phase in PHASES if phase in spent}
