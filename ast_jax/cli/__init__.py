"""The `ast-jax` command: one module per subcommand."""
