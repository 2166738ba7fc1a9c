"""Labelled data: loading them by name, and what a task is."""
