"""From a model and a task to one table of features per layer."""
