"""The `ast-jax` command and what all commands share."""
