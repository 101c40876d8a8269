"""Many pipelines under one budget of cores."""
