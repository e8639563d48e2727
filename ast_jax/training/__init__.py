"""Training: one step mapped over devices, evaluation, checkpoints and the loop."""
