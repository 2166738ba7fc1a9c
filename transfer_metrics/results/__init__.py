"""What a score is, the table of scores, and what is read from it."""
