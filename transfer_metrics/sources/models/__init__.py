"""Pretrained models: loading them by name, and what a network is."""
