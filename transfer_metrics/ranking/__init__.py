"""From statistics to scores, and from scores to a ranking."""

from transfer_metrics.ranking.rank import rank_models
from transfer_metrics.ranking.score import score, score_layers
from transfer_metrics.results.table import ScoreTable

__all__ = ["ScoreTable", "rank_models", "score", "score_layers"]
