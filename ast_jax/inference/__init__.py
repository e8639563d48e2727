"""Inference: from a checkpoint and a sound to labels."""
