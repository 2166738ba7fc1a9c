"""Measurements that the documentation quotes; each prints ratios taken within one run."""
