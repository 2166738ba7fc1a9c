"""Pictures of a score table."""

from transfer_metrics.report.plots import TablePlots, plot_layers, plot_ranking

__all__ = ["TablePlots", "plot_layers", "plot_ranking"]
