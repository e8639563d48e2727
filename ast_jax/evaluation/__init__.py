"""Evaluates checkpoints: predictions, metrics and reports."""
