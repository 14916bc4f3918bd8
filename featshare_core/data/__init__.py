"""Data sets for training and for scoring."""
