"""Measurements that pages of docs/ quote; each prints ratios taken within one run."""
