"""Frozen, mergeable summaries of features: all that a metric needs to see of the data."""

from transfer_metrics.statistics.joint import SourceJoint
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.moments import ClassMoments, ClassRows
from transfer_metrics.statistics.sample import FeatureSample
from transfer_metrics.statistics.targets import TargetMoments

__all__ = ["ClassMoments", "ClassRows", "FeatureSample", "Scatter", "SourceJoint", "TargetMoments"]
