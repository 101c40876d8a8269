"""Following a pipeline as it changes."""
