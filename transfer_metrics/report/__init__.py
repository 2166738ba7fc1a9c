"""Pictures of results, and the report as one page."""

from transfer_metrics.report.heat_map import plot_heat_map, task_scores
from transfer_metrics.report.plots import TablePlots, plot_layers, plot_ranking

__all__ = [
    "TablePlots",
    "plot_heat_map",
    "plot_layers",
    "plot_ranking",
    "task_scores",
]
