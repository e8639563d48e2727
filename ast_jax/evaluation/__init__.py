"""Metrics a model on labelled recordings."""
