"""Where models and tasks come from."""
