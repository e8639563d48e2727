"""The interfaces that other packages ask of a model of sounds."""
