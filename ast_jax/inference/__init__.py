"""From a checkpoint and a sound to labels."""
