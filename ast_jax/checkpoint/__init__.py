"""Checkpoints: the format of ast_jax, and PyTorch checkpoints read and written."""
