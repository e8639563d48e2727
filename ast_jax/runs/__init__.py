"""What a run leaves in its folder, and what a person sees of it."""
