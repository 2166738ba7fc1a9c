"""The report of a ranking as one page."""
