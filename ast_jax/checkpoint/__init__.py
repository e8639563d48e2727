"""Checkpoints: our folders, and those of PyTorch in and out."""
